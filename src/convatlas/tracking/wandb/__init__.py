"""Weights & Biases: a process that publishes the record of a run, artifacts, media, saved views."""
