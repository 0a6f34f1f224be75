"""Read files of tensors without executing anything in them."""

import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from convatlas.errors import UserError
from convatlas.utils.nesting import is_nested_too_deeply

FOLDER = 0x10
"""The attribute of a folder in an archive's list of records."""


def read_torch_file(path: Path, key: str, *, mmap: bool = False) -> Any:
    """Read a ``.safetensors`` file, or one that ``torch.load(weights_only=True)`` accepts, onto the CPU.

    The checksums of a torch file's archive are compared first, as PyTorch does not do so itself. Files in PyTorch's
    format from before version 1.6, and ``.safetensors`` files, hold no checksums.

    Args:
        path: The file.
        key: The configuration key that named it, for messages.
        mmap: Keep the tensors of a torch file on the disk until they are used.

    Raises:
        UserError: No such file, truncated, damaged, or not a file of tensors.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if zipfile.is_zipfile(path):
            _check_archive(path, key)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UserError:
        raise
    except Exception as error:  # whatever the bytes of a broken file lead the unpickler to
        raise UserError(f"{key}={path}: truncated or not a file of tensors ({type(error).__name__})") from error
    if is_nested_too_deeply(content):
        raise UserError(f"{key}={path}: its containers are nested deeper than those of any checkpoint")
    return content


def _check_archive(path: Path, key: str) -> None:
    """Compare the CRC-32 of every record of a torch file with the stored one."""
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            # PyTorch leaves a tensor uninitialised whose record has the attribute of a folder.
            if record.compress_type != zipfile.ZIP_STORED or record.external_attr & FOLDER:
                raise UserError(f"{key}={path}: {record.filename} is damaged, or torch.save has not written it")
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"{key}={path}: damaged: the checksum of {damaged} does not fit its content")
