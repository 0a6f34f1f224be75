"""Build the networks that ``convatlas describe`` analyses, without images and without memory for weights."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from convatlas.config.arguments import signature
from convatlas.config.composition import compose, fill_num_classes, overridden_keys, project_path
from convatlas.errors import UserError
from convatlas.models.base import Architecture, OnBackbone
from convatlas.models.weights import load_backbone, load_weights
from convatlas.tasks.detection.task import DetectionTask
from convatlas.training.checkpoint_io import KEY
from convatlas.training.restore import checkpoint_path, load_net, open_checkpoint, without_initial_weights


@dataclass(frozen=True)
class Network:
    """A network and the size of its images.

    Attributes:
        name: Name of its configuration.
        net: The network, on the meta device unless it is trained.
        image_size: Height and width of its images, in pixels.
        trained: Whether its weights come from a checkpoint or file.
    """

    name: str
    net: Architecture
    image_size: int
    trained: bool = False


def model_names(task: str = "classification") -> list[str]:
    """List the configurations of ``conf/model`` for a task type, ``resnet50`` before ``resnet101``."""
    files = project_path("conf").joinpath("model").glob("*.yaml")
    names = [file.stem for file in files if f"- /task/{task}@_here_\n" in file.read_text(encoding="utf-8")]
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def described_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of ``convatlas describe``. With ``model=all``, it has every network under ``models``.

    With ``run`` or ``checkpoint``, the network and its images are the checkpoint's.

    Raises:
        UserError: As ``compose``; a choice that the checkpoint or ``model=all`` has made already.
    """
    chosen = [override for override in overrides if override != "model=all"]
    keys = overridden_keys(chosen)
    of_one = sorted(key for key in keys if key.partition(".")[0] in ("model", "run", "checkpoint", "output"))
    if len(chosen) < len(overrides):
        if of_one:
            raise UserError(f"{of_one[0]}: this is of one network, and model=all of all; name one as model=…")
        return _needed(compose(name, [*chosen, *(f"+model@models.{model}={model}" for model in model_names())]))
    config = _needed(compose(name, chosen))
    path = checkpoint_path(config.run, config.checkpoint)
    if path is not None:
        if any(key.partition(".")[0] in ("model", "data") for key in keys):
            raise UserError(f"the network and its images come from {path}; leave model and data out")
        metadata = open_checkpoint(path)[KEY]
        with open_dict(config):
            stored = metadata["config"]["data"] | {"num_classes": len(metadata["class_list"])}
            config.data = {key: stored[key] for key in ("num_classes", "in_channels", "image_size")}
            config.model = OmegaConf.create(metadata["config"]["model"])
            without_initial_weights(config.model)
    return config


def described_networks(config: DictConfig) -> list[Network]:
    """Build the networks of a configuration from ``described_config``.

    Raises:
        UserError: The data's classes are asked of files that are not there; weights that do not fit; a detector, which
            looks at as many regions as it proposes.
    """
    if get_class(config.model._target_) is DetectionTask:
        raise UserError(
            f"model={config.model.name}: what a detector computes depends on what it sees; describe its backbone, such "
            "as model=resnet50"
        )
    path = checkpoint_path(config.run, config.checkpoint)
    if path is not None:
        return [Network(config.model.name, load_net(open_checkpoint(path)), config.data.image_size, trained=True)]
    if "_target_" in config.data:
        fill_num_classes(config, len(instantiate(config.data).class_list.names))
    return [_build(model, config.data) for model in (config.get("models") or {"": config.model}).values()]


def _build(model: DictConfig, data: DictConfig) -> Network:
    target = get_class(model.net._target_)
    papers = signature(target)["num_classes"].default
    num_classes = papers if data.num_classes is None else data.num_classes
    backbone_weights = OmegaConf.select(model, "backbone.weights")
    trained = model.weights is not None or backbone_weights is not None
    with torch.device("cpu" if trained else "meta"):
        net: Architecture = instantiate(model.net, num_classes=num_classes)
    if model.weights is not None:
        load_weights(net, model.weights, entry=model.weights_entry, reset_classifier=model.reset_classifier)
    if isinstance(net, OnBackbone) and backbone_weights is not None:
        load_backbone(net, backbone_weights, entry=model.backbone.weights_entry)
    return Network(model.name, net, data.image_size or net.image_size, trained)


def _needed(config: DictConfig) -> DictConfig:
    """Leave of the data what a description needs: the files only where nothing else knows the classes."""
    if "_target_" not in config.data or config.data.num_classes is not None:
        with open_dict(config):
            config.data = {key: config.data[key] for key in ("num_classes", "in_channels", "image_size")}
            del config.augment
    return config
