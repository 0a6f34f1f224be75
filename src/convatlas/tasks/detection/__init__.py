"""The LightningModule of object detection, its predictions and average precision."""
