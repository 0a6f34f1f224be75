"""Images of annotations are found by their names, whatever suffix they have and whatever an old tag says."""

from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from convatlas.data.detection.datasets import coco, voc
from convatlas.data.images.decode import ImageError
from convatlas.data.segmentation.datasets import mask_folders, voc_folder
from convatlas.data.sources.shapes import CLASSES
from convatlas.data.sources.shapes_on_disk import write_coco, write_voc
from convatlas.errors import UserError
from tests.data.detection.test_objects_on_disk import edit, edit_xml

SIZE = (48, 64)
FIRST = "2012_000000"


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    return write_coco(tmp_path, {"train2017": 4, "val2017": 2}, size=SIZE)


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    return write_voc(tmp_path, {"train": 4, "val": 2}, size=SIZE)


def convert(root: Path, suffix: str, name: str = FIRST) -> Path:
    """Let an image of VOC have another format."""
    stored = root / "JPEGImages" / f"{name}.jpg"
    target = stored.with_suffix(suffix)
    Image.open(stored).save(target)
    stored.unlink()
    return target


@pytest.mark.parametrize(
    "tag",
    ["2012_000003.jpg", "IMG_0001.JPG", "2012_000000", "VOC2012/JPEGImages/2012_000000.jpg", " \n", "2012_000000.png"],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".JPG"])
def test_the_list_s_name_counts_for_more_than_the_tag(suffix: str, tag: str, voc_root: Path) -> None:
    stored = voc_root / "JPEGImages" / f"{FIRST}.jpg"
    expected = stored.rename(stored.with_suffix(suffix)) if suffix == ".JPG" else stored
    if suffix == ".png":
        expected = convert(voc_root, suffix)
    edit_xml(voc_root, "filename", tag)
    data = voc(3, root=str(voc_root), masks=False)
    assert data.train.path(0) == str(expected)
    assert data.train.open(0).height == 48


@pytest.mark.parametrize("tag", ["a.photo.jpg", "a.photo", "C:\\pictures\\a.photo.jpg", "old/a.photo.tif"])
def test_the_tag_s_name_is_taken_where_the_list_s_is_none(tag: str, voc_root: Path) -> None:
    folder = voc_root / "JPEGImages"
    (folder / f"{FIRST}.jpg").rename(folder / "a.photo.jpg")
    edit_xml(voc_root, "filename", tag)
    data = voc(3, root=str(voc_root), masks=False)
    assert data.train.path(0) == str(folder / "a.photo.jpg")
    assert data.train.path(1) == str(folder / "2012_000001.jpg")


def test_another_annotation_s_image_is_never_taken(voc_root: Path) -> None:
    (voc_root / "JPEGImages" / f"{FIRST}.jpg").unlink()
    edit_xml(voc_root, "filename", "2012_000003.jpg")
    with pytest.raises(
        ImageError, match=r"2012_000000\.jpg: no image of .*'2012_000003\.jpg', as .* is 2012_000003\.xml's"
    ):
        voc(3, root=str(voc_root), masks=False).train.open(0)


def test_a_missing_image_is_named_by_list_and_tag(voc_root: Path) -> None:
    (voc_root / "JPEGImages" / f"{FIRST}.jpg").unlink()
    edit_xml(voc_root, "filename", "IMG_1.jpg")
    expected = (
        rf"JPEGImages/{FIRST}\.jpg: no image of this name, whatever its suffix, and none called 'IMG_1\.jpg', as "
    )
    with pytest.raises(ImageError, match=rf"{expected}.*{FIRST}\.xml says"):
        voc(3, root=str(voc_root), masks=False).train.open(0)


def test_two_annotations_of_one_image_are_refused(voc_root: Path) -> None:
    folder = voc_root / "JPEGImages"
    (folder / f"{FIRST}.jpg").rename(folder / "photo.jpg")
    (folder / "2012_000001.jpg").unlink()
    for name in (FIRST, "2012_000001"):
        path = voc_root / "Annotations" / f"{name}.xml"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f"{name}.jpg", "photo.jpg"), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"2012_000001\.xml: its image is .*photo\.jpg, which is that of 2012_000000\.xml too"
    ):
        voc(3, root=str(voc_root), masks=False)


def test_of_several_images_the_tag_s_or_the_usual_one_is_taken(voc_root: Path) -> None:
    folder = voc_root / "JPEGImages"
    Image.new("RGB", SIZE[::-1]).save(folder / f"{FIRST}.png")
    assert voc(3, root=str(voc_root), masks=False).train.path(0).endswith(f"{FIRST}.jpg")
    edit_xml(voc_root, "filename", f"{FIRST}.png")
    assert voc(3, root=str(voc_root), masks=False).train.path(0).endswith(f"{FIRST}.png")
    (folder / f"{FIRST}.jpg").rename(folder / f"{FIRST}.jpeg")
    edit_xml(voc_root, "filename", "other.png")
    expected = (
        rf"{FIRST}\.xml: the image {FIRST} may be {FIRST}\.jpeg or {FIRST}\.png in .*JPEGImages; expected one of them"
    )
    with pytest.raises(UserError, match=expected):
        voc(3, root=str(voc_root), masks=False)
    (voc_root / "classes.txt").write_text("\n".join(("background", *CLASSES)), encoding="utf-8")
    with pytest.raises(UserError, match=rf"train\.txt: the image {FIRST} may be {FIRST}\.jpeg or {FIRST}\.png"):
        voc_folder(3, root=str(voc_root))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpeg"])
def test_voc_s_masks_go_with_images_of_any_suffix(suffix: str, voc_root: Path) -> None:
    (voc_root / "classes.txt").write_text("\n".join(("background", *CLASSES)), encoding="utf-8")
    expected = convert(voc_root, suffix)
    data = voc_folder(3, root=str(voc_root))
    assert data.train.path(0) == str(expected)
    assert data.train.open(0).width == data.train.mask(0).shape[1] == 64


@pytest.mark.parametrize("kind", ["Main", "Segmentation"])
def test_a_list_that_names_an_image_twice_is_refused(kind: str, voc_root: Path) -> None:
    with (voc_root / "ImageSets" / kind / "train.txt").open("a", encoding="utf-8") as file:
        file.write("2012_000002\n")
    with pytest.raises(UserError, match=rf"{kind}/train\.txt: names 2012_000002 2 times; expected each image once"):
        voc(3, root=str(voc_root), masks=False) if kind == "Main" else voc_folder(3, root=str(voc_root))


def test_two_images_with_one_mask_are_refused(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").mkdir(parents=True)
    for suffix in ("jpg", "png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "train" / f"a.{suffix}")
    Image.new("L", (8, 8)).save(tmp_path / "masks" / "train" / "a.png")
    (tmp_path / "classes.txt").write_text("paper\nink\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"a\.jpg and .*a\.png have one mask, .*masks/train/a\.png; expected one image for"
    ):
        mask_folders(3, root=str(tmp_path))


@pytest.mark.parametrize(
    "written",
    [
        "000000000000.jpg",
        "train2017/000000000000.jpg",
        "images\\train\\000000000000.jpg",
        "https://example.org/d/000000000000.jpg",
        "/home/someone/data/000000000000.jpg",
        "../val2017/000000000000.jpg",
        "..\\val2017\\000000000000.jpg",
        "sub/../../val2017/000000000000.jpg",
    ],
)
def test_coco_s_images_are_found_behind_another_s_folders(written: str, coco_root: Path) -> None:
    (coco_root / "val2017" / "000000000000.jpg").write_bytes(b"another split's")
    edit(coco_root, lambda content: content["images"][0].update(file_name=written))
    data = coco(3, root=str(coco_root), masks=False)
    assert data.train.path(0) == f"{coco_root}/train2017/000000000000.jpg"
    assert data.train.open(0).height == 48


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_coco_s_images_are_found_in_subfolders(separator: str, coco_root: Path) -> None:
    folder = coco_root / "train2017"
    (folder / "a b").mkdir()
    (folder / "000000000000.jpg").rename(folder / "a b" / "000000000000.jpg")
    edit(coco_root, lambda content: content["images"][0].update(file_name=f"a b{separator}000000000000.jpg"))
    data = coco(3, root=str(coco_root), masks=False)
    assert data.train.path(0) == f"{folder}/a b/000000000000.jpg"


def test_a_missing_image_of_coco_is_named_by_both_places(coco_root: Path) -> None:
    edit(coco_root, lambda content: content["images"][0].update(file_name="sub/none.jpg"))
    data = coco(3, root=str(coco_root), masks=False)
    expected = (
        r"train2017/sub/none\.jpg: no such file, nor is there .*train2017/none\.jpg; expected .*json calls 'sub/none"
    )
    with pytest.raises(ImageError, match=expected):
        data.train.open(0)


@pytest.mark.parametrize("written", ["", "..", "a/.."])
def test_a_name_that_is_no_file_of_the_folder_is_refused(written: str, coco_root: Path) -> None:
    edit(coco_root, lambda content: content["images"][0].update(file_name=written))
    with pytest.raises(UserError, match=r"train2017\.json: image 0: file_name '.*' is no name of a file in "):
        coco(3, root=str(coco_root), masks=False)


@pytest.mark.parametrize("name", ["../elsewhere/secret", "/etc/secret", "a/../../secret", ".."])
def test_a_list_of_voc_does_not_lead_out_of_the_folder(name: str, voc_root: Path) -> None:
    for lists in ("Main", "Segmentation"):
        with (voc_root / "ImageSets" / lists / "train.txt").open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    for open_voc in (partial(voc, masks=False), partial(voc, masks=True), voc_folder):
        with pytest.raises(UserError, match=rf"train\.txt: the image {name} would lie outside the data set; expected"):
            open_voc(3, root=str(voc_root))


def test_two_entries_of_coco_for_one_file_are_refused(coco_root: Path) -> None:
    edit(coco_root, lambda content: content["images"][1].update(file_name="./000000000000.jpg"))
    with pytest.raises(
        UserError, match=r"json: images 0 and 1 are both .*000000000000\.jpg; expected one entry for a file"
    ):
        coco(3, root=str(coco_root), masks=False)
