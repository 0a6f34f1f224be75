"""The callbacks of a training."""
