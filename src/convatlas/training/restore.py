"""Restore the network and the data settings of a checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from convatlas.config.composition import compose, overridden_keys, parse_overrides
from convatlas.config.public_names import kind_of
from convatlas.config.stored import TRAINING, check_paths, check_stored
from convatlas.errors import UserError
from convatlas.models.base import Architecture
from convatlas.models.weights import TRAINED, check_fit
from convatlas.record.directory import RunDirectory
from convatlas.tasks.base import Task
from convatlas.tracking.wandb.artifacts import PREFIX, fetch_checkpoint
from convatlas.training.checkpoint_io import KEY, read_run_checkpoint

PREPROCESSING = ("in_channels", "image_size", "long_side", "resize", "mean", "std", "background")
"""Keys of ``data`` that belong to a network: other data are preprocessed with these settings, too."""


def checkpoint_path(run: str | None, checkpoint: str | None) -> Path | None:
    """The checkpoint that ``run`` (its best one) or ``checkpoint`` (a file, a run directory, ``wandb:…``) names.

    Raises:
        UserError: Both are given, or a run directory has no checkpoint.
    """
    paths = checkpoint_paths(run, checkpoint)
    return paths[0] if paths else None


def checkpoint_paths(run: str | Sequence[str] | None, checkpoint: str | Sequence[str] | None) -> list[Path]:
    """Like ``checkpoint_path``; a list names the members of an ensemble."""
    if run is not None and checkpoint is not None:
        raise UserError("run and checkpoint are both given: give one")
    named = checkpoint if run is None else run
    if named is None:
        return []
    paths = []
    for name in [named] if isinstance(named, str) else named:
        if run is None and name.startswith(PREFIX):
            paths.append(fetch_checkpoint(name))
            continue
        path = Path(name)
        if run is not None or path.is_dir():
            best = RunDirectory(path).best
            if not best.is_file():
                raise UserError(f"{'checkpoint' if run is None else 'run'}={path}: no checkpoints/best.ckpt there")
            path = best
        paths.append(path)
    return paths


def open_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ConvAtlas to build its network.

    Returns:
        The checkpoint. Its configuration holds ``model`` and ``data``, checked by ``check_stored``; its weights and
        classes fit the network.

    Raises:
        UserError: As in ``read_run_checkpoint`` and ``check_stored``; the parts of the checkpoint do not fit together.
    """
    checkpoint = read_run_checkpoint(path)
    metadata, where = checkpoint[KEY], f"checkpoint={path}"
    parts = {key: metadata["config"][key] for key in ("model", "data")}
    config = check_stored(parts, TRAINING, where, {"model._target_": str, "data._target_": str})
    task, data = (kind_of(config[key]["_target_"]).partition("_")[0] for key in ("model", "data"))
    if task != data:
        raise UserError(f"{where}: its model is for {task} and its data are for {data}; expected the same")
    _check_sizes(config["model"]["net"], path.stat().st_size, f"{where}: model.net")
    with torch.device("meta"):
        net = _build(config["model"]["net"], where)
    check_fit(net, where, _net_weights(checkpoint))
    if net.num_classes != len(metadata["class_list"]):
        raise UserError(
            f"{where}: damaged: its network has {net.num_classes} classes, its class_list {len(metadata['class_list'])}"
        )
    return {**checkpoint, KEY: {**metadata, "config": config}}


def _check_sizes(node: Any, limit: int, where: str) -> None:
    """Refuse numbers in the description of a network that exceed the size of the file with its weights."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            _check_sizes(value, limit, f"{where}.{key}")
        elif isinstance(value, int) and value > limit:
            raise UserError(f"{where}.{key}={value}: a network of that size does not fit into a file of {limit} bytes")


def _build(node: dict[str, Any], where: str) -> Architecture:
    try:
        net: Architecture = instantiate(node)
    except (InstantiationException, RuntimeError) as error:
        raise UserError(f"{where}: its network cannot be built ({' '.join(str(error).split())[:300]})") from error
    return net


def _net_weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    state = checkpoint["state_dict"]
    return {name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")}


def restored_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of an evaluation around a checkpoint.

    Network and data are those of the checkpoint (of the first one, if there are several). If the command line selects
    other data, they are preprocessed with the settings stored in the checkpoint. Every ``data.…`` key on the command
    line takes effect.

    Raises:
        UserError: As in ``compose`` and ``read_run_checkpoint``.
    """
    parsed = parse_overrides(overrides)
    data_values = [override for override in parsed if override.key_or_group.startswith("data.")]
    others = [str(override.input_line) for override in parsed if override not in data_values]
    config = compose(name, others)
    paths = checkpoint_paths(config.run, config.checkpoint)
    if not paths:
        return compose(name, overrides)
    path = paths[0]
    stored = open_checkpoint(path)[KEY]["config"]
    given = overridden_keys(overrides)
    if any(key == "model" or key.startswith("model.") for key in given):
        raise UserError(f"model={config.model.name}: the network comes from {path}; leave model out")
    if "data" in given:
        config = compose(name, overrides)
        chosen = {key.split(".")[1] for key in given if key.startswith("data.")}
        for key in stored["data"].keys() & set(PREPROCESSING) - chosen:
            config.data[key] = stored["data"][key]
    else:
        with open_dict(config):
            config.data = OmegaConf.create(check_paths(stored["data"], f"checkpoint={path}") | {"augment": None})
            config.augment = None
        OmegaConf.set_struct(config.data, True)
        for override in data_values:
            _set(config, override.key_or_group, override.value())
    with open_dict(config):
        config.model = OmegaConf.create(stored["model"])
        without_initial_weights(config.model)
    return config


def without_initial_weights(model: DictConfig) -> None:
    """Remove the initial weights of the training from the configuration of a restored network."""
    for node in (model, model.get("backbone")):
        if node is not None:
            node.weights = node.weights_entry = None


def _set(config: DictConfig, key: str, value: object) -> None:
    try:
        OmegaConf.update(config, key, value, force_add=key == "data.background")  # older checkpoints lack it
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: the checkpoint's data have no such key; data=… selects others") from error


def check_preprocessing(path: Path, checkpoint: dict[str, Any], first_path: Path, first: dict[str, Any]) -> None:
    """Refuse an ensemble whose members were trained with different preprocessing.

    Raises:
        UserError: Naming the key of ``data`` that differs, with both values.
    """
    mine, theirs = (member[KEY]["config"]["data"] for member in (checkpoint, first))
    for key in PREPROCESSING:
        if mine.get(key) != theirs.get(key):
            raise UserError(
                f"checkpoint={path}: trained with data.{key}={mine.get(key)}, {first_path} with {theirs.get(key)}; "
                "the members of an ensemble see the same images"
            )


def load_task(task: Task, checkpoint: dict[str, Any], path: Path) -> None:
    """Load the weights of a checkpoint into a task.

    Raises:
        UserError: They do not fit its network.
    """
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"checkpoint={path}: {' '.join(str(error).split())[:300]}") from error


def weights_taken(checkpoint: dict[str, Any]) -> str:
    """Name the weights of a checkpoint that a restored network has: the trained ones or their average."""
    if TRAINED in checkpoint:
        return f"the average that ema kept; the trained ones are in the checkpoint as {TRAINED}"
    return "as trained"


def load_net(checkpoint: dict[str, Any]) -> Architecture:
    """The network of a checkpoint from ``open_checkpoint``, its weights loaded, in evaluation mode.

    Raises:
        UserError: The constructor refuses the stored arguments.
    """
    net = _build(checkpoint[KEY]["config"]["model"]["net"], "checkpoint")
    net.load_state_dict(_net_weights(checkpoint))
    return net.eval()
