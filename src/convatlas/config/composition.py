"""Compose a configuration with Hydra and check it against the constructors that it names.

This takes well under a second and touches no data, network or accelerator.
"""

import difflib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from convatlas.config.arguments import INSTANTIATE, parameters
from convatlas.config.public_names import public_name
from convatlas.config.value_types import check_value
from convatlas.errors import UserError
from convatlas.utils.distributed import num_nodes, ranks_per_node

SMALL_IMAGE = 64
"""Images with a side below this number of pixels use the stem of a network for small images."""

USUAL_NAMES = {
    "batch_size": "data.global_batch_size",
    "epochs": "trainer.max_epochs",
    "gpus": "trainer.devices",
    "image_size": "data.image_size",
    "learning_rate": "optimizer.learning_rate",
    "lr": "optimizer.learning_rate",
    "max_epochs": "trainer.max_epochs",
    "momentum": "optimizer.algorithm.momentum",
    "num_classes": "data.num_classes",
    "num_epochs": "trainer.max_epochs",
    "num_workers": "data.threads",
    "output_dir": "run.root",
    "precision": "trainer.precision",
    "pretrained": "model.weights",
    "root": "data.root",
    "warmup": "schedule.warmup_fraction",
    "wd": "optimizer.algorithm.weight_decay",
    "weight_decay": "optimizer.algorithm.weight_decay",
    "workers": "data.threads",
}
"""Names that other programs use, and our keys for the same settings."""

NAMED_OBJECTS = ("tracking", "space")
"""Keys whose members have names that the user chooses; each member is an object."""

OmegaConf.register_new_resolver(
    "stem_for",  # an unknown size is the paper's
    lambda image_size: "small" if image_size is not None and image_size < SMALL_IMAGE else "imagenet",
    replace=True,
)
OmegaConf.register_new_resolver("num_nodes", num_nodes, replace=True)
OmegaConf.register_new_resolver("ranks_per_node", ranks_per_node, replace=True)


def project_path(name: str) -> Path:
    """Find ``conf`` or ``pipelines``: inside an installed package, or at the top of a checkout."""
    packaged = Path(__file__).parents[1] / name
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / name


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose ``conf/<name>.yaml`` with command-line overrides.

    Args:
        name: The primary configuration, which is the verb: ``train``, ``evaluate``, …
        overrides: Hydra overrides, such as ``model=resnet50`` or ``data.root=/data``.

    Returns:
        The configuration, interpolations unresolved, closed to unknown keys.

    Raises:
        UserError: An unknown key or group option (with the nearest name), a malformed override.
    """
    parsed = parse_overrides(overrides)
    for key in (override.key_or_group for override in parsed):
        if key.partition(".")[0] == "hydra":
            raise UserError(f"{key}: Hydra's own settings are not used; run.root=… says where runs are written")
    config, added = _compose_known(name, parsed)
    if added:
        _check_arguments(config, added)
        return compose(name, [f"++{line}" if line.partition("=")[0] in added else line for line in overrides])
    known = dict(verb_keys(name))
    for override in parsed:
        _check_added(name, config, override, overrides)
        if override.package is not None:  # the place that a group is put to
            known[override.package.partition(".")[0]] = None
    for key in map(str, config):
        if key not in known:
            raise _unknown_key(key, list(known))
    for _, node in _nodes(config):
        if isinstance(target := node.get("_target_"), str):
            node["_target_"] = public_name(target) or target
    return config


def compose_around_train(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/<name>.yaml`` for a verb that starts trainings.

    Args:
        name: The verb.
        overrides: Overrides of the verb, whose keys are in its file, and of ``train``, mixed.

    Returns:
        The verb's configuration. ``train`` lists the overrides of the training: first those of the verb's file, then
        those given.
    """
    parsed = parse_overrides(overrides)
    own = [override for override in parsed if override.key_or_group.split(".")[0] in verb_keys(name)]
    config = compose(name, [str(override.input_line) for override in own])
    with open_dict(config):
        config.train = [*config.get("train", []), *(str(item.input_line) for item in parsed if item not in own)]
    return config


def overridden_keys(overrides: Sequence[str]) -> set[str]:
    """The keys given on the command line, such as ``{"data", "data.root"}``."""
    return {override.key_or_group for override in parse_overrides(overrides)}


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse command-line overrides.

    Raises:
        UserError: One is malformed.
    """
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from error


def quoted(value: Any) -> str:
    """Write a value in the grammar of Hydra's overrides; strings are always quoted."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(quoted, value)) + "]"
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def fill_num_classes(config: DictConfig, num_classes: int) -> None:
    """Replace ``data.num_classes: null`` by the number of classes in the class list."""
    if config.data.num_classes is None:
        config.data.num_classes = num_classes


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as built-in containers, for files and checkpoints."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def check_config(config: DictConfig, types: Mapping[str, Any]) -> None:
    """Check that no value is missing and that each has the type that its constructor expects.

    Args:
        config: The composed configuration.
        types: Types of keys that belong to no constructor, by dotted name: ``{"seed": int}``.

    Raises:
        UserError: Naming the key, its value and what was expected.
    """
    try:
        missing = OmegaConf.missing_keys(config)
        if missing:
            key = sorted(missing)[0]
            raise UserError(f"{key} is missing: give {key}=… on the command line")
        OmegaConf.resolve(config.copy())
    except InterpolationKeyError as error:
        wanted = re.search(r"'([^']+)'", str(error))
        group = str(error.full_key).partition(".")[0]
        raise UserError(
            f"{group}: {error.full_key} asks for {wanted and wanted.group(1)}, which these data do not have; choose "
            f"another {group}"
        ) from error
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error
    for key, expected in types.items():
        check_value(key, _content(OmegaConf.select(config, key)), expected, "")
    for path, node in _nodes(config):
        if "_target_" in node:
            _check_call(path, node)


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(config_dir=str(project_path("conf").resolve()), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))


def _compose_known(name: str, parsed: Sequence[Override]) -> tuple[DictConfig, list[str]]:
    """Compose with the overrides whose keys exist in the files.

    Returns:
        The configuration, and the other keys, which may be arguments that the files leave at their defaults.

    Raises:
        UserError: As ``compose``.
    """
    added: list[str] = []
    while True:
        present = [override for override in parsed if override.key_or_group not in added]
        try:
            return _compose(name, [str(override.input_line) for override in present]), added
        except MissingConfigException as error:
            wanted = str(error.missing_cfg_file)
            group, _, option = wanted.rpartition("/")
            options = [str(option) for option in error.options or ()]
            hint = _did_you_mean(option, options) or f"; the options are {', '.join(options)}"
            raise UserError(f"{group or name}={option}: there is no such configuration{hint}") from error
        except (HydraException, OmegaConfBaseException) as error:
            message = " ".join(str(error).split())
            if twice := re.match(r"Could not append to config. An item is already at '([^']+)'", message):
                raise UserError(f"{twice[1]}: it exists already; give {twice[1]}=… without +") from error
            unknown = re.match(r"Could not override '([^']+)'", message)
            if unknown is None:
                raise UserError(message) from error
            if all(override.key_or_group != unknown[1] for override in present):  # a group with a package
                raise _unknown_key(unknown[1], list(verb_keys(name))) from error
            added.append(unknown[1])


def _check_arguments(config: DictConfig, keys: Sequence[str]) -> None:
    """Refuse keys that are neither in a configuration nor arguments of its constructors.

    Raises:
        UserError: There is no such argument; the message suggests the nearest name.
    """
    for key in keys:
        parent, _, argument = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else None
        if isinstance(node, DictConfig) and "_target_" in node and argument in parameters(node["_target_"]):
            continue
        groups = [path.name for path in project_path("conf").iterdir() if path.is_dir()]
        known = [f"{path}.{member}" if path else member for path, node in _nodes(config) for member in _arguments(node)]
        raise _unknown_key(key, groups + known)


def _arguments(node: DictConfig) -> list[str]:
    """The keys that a node has or could have."""
    more = parameters(node["_target_"]) if isinstance(node.get("_target_"), str) else ()
    return [key for key in dict.fromkeys([*map(str, node), *more]) if key not in INSTANTIATE]


def _check_added(name: str, config: DictConfig, override: Override, overrides: Sequence[str]) -> None:
    """Refuse ``+key=value`` if nothing reads the key; arguments of constructors are checked elsewhere."""
    key = override.key_or_group
    if override.type not in (OverrideType.ADD, OverrideType.FORCE_ADD) or override.package is not None:
        return
    parent, _, member = key.rpartition(".")
    if not parent:  # a group, or an unknown key, which is refused elsewhere
        return
    node: Any = config
    known: Any = verb_keys(name)
    for part in parent.split("."):
        node = node[part]
        known = (known or {}).get(part)
        if not isinstance(node, DictConfig) or "_target_" in node or part in NAMED_OBJECTS:
            return
    if known is None:  # the mapping belongs to a group
        known = OmegaConf.select(_compose(name, [line for line in overrides if line != override.input_line]), parent)
    if member not in known:
        raise _unknown_key(key, [f"{parent}.{other}" for other in known])


@cache
def verb_keys(name: str) -> Mapping[str, Any]:
    """The keys of a verb's file with their values; the value of a group is None."""
    content: dict[str, Any] = yaml.safe_load((project_path("conf") / f"{name}.yaml").read_text(encoding="utf-8"))
    keys: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, dict):
            keys |= {group.removeprefix("optional ").lstrip("/"): None for group in entry}
        elif entry != "_self_":
            keys |= verb_keys(entry)
    return keys | content


def _unknown_key(key: str, known: Sequence[str]) -> UserError:
    usual = USUAL_NAMES.get(key.rpartition(".")[2])
    is_known = usual is not None and any(name in known for name in (usual, usual.partition(".")[0]))
    hint = f"; did you mean '{usual}'?" if is_known else _did_you_mean(key, known)
    return UserError(f"{key}: there is no such key{hint}")


def _did_you_mean(name: str, candidates: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def _nodes(config: DictConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    yield path, config
    for key in map(str, config):
        if OmegaConf.is_interpolation(config, key) or OmegaConf.is_missing(config, key):
            continue  # an interpolated node is visited at its own place
        value = config[key]
        if isinstance(value, DictConfig):
            yield from _nodes(value, f"{path}.{key}" if path else key)


def _check_call(path: str, node: DictConfig) -> None:
    try:
        taken = parameters(node["_target_"])
    except (ImportError, ValueError) as error:
        raise UserError(f"{path}._target_={node['_target_']}: cannot be imported ({error})") from error
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
    for key in node:
        key = str(key)
        if key == "_args_":
            raise UserError(f"{path}._args_: expected every argument by its name, as {path}.NAME=…")
        if key in INSTANTIATE:
            continue
        if key not in taken:
            if open_ended:
                continue
            hint = _did_you_mean(key, list(taken))
            raise UserError(f"{path}.{key}: {node['_target_']} takes no such argument{hint}")
        value = _content(node[key])
        if value is None and OmegaConf.is_interpolation(node, key):
            continue  # num_classes: the class list determines it
        annotation = taken[key].annotation
        if annotation is not inspect.Parameter.empty and not _holds_target(value):
            check_value(f"{path}.{key}", value, annotation, f" ({node['_target_']})")


def _content(value: Any) -> Any:
    """A value of the configuration as built-in containers."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _holds_target(value: object) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(_holds_target(item) for item in value.values())
    return isinstance(value, list) and any(_holds_target(item) for item in value)
