"""Data sets, loading and the LightningDataModule of semantic segmentation."""
