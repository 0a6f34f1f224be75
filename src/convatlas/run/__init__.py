"""What a run is: identity, directory, checkpoints, provenance."""
