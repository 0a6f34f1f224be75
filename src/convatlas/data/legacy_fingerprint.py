"""Placeholder."""

from convatlas.data.image_data import ImageDataModule


def legacy_fingerprint(data: ImageDataModule) -> str:
    """Placeholder."""
    return data.fingerprint
