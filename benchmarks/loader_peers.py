"""The loaders that ``benchmarks.loader`` compares, each on its own best path to batches of (256, 3, 224, 224) images.

All draw a crop of 8 to 100 % of the area and aspect 3/4 to 4/3, resize it to 224 pixels, flip half of the images and
shuffle. What can be left to the GPU is: only torchvision's classic pipeline normalises, for it always does.

A builder takes the stored form and the number of threads or worker processes, and returns what starts an epoch: a
function to an iterator over the images of each batch.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as classic
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image, decode_jpeg
from torchvision.transforms import v2

from benchmarks.stored_forms import BATCH, SIDE, StoredForm, write_beton
from convatlas.config.composition import compose

Epoch = Callable[[], Iterator[Tensor]]
Builder = Callable[[StoredForm, int], Epoch]

SIZE = 224
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ours(form: StoredForm, workers: int) -> Epoch:
    """The project's training loader; the original form as files, the resized one as shards."""
    root = form.sharded if form.path.name == f"{SIDE}px" else form.folder
    batches = [f"data.global_batch_size={BATCH}", f"data.threads={workers}"]
    config = compose("train", ["data=imagefolder", "augment=random_resized_crop", f"data.root={root}", *batches])
    loader = instantiate(config.data).train_dataloader()
    return lambda: (batch.images for batch in loader)


def torchvision_classic(form: StoredForm, workers: int) -> Epoch:
    """ImageFolder and transforms of PIL images, as torchvision's reference scripts and PyTorch's examples have them."""
    steps = [
        classic.RandomResizedCrop(SIZE, SCALE, RATIO),
        classic.RandomHorizontalFlip(),
        classic.ToTensor(),
        classic.Normalize(MEAN, STD),
    ]
    dataset = ImageFolder(str(form.folder / "train"), classic.Compose(steps))
    return _first_of(_data_loader(dataset, workers, batch_size=BATCH, shuffle=True, drop_last=True))


def torchvision_v2(form: StoredForm, workers: int) -> Epoch:
    """ImageFolder and the newer transforms, of uint8 tensors."""
    dataset = ImageFolder(str(form.folder / "train"), _tensor_transforms(), loader=_decode_file)
    return _first_of(_data_loader(dataset, workers, batch_size=BATCH, shuffle=True, drop_last=True))


def timm(form: StoredForm, workers: int) -> Epoch:
    """``timm.data.create_loader`` up to its uint8 batches: what wraps them normalises on the device."""
    from timm.data import create_loader
    from timm.data.dataset import ImageDataset

    loader = create_loader(
        ImageDataset(str(form.folder / "train")),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        scale=SCALE,
        ratio=RATIO,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=workers,
        device=torch.device("cpu"),
    )
    return _first_of(loader.loader)


def webdataset(form: StoredForm, workers: int) -> Epoch:
    """Tar shards with torchvision's decoder and newer transforms, which cost less than webdataset's own PIL decoder."""
    import webdataset as wds

    dataset = (
        wds.WebDataset([str(shard) for shard in form.shards], shardshuffle=len(form.shards))
        .shuffle(BATCH)
        .to_tuple("jpg", "cls")
        .map_tuple(_decode_bytes, int)
        .map_tuple(_tensor_transforms())
        .batched(BATCH)
    )
    return _first_of(_data_loader(dataset, workers, batch_size=None))


def dali(form: StoredForm, workers: int) -> Epoch:
    """NVIDIA DALI without a GPU; batches stay (N, H, W, C), which spares it a transposition."""
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy
    from nvidia.dali.types import INTERP_LINEAR

    def operators() -> tuple[Any, Any]:
        encoded, labels = fn.readers.file(file_root=str(form.folder / "train"), shuffle_after_epoch=True, name="reader")
        images = fn.decoders.image_random_crop(
            encoded, device="cpu", random_area=list(SCALE), random_aspect_ratio=list(RATIO), num_attempts=10
        )
        images = fn.resize(images, resize_x=SIZE, resize_y=SIZE, interp_type=INTERP_LINEAR, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    pipeline = pipeline_def(operators, batch_size=BATCH, num_threads=workers, device_id=None)
    batches = DALIGenericIterator(
        [pipeline()],
        ["images", "labels"],
        reader_name="reader",
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=True,
    )
    return lambda: (batch[0]["images"].permute(0, 3, 1, 2) for batch in batches)


def ffcv(form: StoredForm, workers: int) -> Epoch:
    """FFCV from its own file in memory."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage

    write_beton(form)
    images = [
        RandomResizedCropRGBImageDecoder((SIZE, SIZE), SCALE, RATIO),
        RandomHorizontalFlip(),
        ToTensor(),
        ToTorchImage(),
    ]
    loader = Loader(
        str(form.beton),
        batch_size=BATCH,
        num_workers=workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": images, "label": [IntDecoder(), ToTensor()]},
    )
    return _first_of(loader)


LOADERS: dict[str, Builder] = {
    "ours": ours,
    "torchvision": torchvision_classic,
    "torchvision_v2": torchvision_v2,
    "timm": timm,
    "webdataset": webdataset,
    "dali": dali,
    "ffcv": ffcv,
}

INSTALL = {
    "timm": "pip install --no-deps timm",
    "webdataset": "pip install webdataset",
    "dali": "pip install nvidia-dali-cuda130 nvidia-nvimgcodec-cu13 optree dm-tree makefun astunparse gast",
    "ffcv": "apt-get install libopencv-dev libturbojpeg0-dev pkg-config; "
    "pip install numba opencv-python-headless tqdm; pip install --no-build-isolation --no-deps ffcv",
}
"""How to get the peers that do not come with torch."""


def _data_loader(dataset: Any, workers: int, **arguments: Any) -> DataLoader[Any]:
    return DataLoader(dataset, num_workers=workers, persistent_workers=True, **arguments)


def _first_of(loader: Any) -> Epoch:
    return lambda: (batch[0] for batch in loader)


def _tensor_transforms() -> v2.Compose:
    return v2.Compose([v2.RandomResizedCrop(SIZE, SCALE, RATIO, antialias=True), v2.RandomHorizontalFlip()])


def _decode_file(path: str) -> Tensor:
    image: Tensor = decode_image(path, ImageReadMode.RGB)
    return image


def _decode_bytes(encoded: bytes) -> Tensor:
    image: Tensor = decode_jpeg(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), ImageReadMode.RGB)
    return image
