"""Checks of a dataset before training: errors in annotations and images, statistics, and the fit of the anchors."""
