"""The local record of a run, and its mirrors."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
