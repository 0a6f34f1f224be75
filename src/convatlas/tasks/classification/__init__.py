"""The LightningModule of image classification, its predictions and its test protocols."""
