import json
from pathlib import Path
from typing import Any

import pytest
import torch

from convatlas.analysis.networks import described_config, model_names
from convatlas.analysis.published import PUBLISHED
from convatlas.config.composition import check_config
from convatlas.errors import UserError
from convatlas.models.classification.resnet import CifarResNet
from pipelines.describe import TYPES, describe, show
from tests.conftest import Command, FolderRun
from tests.fixtures import write_image_folder


def run(*overrides: str) -> dict[str, Any]:
    config = described_config("describe", overrides)
    check_config(config, TYPES)
    return describe(config)


def test_json_has_counts_and_layers(convatlas: Command) -> None:
    done = convatlas("describe", "model=alexnet", "format=json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["parameters"], result["multiply_adds"], result["receptive_field"]) == (60_965_224, 724_406_816, 355)
    assert result["published"] == {"parameters": 60e6, "multiply_adds": None, "source": "AlexNet, abstract"}
    first = result["layers"][0]
    assert (first["name"], first["kernel"], first["stride"], first["jump"]) == ("features.0", 11, 4, 4)
    assert first["output_shape"] == [96, 55, 55]


def test_text_shows_the_papers_figures_with_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    show(run("model=resnet50"))
    text = capsys.readouterr().out
    assert "3,857,973,248 (paper: 3.8 G, +1.5 %)" in text
    assert "ResNet, table 1" in text
    first = next(line for line in text.splitlines() if line.startswith("conv1 "))
    assert first.split() == [
        "conv1",
        "7×7,",
        "64,",
        "/2",
        "64",
        "×",
        "112",
        "×",
        "112",
        "9,536",
        "118,013,952",
        "7",
        "2",
    ]
    assert max(map(len, text.splitlines())) <= 120


def test_auxiliary_heads_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    result = run("model=googlenet")
    assert (result["parameters"], result["auxiliary_parameters"]) == (6_998_552, 6_379_728)
    show(result)
    text = capsys.readouterr().out
    assert "6,998,552 (paper: 6.8 M, +2.9 %); auxiliary heads, in training only: 6,379,728" in text
    assert "1,582,671,872 (paper: 1.5 G, +5.5 %); auxiliary heads, in training only: 8,372,224" in text


def test_every_network_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    result = run("model=all")
    assert [model["name"] for model in result["models"]] == model_names()
    by_name = {model["name"]: model for model in result["models"]}
    assert by_name["resnet20_cifar"]["input"] == [3, 32, 32]
    assert by_name["vgg16"]["parameters"] == 138_357_544
    assert {name for name in by_name if by_name[name]["published"]} == set(PUBLISHED)
    show(result)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 1 + len(model_names())
    page = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text(encoding="utf-8")
    for name, parameters in (line.split()[:2] for line in lines[1:]):
        assert f"| `{name}` | {parameters} |" in page
    assert next(line for line in lines if line.startswith("resnet152 ")).split()[1:] == [
        "60,192,808",
        "11,282,415,616",
        "11.3",
        "G",
        "1,507",
    ]


def test_data_say_input_and_classes(tmp_path: Path) -> None:
    cifar = run("model=resnet18", "data=cifar10")
    assert (cifar["input"], cifar["num_classes"]) == ([3, 32, 32], 10)
    assert cifar["layers"][0]["kernel"] == 3  # the small stem
    root = write_image_folder(tmp_path, ["a", "b", "c"], per_class=4, size=64)
    assert run("model=resnet18", "data=imagefolder", f"data.root={root}")["num_classes"] == 3
    assert run("model=resnet18", "data.image_size=320", "data.num_classes=7")["input"] == [3, 320, 320]


def test_a_trained_network_shows_its_own_filters(folder_run: FolderRun, tmp_path: Path) -> None:
    result = run(f"run={folder_run.run}", f"output={tmp_path}/pictures")
    assert (result["input"], result["num_classes"]) == ([3, 32, 32], 3)
    assert [Path(file).name for file in result["files"]] == ["resnet20_cifar.svg", "resnet20_cifar-filters.png"]
    assert all(Path(file).is_file() for file in result["files"])
    untrained = run("model=resnet20_cifar", f"output={tmp_path}/untrained")
    assert [Path(file).suffix for file in untrained["files"]] == [".svg"]
    torch.save(CifarResNet(depth=20).state_dict(), tmp_path / "w.pth")
    weights = run("model=resnet20_cifar", f"model.weights={tmp_path}/w.pth", f"output={tmp_path}/weights")
    assert len(weights["files"]) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=resnet51"], "did you mean 'resnet50'"),
        (["model=all", "model.net.shortcut=A"], r"model\.net\.shortcut: this is of one network"),
        (["model=all", "output=x"], "output: this is of one network"),
        (["run=/nowhere"], "run=/nowhere: no checkpoints/best.ckpt"),
        (["model=resnet50", "output=/dev/null/x"], "output=/dev/null/x: cannot be written"),
        (
            ["model=alexnet", "data.image_size=16", "model.net.stem=imagenet"],
            r"data\.image_size=16: too small for alexnet",
        ),
        (["data=imagefolder"], r"data\.root is missing"),
    ],
)
def test_what_cannot_be_described_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*overrides)


def test_a_model_beside_a_checkpoint_is_refused(folder_run: FolderRun) -> None:
    with pytest.raises(UserError, match="leave model and data out"):
        run(f"run={folder_run.run}", "model=vgg11")
