"""The record of a run: the local file is the truth, W&B is a mirror."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
