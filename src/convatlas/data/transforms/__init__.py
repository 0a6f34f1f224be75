"""Augmentation of images, on the CPU and on the device."""
