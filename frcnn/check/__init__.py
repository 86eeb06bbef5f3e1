"""Looking at a data set before it is trained on: what is wrong in it, what is in it, and how the anchors fit."""
