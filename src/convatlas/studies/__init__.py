"""Designed comparisons: arms on the same seeds, one question, one metric."""
