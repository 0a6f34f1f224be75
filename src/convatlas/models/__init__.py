"""Architectures as plain ``torch.nn.Module``s, one file each; they know nothing of Lightning."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
