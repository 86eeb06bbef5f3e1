"""Drawing: boxes on images (Pillow) and plots (Matplotlib)."""
