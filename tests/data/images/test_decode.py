"""What cameras, scanners and broken downloads leave in a folder."""

import contextlib
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from convatlas.data.images.decode import decode, decode_file
from convatlas.data.tools.verify import content_findings
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


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(rgb(), format, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")).astype(np.int64)
    found = pixels(content)
    assert found.shape == expected.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))
    assert np.abs(found - expected).max() <= 4
    told = [] if orientation == 1 else [("exif_rotated", f"orientation {orientation}")]
    assert content_findings(content, "x") == told


def test_jpegs_that_pillow_decodes_are_turned_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(rgb().convert("CMYK"), "JPEG", exif=exif)
    assert pixels(content).shape == (32, 24, 3)
    assert ("exif_rotated", "orientation 6") in content_findings(content, "x")


@pytest.mark.parametrize("chunk", ["tEXt", "zTXt", "iTXt", "APP1", "eXIf behind the pixels"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_every_place_of_exif_data_in_a_png_counts(chunk: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = exif.tobytes()
    digits = "\n".join(data.hex()[start : start + 72] for start in range(0, 2 * len(data), 72))
    key = "APP1" if chunk == "APP1" else "exif"
    text = f"\n{key}\n{len(data):8}\n{digits}\n"
    info = PngInfo()
    if chunk == "iTXt":
        info.add_itxt(f"Raw profile type {key}", text)
    elif chunk != "eXIf behind the pixels":
        info.add_text(f"Raw profile type {key}", text, zip=chunk == "zTXt")
    content = encoded(rgb(), "PNG", pnginfo=info)
    if chunk == "eXIf behind the pixels":
        named = b"eXIf" + data.removeprefix(b"Exif\0\0")
        last = (len(named) - 4).to_bytes(4, "big") + named + zlib.crc32(named).to_bytes(4, "big")
        content = content[:-12] + last + content[-12:]
    quarters = {1: 0, 3: 2, 6: -1}[orientation]
    assert np.array_equal(pixels(content), np.rot90(np.asarray(rgb()), quarters))
    told = [] if orientation == 1 else [("exif_rotated", f"orientation {orientation}")]
    assert content_findings(content, "x") == told


@pytest.mark.parametrize("text", ["", "\nexif\n", "\nexif\n  8\nnot digits\n", "\nexif\n  8\n4d4d002a000000080001\n"])
def test_a_damaged_profile_leaves_the_pixels_as_they_are_stored(text: str) -> None:
    info = PngInfo()
    info.add_text("Raw profile type exif", text, zip=True)
    assert np.array_equal(pixels(encoded(rgb(), "PNG", pnginfo=info)), np.asarray(rgb()))


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
    with pytest.raises(UserError, match=r"broken\.jpg: truncated"):
        decode_file(path, 3)


def test_a_truncated_image_is_found_behind_the_end_of_its_thumbnail() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    content = encoded(Image.fromarray(noise), "JPEG")
    thumbnail = b"Exif\0\0MM\0*\0\0\0\x08" + bytes(6) + encoded(Image.fromarray(noise[:16, :16]), "JPEG")
    whole = content[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + content[2:]
    assert np.array_equal(pixels(whole), pixels(content))
    with pytest.raises(UserError, match="truncated"):
        decode(whole[:-2000], 3, "x")


def test_a_photograph_with_a_video_behind_it_is_a_photograph() -> None:
    content = encoded(rgb(), "JPEG")
    assert np.abs(pixels(content + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40) - pixels(content)).max() <= 2


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damage_is_an_error_of_the_image_and_of_nothing_else(format: str) -> None:
    generator = np.random.default_rng(0)
    content = encoded(rgb(), format)
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[generator.integers(2, len(damaged))] = generator.integers(256)
        with contextlib.suppress(UserError):
            decode(bytes(damaged), 3, "x")


def test_a_png_whose_data_cannot_be_inflated_is_named() -> None:
    content = bytearray(encoded(rgb(), "PNG"))
    start = content.index(b"IDAT") + 4
    length = int.from_bytes(content[start - 8 : start - 4], "big")
    content[start + 2 : start + length] = bytes(length - 2)
    content[start + length : start + length + 4] = zlib.crc32(content[start - 4 : start + length]).to_bytes(4, "big")
    with pytest.raises(UserError, match=r"x: truncated or damaged"):
        decode(bytes(content), 3, "x")


@pytest.mark.parametrize("pixel", [np.float32, np.int32])
def test_pixels_of_32_bits_are_refused(pixel: type[np.generic]) -> None:
    with pytest.raises(UserError, match="expected 8 or 16 bits"):
        decode(encoded(Image.fromarray(SMOOTH.astype(pixel)), "TIFF"), 1, "x")


def test_only_the_formats_of_images_are_tried() -> None:
    with pytest.raises(UserError, match="drawing: not an image; expected one of JPEG"):
        decode(encoded(rgb(), "EPS"), 3, "drawing")


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


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_leaves_the_pixels_as_they_are_stored(format: str) -> None:
    content = encoded(rgb(), format, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12")
    assert np.array_equal(pixels(content), pixels(encoded(rgb(), format)))


def test_xmp_turns_no_image_as_in_torchvision() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    info, tags = PngInfo(), ImageFileDirectory_v2()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    tags[700] = xmp
    for content in (
        encoded(rgb(), "JPEG", xmp=xmp),
        encoded(rgb(), "JPEG", xmp=xmp) + b"x",
        encoded(rgb(), "WEBP", xmp=xmp),
        encoded(rgb(), "PNG", pnginfo=info),
        encoded(rgb(), "TIFF", tiffinfo=tags),
    ):
        assert pixels(content).shape == (24, 32, 3)
        assert content_findings(content, "x") == []
