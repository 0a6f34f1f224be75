"""ConvAtlas: distributed training and experiment tracking for convolutional networks."""
