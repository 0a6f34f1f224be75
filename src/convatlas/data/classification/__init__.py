"""Data sets, loading and the LightningDataModule of image classification."""
