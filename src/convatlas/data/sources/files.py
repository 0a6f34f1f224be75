"""Find image files by a name without suffix or with a wrong one."""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from convatlas.data.images.decode import IMAGE_SUFFIXES
from convatlas.errors import UserError


class ImageFiles:
    """The image files of a folder, by their names without suffix.

    Args:
        folder: The folder; names may lead into folders below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed = cache(self._list)

    def named(self, name: str) -> list[str]:
        """Find the images with a name, whatever their suffix and its case.

        Args:
            name: The path in the folder, without suffix.

        Returns:
            Their paths in the folder, sorted.

        Raises:
            UserError: The folder cannot be read.
        """
        parent, slash, stem = name.rpartition("/")
        return [f"{parent}{slash}{file}" for file in self._listed(parent).get(stem, ())]

    def _list(self, parent: str) -> dict[str, list[str]]:
        folder = self.folder / parent
        try:
            files = sorted(os.listdir(folder))  # noqa: PTH208  names, without a Path for each
        except OSError as error:
            raise UserError(f"{folder}: cannot be read ({error.strerror}); expected the images") from error
        by_stem: dict[str, list[str]] = {}
        for file in files:
            stem, suffix = os.path.splitext(file)  # noqa: PTH122
            if suffix.lower() in IMAGE_SUFFIXES:
                by_stem.setdefault(stem, []).append(file)
        return by_stem


def several_images(listed: Path, name: str, images: ImageFiles, found: Sequence[str]) -> UserError:
    """The error for a name that several files have.

    Args:
        listed: The file that has the name.
        name: The name.
        images: The folder.
        found: The files.
    """
    return UserError(f"{listed}: the image {name} may be {' or '.join(found)} in {images.folder}; expected one of them")


def without_suffix(file: str) -> str:
    """A file's name without the suffix of an image format; another suffix, or what looks like one, is kept."""
    stem, suffix = os.path.splitext(file)  # noqa: PTH122
    return stem if suffix.lower() in IMAGE_SUFFIXES else file


def leads_out(path: str) -> bool:
    """Check whether a path from a file would lead out of the folder that it is to lie in."""
    return path.startswith("/") or ".." in path.split("/")


def file_name(path: str) -> str:
    """The last part of a path that was written on any system: after the last slash or backslash."""
    return path.replace("\\", "/").rpartition("/")[2].strip()
