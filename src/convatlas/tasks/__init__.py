"""LightningModules, one per task type: loss, metrics and optimizer around a network."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
