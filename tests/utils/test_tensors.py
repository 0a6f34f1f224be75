"""A damaged file of tensors is never taken for a whole one."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from convatlas.errors import UserError
from convatlas.utils.tensors import read_torch_file

CONTENT: dict[str, Any] = {"w": torch.arange(30.0), "step": torch.tensor(7), "config": {"name": "net"}}


@pytest.mark.parametrize("bit", [0, 4, 7])
def test_one_flipped_bit_anywhere_is_found_or_has_no_effect(bit: int, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(CONTENT, path)
    whole = path.read_bytes()
    found = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            read = read_torch_file(path, "checkpoint")
        except UserError:
            found += 1
        else:
            assert torch.equal(read["w"], CONTENT["w"])
            assert torch.equal(read["step"], CONTENT["step"])
            assert read["config"] == CONTENT["config"]
    assert found > 500


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(CONTENT, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_torch_file(path, "checkpoint")


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10_000_000))
    with pytest.raises(UserError, match="is damaged, or torch"):
        read_torch_file(path, "checkpoint")


def test_containers_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {"w": torch.ones(1)}
    content["again"] = [content]
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="nested deeper"):
        read_torch_file(tmp_path / "x.ckpt", "checkpoint")
