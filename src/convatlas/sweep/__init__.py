"""Searching for hyper-parameters: trials, each an ordinary run, that independent workers share out by a storage."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
