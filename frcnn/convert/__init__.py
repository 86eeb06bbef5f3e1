"""Other programs' checkpoints to ours, and ours to torchvision's."""
