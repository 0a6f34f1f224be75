"""The LightningModule of semantic segmentation, its predictions and its test protocols."""
