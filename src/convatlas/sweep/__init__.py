"""Hyper-parameter search: independent workers share the trials through a storage, and each trial is an ordinary run."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
