"""Check configurations from a file before any part of them is constructed.

A checkpoint, the ``config.yaml`` of a run or a ``sweep.yaml`` may come from an untrusted source. They may construct
only the public names of ``public_names.TABLE``, each at the keys that are meant for its kind.
"""

import inspect
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

from omegaconf import OmegaConf

from convatlas.config.arguments import parameters
from convatlas.config.composition import check_config
from convatlas.config.public_names import TABLE, kind_of, public_name
from convatlas.errors import UserError

Places = Mapping[str, tuple[str, ...]]

KEY = re.compile(r"[A-Za-z0-9][\w-]*")
"""Pattern of a key: other characters have a meaning for Hydra when a configuration becomes a command line."""

TASKS = ("classification_task", "segmentation_task", "detection_task")
DATA = ("classification_data", "segmentation_data", "detection_data")

TRAINING: Places = {
    "augment": ("image_augmentation", "mask_augmentation", "object_augmentation"),
    "data": DATA,
    "model": TASKS,
    "optimizer": ("optimizer",),
    "schedule": ("schedule",),
    "tracking.*": ("tracker",),
    "trainer": ("trainer",),
}
"""The kinds of objects that a training's configuration may construct, by key."""

SWEEP: Places = {"pruner": ("pruner",), "sampler": ("sampler",), "space.*": ("parameter",)}
"""The kinds of objects that a ``sweep.yaml`` may construct, by key."""

ARGUMENTS: Mapping[str, Places] = {
    "classification_task": {"net": ("classifier",)},
    "segmentation_task": {"net": ("segmenter",)},
    "detection_task": {"net": ("detector",)},
    "segmenter": {"backbone": ("classifier",)},
    "detector": {"backbone": ("classifier",), "proposals": ("proposals",), "regions": ("regions",)},
    "classification_data": {"augment": ("image_augmentation",), "dataset": ("classification_dataset",)},
    "segmentation_data": {"augment": ("mask_augmentation",), "dataset": ("segmentation_dataset",)},
    "detection_data": {"augment": ("object_augmentation",), "dataset": ("detection_dataset",)},
    "image_augmentation": {
        "batch.*": ("batch_step",),
        "crop": ("image_crop",),
        "image_size": ("progressive_size",),
        "mix": ("mix",),
        "steps.*": ("image_step",),
    },
    "mask_augmentation": {
        "crop": ("mask_crop",),
        "joint.*": ("mask_step",),
        "steps.*": ("image_step",),
        "weights": ("pixel_weights",),
    },
    "object_augmentation": {"joint.*": ("object_step",), "resize": ("object_resize",), "steps.*": ("image_step",)},
    "optimizer": {"algorithm": ("algorithm",)},
    "trainer": {"strategy": ("strategy",)},
    "sampler": {"space.*": ("parameter",)},
    "pruner": {"wrapped_pruner": ("pruner",)},
}
"""The kinds of objects that the arguments of a constructor may be, by the kind of the constructor."""

REQUIRED = ("net", "backbone", "proposals", "regions", "dataset", "crop", "algorithm", "wrapped_pruner")
"""Arguments that must always be an object."""

CALLED_LATER = (
    "algorithm",
    "classification_dataset",
    "detection_dataset",
    "schedule",
    "segmentation_dataset",
    "tracker",
)
"""Kinds of functions that the program calls itself; their nodes are ``_partial_``."""


def check_stored(
    config: Mapping[str, Any], places: Places, where: str, types: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Check a configuration from a file.

    Args:
        config: Built-in containers.
        places: The kinds of objects that it may construct, by key: ``TRAINING`` or ``SWEEP``.
        where: Name of the file in messages, such as ``checkpoint=best.ckpt``.
        types: Types of required keys, by dotted name.

    Returns:
        The same configuration with public names in every ``_target_``; safe to instantiate.

    Raises:
        UserError: An object at a key that is not meant for its kind, an unknown or missing argument, a value of the
            wrong type, or an interpolation.
    """
    checked = _members(config, "", places, where)
    try:
        check_config(OmegaConf.create(checked), types or {})
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return checked


def check_paths(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the ``data`` of a stored configuration without access to files outside ``data.root``.

    Args:
        data: From ``check_stored``.
        where: Name of the file in messages.

    Returns:
        The same settings, without downloads and with the user's own cache of file lists.

    Raises:
        UserError: A name of the data set leads out of ``data.root``.
    """
    dataset = dict(data["dataset"])
    if "download" in dataset:
        dataset["download"] = False
    if dataset.get("scan_cache") is not None:
        dataset["scan_cache"] = "user"
    for key, value in dataset.items():
        for text in value if isinstance(value, list) else [value]:
            path = PurePath(text) if isinstance(text, str) and key != "root" else PurePath()
            if path.is_absolute() or ".." in path.parts:
                raise UserError(
                    f"{where}: data.dataset.{key}={text} leads out of data.root; give data.dataset.{key}=… on the "
                    "command line if that is meant"
                )
    return {**data, "dataset": dataset}


def _check(value: Any, key: str, kinds: tuple[str, ...], where: str) -> Any:
    """Check a value that may be an object of one of these kinds; without kinds it must be a plain value."""
    if isinstance(value, str) and "${" in value:
        raise UserError(f"{where}: {key}={value}: a stored configuration holds values, no interpolations")
    if isinstance(value, list):
        return [_check(item, f"{key}[{number}]", (), where) for number, item in enumerate(value)]
    if not isinstance(value, dict):
        if value is not None and not isinstance(value, str | int | float | bool):
            raise UserError(f"{where}: {key}: expected a plain value, found {type(value).__name__}")
        if kinds and key.rpartition(".")[2] in REQUIRED:
            raise UserError(f"{where}: {key}={value}: expected _target_, one of {_options(kinds)}")
        return value
    if "_target_" not in value:
        if kinds:
            raise UserError(f"{where}: {key}: expected _target_, one of {_options(kinds)}")
        return _members(value, key, {}, where)
    public = public_name(value["_target_"]) if isinstance(value["_target_"], str) else None
    if public is None or kind_of(public) not in kinds:
        expected = f"expected one of {_options(kinds)}" if kinds else "expected a plain value"
        raise UserError(f"{where}: {key} would construct {value['_target_']}; {expected}")
    kind = kind_of(public)
    own: dict[str, Any] = {"_target_": public}
    own |= {"_convert_": "all"} if "_convert_" in value else {}
    own |= {"_partial_": True} if kind in CALLED_LATER else {}
    given = {name: item for name, item in value.items() if name not in own}
    taken = parameters(public)
    for name in given:
        if name not in taken:
            raise UserError(f"{where}: {key}.{name}: {public} takes no such argument")
    for name, parameter in taken.items():
        needed = parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        if needed and name not in given and kind not in CALLED_LATER:
            raise UserError(f"{where}: {key}.{name} is missing: {public} needs it")
    return {**own, **_members(given, key, ARGUMENTS.get(kind, {}), where)}


def _members(node: Mapping[str, Any], key: str, places: Places, where: str) -> dict[str, Any]:
    """Check the members of a mapping, whose own key may be a place such as ``steps.*``."""
    checked = {}
    for name, value in node.items():
        if not isinstance(name, str) or not KEY.fullmatch(name):
            raise UserError(f"{where}: {key and f'{key}: '}{name!r} is no key of a configuration")
        path = f"{key}.{name}" if key else str(name)
        nested = {place.partition(".")[2]: kinds for place, kinds in places.items() if place.startswith(f"{name}.")}
        if nested and isinstance(value, dict) and "_target_" not in value:
            checked[name] = _members(value, path, nested, where)
        else:
            found = [kinds for place, kinds in places.items() if fnmatchcase(str(name), place)]
            checked[name] = _check(value, path, found[0] if found else (), where)
    return checked


def _options(kinds: tuple[str, ...]) -> str:
    return ", ".join(name for kind in kinds for name in TABLE[kind])
