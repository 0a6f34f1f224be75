"""The record of a run: the local file is the truth, W&B is a mirror."""
