"""The commands of the README and of pages in docs/ run, on generated images and short schedules; links resolve."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from tests.conftest import FolderRun

README = Path(__file__).parents[1] / "README.md"
PAGES = [README, README.parent / "CONTRIBUTING.md", README.parent / "CHANGELOG.md"]
PAGES += sorted((README.parent / "docs").glob("*.md"))
SHORT = ["debug=fast", "data.global_batch_size=8"]


def commands() -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    blocks = re.findall(r"<!-- tested -->\n```console\n(.*?)```", text, flags=re.DOTALL)
    found = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(found) >= 15
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_the_command_runs(command: str, folder_run: FolderRun, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.symlink_to(folder_run.root / "train" / folder_run.classes[0])
    images = next(photos.iterdir()).suffix
    command = command.replace("/data/birds", str(folder_run.root)).replace("*.jpg", f"*{images}")
    command = command.replace("root=runs", f"root={folder_run.run.parent}")
    command = command.replace("checkpoint=best.ckpt", f"checkpoint={folder_run.run}/checkpoints/best.ckpt")
    program, *arguments = shlex.split(command)
    assert program == "convatlas"
    verb = [argument for argument in arguments if "=" not in argument]
    arguments = arguments[len(verb) :]
    if verb in (["train"], ["check"], ["sweep"], ["study"]):
        arguments += SHORT
    if verb == ["sweep"]:
        arguments += ["num_trials=2"]
    if verb == ["study"]:
        arguments += ["study.seeds=[0]"]
    if verb == ["data", "bench"]:
        arguments += ["data.global_batch_size=8", "batches=2", "stage_images=8", "model_steps=1"]
    if "data=cifar10" in arguments:  # no download in a test: the same command on the embedded images
        arguments[arguments.index("data=cifar10")] = "data=fashion_mnist_sample"
    if "model=resnet50" in arguments:
        arguments += ["data.image_size=64", "data.resize=null"]
    if "model.weights=torchvision" in arguments:  # as if it had been fetched before
        weights = torchvision.models.ResNet50_Weights.DEFAULT
        cache = tmp_path / "cache" / "hub" / "checkpoints"
        cache.mkdir(parents=True)
        torch.save(torchvision.models.resnet50().state_dict(), cache / Path(weights.url).name)
        arguments += ["data.image_size=64", "data.resize=null"]
    if "protocol=ten_crop" in arguments:
        arguments = [
            argument.replace("runs/first,runs/second", f"{folder_run.run},{folder_run.run}") for argument in arguments
        ]
        arguments += ["data.resize=40"]
    done = subprocess.run(
        [sys.executable, "-m", "convatlas", *verb, *arguments],
        cwd=tmp_path,
        env={**os.environ, "TORCH_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)`|\$ make ([a-z-]+)", README.read_text(encoding="utf-8")):
        assert re.search(rf"^{''.join(target)}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_wraps_at_100_columns(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in text.splitlines() if line[:1] not in ("|", "!") and not line.startswith("<!--")]
    assert [line for line in lines if len(line) > 100] == []
