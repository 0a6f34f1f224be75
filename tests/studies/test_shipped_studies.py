"""The studies of ``conf/study``: each composes, arm by arm and value by value, and says whose claim it is."""

import re
from functools import cache

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from convatlas.config.composition import check_config, compose, plain, project_path
from convatlas.models.classification.classifier import Classifier
from convatlas.studies.design import Cell, Study, read_study
from convatlas.training.plan import TYPES
from tests.models.zoo import slow_except

FILES = {file.stem: file for file in sorted((project_path("conf") / "study").glob("*.yaml"))}
QUICK = ["relu_tanh_small", "stacked_3x3_small", "scale_jitter"]
"""Composed by default, half a second an arm; the others with the slow tests."""
WITHOUT_SMALL = {"degradation_cifar", "quickstart_depth", "scale_jitter"}


@cache
def study(name: str) -> Study:
    return read_study(plain(compose("study", [f"study={name}"]).study))


def configuration(design: Study, cell: Cell) -> DictConfig:
    """Of a run; where a person has to say where the images are, they are somewhere."""
    factor = [] if design.factor is None else [f"{design.factor.key}={cell.value}"]
    config = compose("train", [*design.overrides, *design.arms[cell.arm].overrides, *factor])
    if OmegaConf.is_missing(config.data, "root"):
        config.data.root = "images"
    return config


@pytest.mark.parametrize("name", FILES)
def test_study_names_its_claims(name: str) -> None:
    design = study(name)
    assert FILES[name].read_text(encoding="utf-8").startswith("# ")
    assert design.name == name
    assert design.question.endswith("?")
    assert design.expect
    for source in [entry.source for entry in design.expect] + [entry.source for entry in design.published]:
        assert re.search(r"[A-Z]\w+ .*(19|20)\d\d, (section|figure|table|footnote) ", source), source


def test_every_study_of_a_paper_has_a_small_one() -> None:
    at_full_scale = {name for name in FILES if not name.endswith("_small")}
    assert at_full_scale - WITHOUT_SMALL == {name.removesuffix("_small") for name in FILES if name.endswith("_small")}


@pytest.mark.parametrize("name", slow_except(QUICK, list(FILES)))
def test_every_arm_composes_and_builds(name: str) -> None:
    """Arms differ in what is trained or in how it is evaluated."""
    design = study(name)
    found = set()
    for cell in design.cells:
        config = configuration(design, cell)
        check_config(config, TYPES)
        with torch.device("meta"):
            assert isinstance(instantiate(config.model.net), Classifier)
        arm = design.arms[cell.arm]
        if arm.evaluate:
            compose("evaluate", ["run=runs/one", *arm.evaluate])
        found.add((OmegaConf.to_yaml(config, resolve=True), tuple(arm.evaluate or ()), arm.members))
    assert len(found) == len(design.cells)
