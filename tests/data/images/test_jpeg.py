"""JPEGs decoded no further than a crop needs are the same pixels."""

import contextlib
import io

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from convatlas.data.images.decode import ImageError, open_picture
from convatlas.data.images.jpeg import JpegPicture, open_jpeg
from convatlas.data.transforms.image import RandomResizedCrop


def photograph(height: int, width: int, period: int = 16) -> Image.Image:
    """Colours that change every ``period`` pixels, with some noise: structure for every step of the decoder."""
    generator = np.random.default_rng(0)
    shape = (height // period + 2, width // period + 2, 3)
    small = Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    return Image.fromarray(np.clip(pixels + generator.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    if "colorsubsampling" in options:  # Pillow knows fewer
        encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90, **options)
        return encoded
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def torchvisions(encoded: bytes, mode: ImageReadMode = ImageReadMode.RGB) -> torch.Tensor:
    decoded: torch.Tensor = decode_jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), mode)
    return decoded


KINDS: dict[str, dict[str, object]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "4:1:1": {"colorsubsampling": "411"},
    "4:4:0": {"colorsubsampling": "440"},
    "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_an_image_has_the_pixels_of_the_whole(kind: str) -> None:
    encoded = jpeg(photograph(101, 83), **KINDS[kind])
    whole = torchvisions(encoded)
    picture = open_picture(encoded, 3, "x")
    assert isinstance(picture.stored, JpegPicture)
    assert torch.equal(picture.pixels(), whole)
    for bottom in range(1, 102):
        part = picture.region(max(0, bottom - 20), 5, min(20, bottom), 70, size=224)
        assert torch.equal(part, whole[:, max(0, bottom - 20) : bottom, 5:75])


@pytest.mark.parametrize("samplings", [b"\x31\x11\x11", b"\x42\x11\x11", b"\x22\x21\x11", b"\x22\x21\x21"])
def test_samplings_that_turbojpeg_does_not_know_are_pillows(samplings: bytes) -> None:
    encoded = bytearray(jpeg(photograph(40, 30), subsampling=0))
    picture = open_jpeg(bytes(encoded), 3)
    assert picture is not None
    for component, sampling in enumerate(samplings):
        encoded[picture.frame + 6 + 3 * component] = sampling
    assert open_jpeg(bytes(encoded), 3) is None


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_colours_and_greys_are_torchvisions(mode: str, in_channels: int) -> None:
    encoded = jpeg(photograph(60, 50).convert(mode))
    read = ImageReadMode.RGB if in_channels == 3 else ImageReadMode.GRAY
    assert torch.equal(
        open_picture(encoded, in_channels, "x").region(3, 2, 40, 30, 224), torchvisions(encoded, read)[:, 3:43, 2:32]
    )


@pytest.mark.parametrize(("side", "factor"), [(895, 1), (896, 2), (1791, 2), (1792, 4)])
def test_a_part_with_plenty_of_pixels_is_decoded_at_a_reduced_size(side: int, factor: int) -> None:
    picture = open_picture(jpeg(photograph(1900, 1850)), 3, "x")
    part = picture.region(8, 16, side, side, size=224)
    assert part.shape == (3, -(-(8 + side) // factor) - 8 // factor, -(-(16 + side) // factor) - 16 // factor)


def test_a_reduced_crop_looks_like_pillows() -> None:
    image = photograph(2000, 3000, period=64)
    encoded = jpeg(image)
    picture, crop = open_picture(encoded, 3, "x"), RandomResizedCrop(scale=(0.3, 1.0))
    decoded = Image.open(io.BytesIO(encoded))
    for seed in range(5):
        out = torch.empty((1, 3, 224, 224), dtype=torch.uint8, memory_format=torch.channels_last)[0]
        crop(picture, np.random.default_rng(seed), out)
        top, left, height, width = crop.box(2000, 3000, np.random.default_rng(seed))
        box = (left, top, left + width, top + height)
        expected: NDArray[np.uint8] = np.asarray(decoded.crop(box).resize((224, 224), Image.Resampling.BILINEAR))
        assert np.abs(out.permute(1, 2, 0).numpy().astype(int) - expected).mean() <= 1.5


def test_metadata_does_not_hide_the_frame() -> None:
    encoded = jpeg(
        photograph(40, 30), icc_profile=bytes(range(256)) * 600, comment=b"\xff\xc0 is a frame", dpi=(72, 72)
    )
    padded = encoded[:2] + b"\xff" * 5 + encoded[2:]  # fill bytes before a marker are allowed
    picture = open_jpeg(padded, 3)
    assert picture is not None
    assert (picture.height, picture.width) == (40, 30)
    assert torch.equal(picture.pixels(), torchvisions(encoded))


def test_a_damaged_exif_segment_leaves_the_pixels_as_they_are() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = bytearray(jpeg(photograph(40, 30), exif=exif))
    start = encoded.index(b"Exif\0\0") + 6
    encoded[start : start + 8] = b"\xff" * 8
    picture = open_picture(bytes(encoded), 3, "x")
    assert (picture.height, picture.width) == (40, 30)


def test_a_jpeg_bomb_is_refused_by_its_header() -> None:
    encoded = bytearray(jpeg(photograph(40, 30)))
    picture = open_jpeg(bytes(encoded), 3)
    assert picture is not None
    encoded[picture.frame : picture.frame + 4] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match="bomb") as caught:
        open_picture(bytes(encoded), 3, "x")
    assert caught.value.fault == "bomb"


def test_a_damaged_header_is_an_error_of_the_image_or_decodes() -> None:
    encoded = jpeg(photograph(40, 30))
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(encoded)
        damaged[generator.integers(2, 700)] = generator.integers(256)
        with contextlib.suppress(ImageError):
            picture = open_picture(bytes(damaged), 3, "x")
            assert picture.region(0, 0, 8, 8, 224).shape == (3, 8, 8)
