"""Every recipe of conf/experiment composes, names its sources and has their numbers; one of each kind trains."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from convatlas.config.composition import check_config, compose
from convatlas.tasks.optimization import ScheduleContext
from convatlas.training.plan import TYPES
from pipelines.train import train
from scripts.write_recipes import OUTPUT, recipes
from tests.fixtures import write_image_folder

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
ALL = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
PUBLISHED = [name for name in ALL if not name.startswith("quickstart")]
TRAIN_IMAGES = {"imagenet": 1_281_167, "cifar10": 45_000}

VGG = ("vgg11", "vgg11_lrn", "vgg13", "vgg16_c", "vgg16", "vgg19")
DEPTHS = (18, 34, 50, 101, 152)
CIFAR = (
    *(f"resnet{n}_cifar" for n in (20, 32, 44, 56, 110, 1202)),
    *(f"plain{n}_cifar" for n in (20, 32, 44, 56, 110)),
)
NUMBERS: dict[str, tuple[float, int, int, float]] = {
    "alexnet_paper": (0.01, 128, 90, 5e-4),
    **{f"{net}_paper": (0.01, 256, 74, 5e-4) for net in VGG},
    "googlenet_paper": (0.01, 32, 250, 2e-4),
    **{f"resnet{depth}_paper": (0.1, 256, 120, 1e-4) for depth in DEPTHS},
    **{f"plain{depth}_paper": (0.1, 256, 120, 1e-4) for depth in (18, 34)},
    **{f"{net}_paper": (0.1, 128, 182, 1e-4) for net in CIFAR},
    "alexnet_modern": (0.01, 256, 90, 1e-4),
    **{f"vgg{depth}_modern": (0.1, 256, 90, 1e-4) for depth in (11, 13, 16, 19)},
    **{f"resnet{depth}_modern": (0.1, 256, 90, 1e-4) for depth in (18, 34)},
    **{f"resnet{depth}_90_epochs": (0.1, 256, 90, 1e-4) for depth in (50, 101, 152)},
    **{f"resnet{depth}_modern": (0.5, 1024, 600, 2e-5) for depth in (50, 101, 152)},
    **{f"resnet{depth}_a1": (5e-3, 2048, 600, 0.01) for depth in DEPTHS},
    **{f"resnet{depth}_a2": (5e-3, 2048, 300, 0.02) for depth in DEPTHS},
    **{f"resnet{depth}_a3": (8e-3, 2048, 100, 0.02) for depth in DEPTHS},
    **{f"resnet{depth}_cifar_modern": (0.1, 256, 200, 5e-4) for depth in (20, 32, 44, 56)},
    "resnet18_cifar_modern": (0.1, 128, 200, 5e-4),
    **{f"{net}_modern": (0.4, 1024, 200, 1e-4) for net in ("googlenet", "googlenet_bn")},
}
"""Learning rate, batch, epochs and weight decay, typed from the papers and repositories, not from the recipes."""

ERRORS: dict[str, list[float]] = {
    "alexnet_paper": [42.9, 19.8, 40.7, 18.2],
    "vgg11_paper": [29.6, 10.4],
    "vgg11_lrn_paper": [29.7, 10.5],
    "vgg13_paper": [28.7, 9.9],
    "vgg16_c_paper": [28.1, 9.4],
    "vgg16_paper": [27.0, 8.8],
    "vgg19_paper": [27.3, 9.0],
    "googlenet_paper": [10.07, 7.89, 31.3, 11.1],
    "resnet18_paper": [30.43, 10.76, 27.88],
    "resnet34_paper": [26.73, 8.74, 25.03, 7.76],
    "resnet50_paper": [24.7, 7.8, 22.85, 6.71, 20.74, 5.25],
    "resnet101_paper": [23.6, 7.1, 21.75, 6.05, 19.87, 4.60],
    "resnet152_paper": [23.0, 6.7, 21.43, 5.71, 19.38, 4.49],
    "plain18_paper": [27.94],
    "plain34_paper": [28.54, 10.02],
    "resnet20_cifar_paper": [8.75],
    "resnet32_cifar_paper": [7.51],
    "resnet44_cifar_paper": [7.17],
    "resnet56_cifar_paper": [6.97],
    "resnet110_cifar_paper": [6.61],
    "resnet1202_cifar_paper": [7.93],
}
"""In percent, as the papers print them."""

KINDS = [
    *("resnet18_a1", "resnet18_paper", "resnet20_cifar_paper"),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            *("alexnet_paper", "alexnet_modern", "vgg11_lrn_paper", "vgg11_modern", "googlenet_paper"),
            *("googlenet_modern", "plain18_paper", "resnet50_modern", "resnet18_a2", "resnet18_a3"),
            *("resnet20_cifar_modern", "resnet18_cifar_modern"),
        )
    ),
]
"""One recipe of each kind."""


@cache
def recipe(name: str) -> DictConfig:
    return compose("train", [f"experiment={name}", "++data.root=somewhere"])


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_composes_and_passes_the_check(name: str) -> None:
    check_config(recipe(name), TYPES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_opens_with_its_evidence(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
    assert f"convatlas train experiment={name}" in header[0].removeprefix("command:  ")
    assert [line.partition(":")[0] for line in header[:2]] == ["command", "hardware"]
    assert any(line.startswith("expected: ") for line in header)
    assert "not trained by us" in header[1]
    assert len(lines) <= 45
    assert all(entry.source for entry in recipe(name).expected)


def test_every_classification_network_has_a_recipe() -> None:
    networks = {
        path.stem
        for path in (CONF / "model").glob("*.yaml")
        if "/task/classification" in path.read_text(encoding="utf-8")
    }
    networks.remove("cuda_convnet_cifar")  # made for comparisons alone
    assert {recipe(name).model.name for name in PUBLISHED} == networks
    assert set(NUMBERS) == set(PUBLISHED)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_recipe_has_the_numbers_of_its_source(name: str) -> None:
    config = recipe(name)
    algorithm = config.optimizer.algorithm
    found = (
        config.optimizer.learning_rate,
        config.data.global_batch_size,
        config.trainer.max_epochs,
        algorithm.weight_decay,
    )
    assert found == pytest.approx(NUMBERS[name])
    assert config.optimizer.reference_batch_size == config.data.global_batch_size, "the rate is the printed one"
    assert "momentum" not in algorithm or algorithm.momentum == 0.9


@pytest.mark.parametrize("name", ERRORS)
def test_a_recipe_expects_what_its_paper_prints(name: str) -> None:
    found = [round(100 * (1 - entry.value), 2) for entry in recipe(name).expected]
    assert found == ERRORS[name]


@pytest.mark.parametrize(
    ("name", "iterations"), [("vgg16_paper", 370_000), ("resnet50_paper", 600_000), ("resnet20_cifar_paper", 64_000)]
)
def test_epochs_are_the_iterations_of_the_paper(name: str, iterations: int) -> None:
    config = recipe(name)
    steps_per_epoch = TRAIN_IMAGES[config.data.name] // config.data.global_batch_size
    assert config.trainer.max_epochs * steps_per_epoch == pytest.approx(iterations, abs=steps_per_epoch)


@pytest.mark.parametrize(
    ("name", "steps_per_epoch", "rates"),
    [
        ("resnet50_90_epochs", 7, {0: 0.1, 209: 0.1, 210: 0.01, 419: 0.01, 420: 0.001, 629: 0.001}),
        ("resnet20_cifar_paper", 351, {0: 0.1, 31_940: 0.1, 31_941: 0.01, 47_911: 0.01, 47_912: 0.001}),
        ("resnet110_cifar_paper", 351, {0: 0.1 / 401, 399: 0.1 * 400 / 401, 400: 0.1, 32_000: 0.1, 32_200: 0.01}),
        ("googlenet_paper", 7, {55: 0.01, 56: 0.0096, 112: 0.01 * 0.96**2}),
        ("resnet50_a3", 10, {49: 0.008 * 50 / 51, 50: 0.008, 525: 0.004, 999: 0.0}),
    ],
)
def test_the_rate_falls_when_the_source_says(name: str, steps_per_epoch: int, rates: dict[int, float]) -> None:
    optimizer, schedule = build(recipe(name), torch.nn.Linear(1, 1), steps_per_epoch)
    (multiplier,) = set(schedule.lr_lambdas)  # type: ignore[attr-defined]
    peak = recipe(name).optimizer.learning_rate
    assert {step: peak * multiplier(step) for step in rates} == pytest.approx(rates, abs=1e-7)
    assert len(optimizer.param_groups) == (2 if name.endswith("a3") else 1), "norms and biases apart"


def build(config: DictConfig, net: torch.nn.Module, steps_per_epoch: int) -> tuple[Optimizer, LRScheduler]:
    optimizer = instantiate(config.optimizer).build(net.parameters(), config.data.global_batch_size)
    course = ScheduleContext(steps=config.trainer.max_epochs * steps_per_epoch, steps_per_epoch=steps_per_epoch)
    return optimizer, instantiate(config.schedule)(optimizer, course)


@pytest.mark.parametrize("name", KINDS)
def test_a_recipe_of_each_kind_takes_two_steps(name: str, images: Path, tmp_path: Path) -> None:
    config = recipe(name)
    overrides = ["data=imagefolder", f"data.root={images}", "data.image_size=32", "data.resize=null"]
    overrides += ["data.global_batch_size=8", "debug=fast", f"run.root={tmp_path}", "trainer.accelerator=cpu"]
    overrides.append("trainer.precision=32-true")  # a CPU takes seconds for a step in bfloat16
    if isinstance(config.augment.image_size, int):
        overrides.append("augment.image_size=24")
    result: dict[str, Any] = train(compose("train", [f"experiment={name}", *overrides]))
    assert result["steps"] == 2
    assert result["test"]["test/loss"] > 0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(
        tmp_path_factory.mktemp("recipes") / "images", ["ant", "bee", "cat"], per_class=20, size=32
    )


def test_the_page_of_recipes_is_current() -> None:
    assert OUTPUT.read_text(encoding="utf-8") == recipes(), "run python scripts/write_recipes.py"


def test_the_page_of_recipes_has_them_all() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for name in PUBLISHED:
        config = recipe(name)
        figure = f"{100 * config.expected[0].value:.2f}" if config.expected else "none"
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` ")]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:4] == [f"`{config.model.name}`", str(config.trainer.max_epochs), figure], row
