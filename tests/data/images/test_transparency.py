"""Transparent pixels: what lies under the alpha, or a colour behind them, in every form that a file says it in."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from numpy.typing import NDArray
from PIL import Image

from convatlas.config.composition import check_config, compose
from convatlas.data.images.decode import decode, is_transparent
from convatlas.data.module import ImageDataModule
from convatlas.data.tools.verify import content_findings
from convatlas.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
ALPHA = np.linspace(0, 255, 48).reshape(6, 8).astype(np.uint8)
WHERE = np.arange(48).reshape(6, 8) % 5 == 0
"""Pixels that are transparent where a format knows only one colour for that."""
PINK = [250, 10, 100]


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(values: NDArray[np.integer], depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of values (H, W, C) in a depth and colour type that Pillow does not write."""
    bits = values.reshape(len(values), -1).astype(">u2").view(np.uint8).reshape(len(values), -1, 2)
    rows = bits if depth == 16 else bits[..., 1:]
    if depth < 8:
        rows = np.packbits(np.unpackbits(rows, axis=-1)[..., 8 - depth :].reshape(len(values), -1), axis=-1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    sums = ((name, content, zlib.crc32(name + content)) for name, content in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc) for name, content, crc in sums
    )


def over(colours: NDArray[np.uint8], alpha: NDArray[np.uint8], background: list[int]) -> NDArray[np.int64]:
    """Colours (H, W, 3) with opacities (H, W) on a background, rounded."""
    share = alpha[..., None] / 255
    return np.rint(colours * share + np.array(background) * (1 - share)).astype(np.int64)


def cases() -> dict[str, tuple[bytes, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Files, the colours in them (H, W, 3), and their opacity (H, W)."""
    rgba, grey = np.dstack([RGB, ALPHA]), RGB[..., :1]
    la = np.dstack([grey, ALPHA])
    greys = np.repeat(grey, 3, axis=2)
    holes = np.where(WHERE, 0, 255).astype(np.uint8)
    keyed, few = RGB.copy(), (RGB[..., :1] // 16)
    keyed[WHERE] = (7, 8, 9)
    keyed[~WHERE, 0] |= 128
    few[WHERE], few[~WHERE] = 3, few[~WHERE] | 8
    palette = Image.fromarray(WHERE.astype(np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 0])
    flat = np.where(WHERE[..., None], [200, 100, 0], [10, 20, 30]).astype(np.uint8)
    deep = RGB.astype(np.uint16) * 256 + 99
    deep_key = keyed.astype(np.uint16) * 256 + 5
    fading = np.where(WHERE, 90, 255).astype(np.uint8)
    key3 = struct.pack(">HHH", 7, 8, 9)
    return {
        "PNG RGBA": (encoded(Image.fromarray(rgba), "PNG"), RGB, ALPHA),
        "PNG LA": (encoded(Image.fromarray(la, "LA"), "PNG"), greys, ALPHA),
        "PNG RGBA of 16 bits": (png(np.dstack([deep, ALPHA * np.uint16(257)]), 16, 6), RGB, ALPHA),
        "PNG LA of 16 bits": (png(np.dstack([deep[..., :1], ALPHA * np.uint16(257)]), 16, 4), greys, ALPHA),
        "PNG palette, an index": (encoded(palette, "PNG", transparency=1), flat, holes),
        "PNG palette, opacities": (encoded(palette, "PNG", transparency=bytes([255, 90])), flat, fading),
        "PNG colour key": (png(keyed, 8, 2, (b"tRNS", key3)), keyed, holes),
        "PNG colour key of 16 bits": (
            png(deep_key, 16, 2, (b"tRNS", struct.pack(">HHH", *deep_key[0, 0].tolist()))),
            keyed,
            holes,
        ),
        "PNG grey key": (
            png(keyed[..., :1], 8, 0, (b"tRNS", struct.pack(">H", 7))),
            np.repeat(keyed[..., :1], 3, axis=2),
            holes,
        ),
        "PNG grey key of 16 bits": (
            png(deep_key[..., :1], 16, 0, (b"tRNS", struct.pack(">H", 7 * 256 + 5))),
            np.repeat(keyed[..., :1], 3, axis=2),
            holes,
        ),
        "PNG grey key of 4 bits": (
            png(few, 4, 0, (b"tRNS", struct.pack(">H", 3))),
            np.repeat(few * np.uint8(17), 3, axis=2),
            holes,
        ),
        "PNG of 1 bit": (
            png(WHERE[..., None].astype(np.uint8), 1, 0, (b"tRNS", struct.pack(">H", 1))),
            np.repeat(WHERE[..., None] * np.uint8(255), 3, axis=2),
            holes,
        ),
        "WebP": (encoded(Image.fromarray(rgba), "WEBP", lossless=True, exact=True), RGB, ALPHA),
        "TIFF": (encoded(Image.fromarray(rgba), "TIFF"), RGB, ALPHA),
        "GIF": (encoded(palette, "GIF", transparency=1), flat, holes),
    }


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", cases())
def test_transparent_pixels_show_the_background_or_what_is_stored_there(name: str) -> None:
    content, colours, alpha = cases()[name]
    without = decode(content, 3, "x").permute(1, 2, 0).numpy()
    shown = decode(content, 3, "x", PINK).permute(1, 2, 0).numpy().astype(np.int64)
    grey = decode(content, 1, "x", [200])[0].numpy().astype(np.int64)
    assert np.array_equal(without, colours)
    assert np.abs(shown - over(colours, alpha, PINK)).max() <= 1
    assert np.array_equal(grey[alpha == 0], np.full((alpha == 0).sum(), 200))
    assert np.array_equal(grey[alpha == 255], decode(content, 1, "x")[0].numpy()[alpha == 255])
    assert is_transparent(content)
    assert (
        dict(content_findings(content, "x"))["transparent"]
        == f"{(alpha < 255).mean():.1%} of the pixels are not opaque"
    )


def test_opaque_images_are_as_without_a_background() -> None:
    opaque = np.dstack([RGB, np.full_like(ALPHA, 255)])
    for content in (encoded(Image.fromarray(opaque), "PNG"), encoded(Image.fromarray(RGB), "JPEG")):
        assert np.array_equal(decode(content, 3, "x", PINK).numpy(), decode(content, 3, "x").numpy())
        assert not is_transparent(content)
        assert content_findings(content, "x") == []


def test_a_transparent_image_is_turned_upright_on_its_background() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(np.dstack([RGB, ALPHA])), "PNG", exif=exif)
    upright = np.rot90(over(RGB, ALPHA, PINK), -1)
    assert np.abs(decode(content, 3, "x", PINK).permute(1, 2, 0).numpy().astype(np.int64) - upright).max() <= 1


def logo() -> Image.Image:
    """Black with a black square in it, of which only the alpha tells: fault A13."""
    alpha = np.zeros((40, 40), np.uint8)
    alpha[10:30, 10:30] = 255
    return Image.fromarray(np.dstack([np.zeros((40, 40, 3), np.uint8), alpha]))


def write_logos(root: Path, problem: str) -> list[str]:
    """Write images of one problem type in which only the alpha says what is there; returns the overrides."""
    if problem == "classification":
        for split in ("train", "val"):
            for name in ("a", "b"):
                (root / split / name).mkdir(parents=True)
                for number in range(3):
                    logo().save(root / split / name / f"{number}.png")
        return ["data=imagefolder"]
    for split in ("train", "val"):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for number in range(3):
            logo().save(root / "images" / split / f"{number}.png")
            Image.new("L", (40, 40)).save(root / "masks" / split / f"{number}.png")
    (root / "classes.txt").write_text("paper\nink\n", encoding="utf-8")
    if problem == "segmentation":
        return ["data=mask_folders"]
    return ["data=coco", "data.dataset.masks=false", *write_coco(root)]


def write_coco(root: Path) -> list[str]:
    images = ",".join(f'{{"id": {n}, "file_name": "{n}.png", "height": 40, "width": 40}}' for n in range(3))
    boxes = ",".join(f'{{"id": {n}, "image_id": {n}, "category_id": 1, "bbox": [1, 1, 9, 9]}}' for n in range(3))
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}.json").write_text(
            f'{{"images": [{images}], "annotations": [{boxes}], "categories": [{{"id": 1, "name": "ink"}}]}}',
            encoding="utf-8",
        )
        (root / split).symlink_to(root / "images" / split)
    return ["data.dataset.train=train", "data.dataset.test=val"]


@pytest.mark.parametrize("problem", ["classification", "segmentation", "detection"])
def test_the_data_of_every_problem_have_a_background(problem: str, tmp_path: Path) -> None:
    overrides = [
        *write_logos(tmp_path, problem),
        f"data.root={tmp_path}",
        "data.image_size=32",
        "data.val_fraction=0.4",
    ]
    for background, colour in (("null", 0), ("[255,255,255]", 255)):
        data: ImageDataModule = instantiate(compose("train", [*overrides, f"data.background={background}"]).data)
        image = data.load("train", 0)
        assert image[:, 20, 20].tolist() == [0, 0, 0]
        assert image[:, 0, 0].tolist() == [colour] * 3


@pytest.mark.parametrize(
    ("background", "message"),
    [
        (
            "[255,255]",
            r"data\.background=\[255, 255\]: expected an integer from 0 to 255 for each of data\.in_channels=3",
        ),
        ("[0,0,256]", r"data\.background=\[0, 0, 256\]: expected an integer from 0 to 255"),
        ("[1,1,1]", r"data\.background=\[1, 1, 1\]: looks like a colour in \[0, 1\]; expected .*\[255, 255, 255\]"),
    ],
)
def test_what_is_no_colour_is_refused(background: str, message: str, tmp_path: Path) -> None:
    overrides = [*write_logos(tmp_path, "classification"), f"data.root={tmp_path}", f"data.background={background}"]
    with pytest.raises(Exception, match=message):  # Hydra's own, around ours
        instantiate(compose("train", overrides).data)


@pytest.mark.parametrize("background", ["white", "[0.5,0.5,0.5]", "7"])
def test_a_background_is_a_list_of_integers(background: str) -> None:
    with pytest.raises(UserError, match=r"data\.background=.*: expected a list, each entry int or null"):
        check_config(compose("train", [f"data.background={background}"]), {})
