"""What cameras, scanners and broken downloads leave in a folder."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from convatlas.data.decode import decode, decode_file
from convatlas.errors import UserError

SMOOTH = (np.add.outer(np.arange(24), np.arange(32)) * 4).astype(np.uint8)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(content: bytes, channels: int = 3) -> NDArray[np.int64]:
    return decode(content, channels, "x").permute(1, 2, 0).numpy().astype(np.int64)


def rgb() -> Image.Image:
    return Image.fromarray(np.stack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1]], axis=-1))


@pytest.mark.parametrize(("format", "tolerance"), [("PNG", 0), ("WEBP", 12), ("BMP", 0), ("JPEG", 4)])
def test_formats_decode_as_pillow_has_them(format: str, tolerance: int) -> None:
    content = encoded(rgb(), format)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.int64)
    assert np.abs(pixels(content) - expected).max() <= tolerance


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_greyscale_becomes_colour_and_colour_greyscale(format: str) -> None:
    grey = pixels(encoded(Image.fromarray(SMOOTH), format))
    assert grey.shape == (24, 32, 3)
    assert np.abs(grey - SMOOTH[..., None]).max() <= 3
    assert decode(encoded(rgb(), format), 1, "x").shape == (1, 24, 32)


def test_cmyk_has_the_colours_of_pillow() -> None:
    content = encoded(rgb().convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.int64)
    assert np.abs(pixels(content) - expected).max() <= 2


def test_sixteen_bits_keep_their_upper_eight() -> None:
    deep = SMOOTH.astype(np.uint16) * 257
    content = encoded(Image.fromarray(deep), "PNG")
    assert np.array_equal(pixels(content, 1)[..., 0], SMOOTH)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(rgb(), format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")).astype(np.int64)
    found = pixels(content)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 4


def test_a_png_named_jpg_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(rgb(), "PNG"))
    assert np.array_equal(decode_file(path, 3).permute(1, 2, 0).numpy(), np.asarray(rgb()))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_truncated_image_is_named(format: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    content = encoded(Image.fromarray(noise), format)
    path = tmp_path / "broken.jpg"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"broken\.jpg: (truncated|image)"):
        decode_file(path, 3)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(content: bytes) -> None:
    with pytest.raises(UserError, match="photo"):
        decode(content, 3, "photo")


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(UserError, match="bomb"):
        decode(bomb, 3, "bomb.png")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"/nowhere\.jpg: cannot be read"):
        decode_file(Path("/nowhere.jpg"), 3)


def test_the_result_is_uint8_and_contiguous() -> None:
    image = decode(encoded(rgb(), "PNG"), 3, "x")
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
