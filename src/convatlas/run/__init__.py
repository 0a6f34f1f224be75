"""What a run is: identity, directory, checkpoints, provenance."""

from convatlas.public_names import public_attributes

__getattr__ = public_attributes(__name__)
