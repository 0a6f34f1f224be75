"""Data sets, loading and the LightningDataModule of object detection."""
