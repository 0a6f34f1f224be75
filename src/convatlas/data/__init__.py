"""Images to device batches: class lists, sample sources, augmentation, loader, LightningDataModules."""

from convatlas.config.public_names import public_attributes

__getattr__ = public_attributes(__name__)
