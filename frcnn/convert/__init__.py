"""Convert checkpoints of other programs to ours, and ours to torchvision's."""
