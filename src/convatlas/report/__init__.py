"""Reports: pages and tables made from the record of runs."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
