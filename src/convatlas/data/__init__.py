"""Images to device batches: class lists, sample sources, augmentation, loader, LightningDataModules."""
