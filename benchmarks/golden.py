"""Train the same ten steps with two versions of the code on this machine; losses and weights must be equal bit for bit.

    python -m benchmarks.golden [commit=a11ee17] [against=COMMIT] [networks=resnet,unet,mask_rcnn]

The code of ``commit`` is checked out into a temporary git worktree; so is that of ``against``, which is the present
code where it is left out. A ResNet with a modern recipe, a U-Net and a Mask R-CNN train on embedded or generated
data, each in a process of its own, by the command line that users have. So a change that should not alter any number
is shown not to, on any processor: figures that were stored on one machine cannot show it on another.

What may differ: names of runs, further keys in records and checkpoints, where classes are defined. The exit status is
1, and the first difference of each network is named, where any other thing differs. One minute of one CPU core.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULTS = {"commit": "a11ee17", "against": "", "networks": "resnet,unet,mask_rcnn"}
CLOCK = ("time", "train/images_per_second", "train/data_wait")
"""Entries of a record that are never equal."""
TEN_STEPS = [
    "tracking=none",
    "data.threads=1",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=5",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=1",
]
NETWORKS = {
    "resnet": [
        "model=resnet20_cifar",
        "model.net.stochastic_depth=0.2",
        "model.loss=binary_cross_entropy",
        "model.label_smoothing=0.1",
        "data=fashion_mnist_sample",
        "data.global_batch_size=24",
        "augment=rand_augment",  # mixup and cutmix included
        "augment.image_size=28",
        "optimizer=lamb",
        "optimizer.learning_rate=0.005",
        "optimizer.reference_batch_size=null",
        "optimizer.decay_norms_and_biases=false",
        "schedule=cosine",
        "schedule.warmup_epochs=0.5",
        "ema.decay=0.5",
    ],
    "unet": [
        "model=unet_same",
        "model.net.width=8",
        "model.net.levels=3",
        "model.net.dropout=0.2",
        "data=shapes_masks",
        "data.dataset.train=100",
        "data.dataset.test=8",
        "data.global_batch_size=8",
        "augment=masks_elastic",
        "augment.crop.scale=[0.5,2.0]",
        "optimizer=adamw",
        "optimizer.reference_batch_size=null",
        "schedule=poly",
    ],
    "mask_rcnn": [
        "model=mask_rcnn_resnet18_fpn",
        "model.net.channels=32",
        "model.net.head_width=64",
        "model.net.mask_channels=16",
        "model.net.anchor_sizes=[12,18,26,36,48]",
        "model.net.proposals.before_nms=[200,200]",
        "model.net.proposals.after_nms=[100,50]",
        "model.net.regions.regions_per_image=32",
        "data=shapes_objects",
        "data.dataset.train=40",
        "data.dataset.test=4",
        "data.global_batch_size=4",
        "augment=objects_flip",
        "optimizer=sgd",
        "optimizer.learning_rate=0.01",
        "optimizer.reference_batch_size=null",
        "schedule=one_cycle",
    ],
}
"""Overrides of ``convatlas train`` that every version understands."""


@dataclass(frozen=True)
class Outcome:
    """The figures and tensors of a training that a change of code must not alter.

    Attributes:
        figures: Losses, metrics and learning rates by step and name, as text with all digits.
        weights: The tensors of ``best.ckpt`` and ``last.ckpt`` by file and name.
    """

    figures: dict[tuple[int, str], str]
    weights: dict[str, Tensor]


class GoldenError(Exception):
    """The comparison cannot be made."""


def train(source: Path, overrides: Sequence[str], directory: Path) -> Outcome:
    """Train with the code of a checkout, in a process of its own with one thread unless ``OMP_NUM_THREADS`` says more.

    Args:
        source: The top of the checkout.
        overrides: Those of ``convatlas train``.
        directory: A folder that the run is written to.

    Raises:
        GoldenError: The command fails, or Python would import ``convatlas`` from elsewhere.
    """
    environment = {
        "OMP_NUM_THREADS": "1",
        **os.environ,
        "PYTHONPATH": str(source / "src"),
        "XDG_CACHE_HOME": str(directory / "cache"),
    }

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=directory,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise GoldenError(f"{source}: {done.stderr.strip()}")
        return done.stdout

    found = Path(python("-c", "import convatlas; print(convatlas.__file__)").strip())
    if not found.is_relative_to(source):
        raise GoldenError(f"{source}: Python imports {found} instead")
    result = json.loads(python("-m", "convatlas", "train", *overrides, "format=json"))
    return read(directory / result["run"])


def read(run: Path) -> Outcome:
    """Read a run's record and weights, without the code that wrote them."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figures = {
        (line["step"], name): repr(value)
        for line in lines
        for name, value in line.items()
        if "/" in name and name not in CLOCK
    }
    weights: dict[str, Tensor] = {}
    for name in ("best.ckpt", "last.ckpt"):
        checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / name, map_location="cpu", weights_only=True)
        weights |= {f"{name}: {key}": tensor for key, tensor in checkpoint["state_dict"].items()}
    return Outcome(figures, weights)


def difference(before: Outcome, after: Outcome) -> str | None:
    """The first difference between two trainings; None where there is none.

    Figures that only ``after`` has are none: a later version may log more. All weights must be there in both.
    """
    for (step, name), value in before.figures.items():
        other = after.figures.get((step, name), "nothing")
        if value != other:
            return f"{name} of step {step} was {value} and is {other}"
    for name in before.weights | after.weights:
        first, second = before.weights.get(name), after.weights.get(name)
        if first is None or second is None:
            return f"{name} is in one of the two only"
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            return f"{name} was {first.dtype} {tuple(first.shape)} and is {second.dtype} {tuple(second.shape)}"
        unequal = int((_bytes(first) != _bytes(second)).any(dim=1).sum())
        if unequal:
            return f"{name}: {unequal} of {first.numel()} numbers differ"
    return None


def _bytes(tensor: Tensor) -> Tensor:
    """The bytes of each number: (numbers, bytes of one), uint8."""
    return tensor.contiguous().reshape(tensor.numel(), 1).view(torch.uint8)


def compare(before: Path, after: Path, networks: Sequence[str]) -> bool:
    """Train each network with the code of two checkouts, and print a row for each.

    Args:
        before: The top of the older checkout.
        after: The top of the newer one.
        networks: Names in ``NETWORKS``.

    Returns:
        Whether all are equal.

    Raises:
        GoldenError: A training fails.
    """
    equal = True
    print(f"{'network':<12}{'figures':>8}{'tensors':>9}  result", flush=True)
    for network in networks:
        with tempfile.TemporaryDirectory(prefix="golden-") as folder:
            outcomes = []
            for number, source in enumerate((before, after)):
                directory = Path(folder) / str(number)
                directory.mkdir()
                outcomes.append(train(source, [*TEN_STEPS, *NETWORKS[network]], directory))
        found = difference(*outcomes)
        equal = equal and found is None
        counts = f"{len(outcomes[0].figures):>8}{len(outcomes[0].weights):>9}"
        print(f"{network:<12}{counts}  {found or 'equal, bit for bit'}", flush=True)
    return equal


@contextmanager
def checked_out(name: str, commit: str) -> Iterator[Path]:
    """Check out a commit of this repository into a git worktree that lasts as long as the context.

    Args:
        name: The argument that named it.
        commit: The commit; with nothing, the present code.

    Raises:
        GoldenError: This clone does not have the commit.
    """
    if not commit:
        yield REPOSITORY
        return
    git = ["git", "-C", str(REPOSITORY)]
    known = [*git, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]
    if subprocess.run(known, capture_output=True, check=False).returncode:
        raise GoldenError(f"{name}={commit}: not in this clone; a shallow clone gets it with `git fetch --unshallow`")
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        source = Path(folder).resolve() / "source"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(source), commit], check=True)
        try:
            yield source
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(source)], check=True)


def settings(arguments: Sequence[str]) -> dict[str, str]:
    """The command's arguments, ``key=value``, over their defaults.

    Raises:
        GoldenError: There is no such key or network.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments)
    for key in given:
        if key not in DEFAULTS:
            raise GoldenError(f"{key}: expected one of {', '.join(DEFAULTS)}")
    found = DEFAULTS | given
    for network in found["networks"].split(","):
        if network not in NETWORKS:
            raise GoldenError(f"networks={network}: expected some of {', '.join(NETWORKS)}")
    return found


def main() -> None:
    """Compare as the command line says."""
    try:
        chosen = settings(sys.argv[1:])
        with (
            checked_out("commit", chosen["commit"]) as before,
            checked_out("against", chosen["against"]) as after,
        ):
            equal = compare(before, after, chosen["networks"].split(","))
    except GoldenError as error:
        sys.exit(f"benchmarks.golden: error: {error}")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
