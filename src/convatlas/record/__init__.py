"""The record of a run: its directory, identity, lock, provenance and metrics, and the readers of them."""
