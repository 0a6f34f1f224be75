"""Compose a configuration with Hydra and check it against the constructors it names.

Everything here runs in well under a second and before any data, network or accelerator is touched.
"""

import difflib
import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import hydra
from annotated_types import Ge, Gt, Le, Lt
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from pydantic import (
    ConfigDict,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import SchemaError

from convatlas.errors import UserError
from convatlas.rank import num_nodes, ranks_per_node

SMALL_IMAGE = 64
"""Images with fewer pixels a side take the small-input stem of a network."""

SPOKEN = {
    PositiveInt: "a positive integer",
    NonNegativeInt: "an integer from 0",
    PositiveFloat: "a positive number",
    NoneType: "null",
}
"""How messages call the types that have no short name."""

BOUNDS = {Ge: "from", Le: "to", Gt: "above", Lt: "below"}
"""How messages call the limits of a number."""

OmegaConf.register_new_resolver(
    "stem_for",  # an unknown size is the paper's
    lambda image_size: "small" if image_size is not None and image_size < SMALL_IMAGE else "imagenet",
    replace=True,
)
OmegaConf.register_new_resolver("num_nodes", num_nodes, replace=True)
OmegaConf.register_new_resolver("ranks_per_node", ranks_per_node, replace=True)


def project_path(name: str) -> Path:
    """Where ``conf`` or ``pipelines`` lies: inside an installed package, at the top of a checkout."""
    packaged = Path(__file__).parent / name
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / name


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
    try:
        return _compose(name, overrides)
    except MissingConfigException as error:
        wanted = str(error.missing_cfg_file)
        group, _, option = wanted.rpartition("/")
        options = [str(option) for option in error.options or ()]
        hint = _did_you_mean(option, options) or f"; the options are {', '.join(options)}"
        raise UserError(f"{group or name}={option}: there is no such configuration{hint}") from error
    except (HydraException, OmegaConfBaseException) as error:
        message = " ".join(str(error).split())
        unknown = re.match(r"Could not override '([^']+)'", message)
        if unknown is None:
            raise UserError(message) from error
        key = unknown.group(1)
        raise UserError(message + _did_you_mean(key, _known_keys(name, overrides, key))) from error


def compose_around_train(name: str, overrides: Sequence[str], own_keys: Collection[str]) -> DictConfig:
    """Compose ``conf/<name>.yaml`` for a verb that starts trainings.

    Args:
        name: The verb.
        overrides: Overrides of the verb and of ``train``, mixed.
        own_keys: First words of the verb's own keys.

    Returns:
        The verb's configuration; ``train`` lists the overrides of the training: those of the file, then those given.
    """
    parsed = parse_overrides(overrides)
    own = [override for override in parsed if override.key_or_group.split(".")[0] in own_keys]
    config = compose(name, [str(override.input_line) for override in own])
    with open_dict(config):
        config.train = [*config.get("train", []), *(str(item.input_line) for item in parsed if item not in own)]
    return config


def overridden_keys(overrides: Sequence[str]) -> set[str]:
    """The keys that a person named on the command line, such as ``{"data", "data.root"}``."""
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
    """A value in the grammar of Hydra's overrides: text is quoted, whatever it holds."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(quoted, value)) + "]"
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def fill_num_classes(config: DictConfig, num_classes: int) -> None:
    """Let ``data.num_classes: null`` be what the class list has."""
    if config.data.num_classes is None:
        config.data.num_classes = num_classes


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as built-in containers, as it goes to files and checkpoints."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def check_config(config: DictConfig, types: Mapping[str, Any]) -> None:
    """Check that no value is missing and that each has the type its constructor asks for.

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
        _check_value(key, _content(OmegaConf.select(config, key)), expected, "")
    for path, node in _nodes(config):
        if "_target_" in node:
            _check_call(path, node)


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    with hydra.initialize_config_dir(config_dir=str(project_path("conf").resolve()), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))


def _known_keys(name: str, overrides: Sequence[str], unknown: str) -> list[str]:
    others = [override for override in overrides if not override.lstrip("+~").startswith(f"{unknown}=")]
    try:
        config = _compose(name, others)
    except (HydraException, OmegaConfBaseException):
        config = _compose(name, [])
    groups = [path.name for path in project_path("conf").iterdir() if path.is_dir()]
    keys = [f"{path}.{key}" if path else key for path, node in _nodes(config) for key in map(str, node)]
    return groups + keys


def _did_you_mean(name: str, candidates: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    return f"; did you mean '{nearest[0]}'?" if nearest else ""


def _nodes(config: DictConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    yield path, config
    for key in map(str, config):
        if OmegaConf.is_interpolation(config, key):
            continue  # the node is visited where it is written
        value = config[key]
        if isinstance(value, DictConfig):
            yield from _nodes(value, f"{path}.{key}" if path else key)


def _check_call(path: str, node: DictConfig) -> None:
    try:
        target: Callable[..., Any] = hydra.utils.get_object(node["_target_"])
    except (ImportError, ValueError) as error:
        raise UserError(f"{path}._target_={node['_target_']}: cannot be imported ({error})") from error
    function = target.__init__ if inspect.isclass(target) else target
    parameters = inspect.signature(target).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in node:
        key = str(key)
        if key in ("_target_", "_partial_", "_recursive_", "_convert_", "_args_"):
            continue
        if key not in parameters:
            if open_ended:
                continue
            hint = _did_you_mean(key, list(parameters))
            raise UserError(f"{path}.{key}: {node['_target_']} takes no such argument{hint}")
        value = _content(node[key])
        if value is None and OmegaConf.is_interpolation(node, key):
            continue  # num_classes, which the class list fills in
        annotation = _annotation(function, key)
        if annotation is not inspect.Parameter.empty and not _holds_target(value):
            _check_value(f"{path}.{key}", value, annotation, f" ({node['_target_']})")


def _content(value: Any) -> Any:
    """A value of the configuration as built-in containers."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _holds_target(value: object) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(_holds_target(item) for item in value.values())
    return isinstance(value, list) and any(_holds_target(item) for item in value)


def _annotation(function: Callable[..., Any], name: str) -> Any:
    function = inspect.unwrap(function)
    annotation = getattr(function, "__annotations__", {}).get(name, inspect.Parameter.empty)
    if isinstance(annotation, str):
        try:
            return eval(annotation, getattr(function, "__globals__", {}))  # noqa: S307  the constructor's own text
        except NameError:  # a type imported for type checkers only
            return inspect.Parameter.empty
    return annotation


def _check_value(key: str, value: object, expected: Any, where: str) -> None:
    try:
        adapter = TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, SchemaError, NameError):  # a protocol, or a type that only its own library can check
        return
    try:
        checked = adapter.validate_python(value)
        # Numbers written as text, or 2.0 for a count, convert but would reach the constructor unconverted.
        ok = not (isinstance(value, str) and isinstance(checked, bool | int | float)) and not (
            isinstance(value, float) and isinstance(checked, int)
        )
    except ValidationError:
        ok = False
    if not ok:
        raise UserError(f"{key}={value}: expected {_spoken(expected)}{where}")


def _spoken(expected: Any) -> str:
    """A type as a person would call it."""
    if expected in SPOKEN:
        return SPOKEN[expected]
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(map(_spoken, arguments))
    if origin is list and is_dataclass(arguments[0]):
        return f"a list of mappings with {', '.join(field.name for field in fields(arguments[0]))}"
    if origin is list:
        return f"a list, each entry {_spoken(arguments[0])}"
    if origin is Annotated:
        bounds = [bound for item in arguments[1:] for bound in getattr(item, "metadata", [item])]
        words = [f"{BOUNDS[type(bound)]} {getattr(bound, type(bound).__name__.lower())}" for bound in bounds]
        return " ".join([_spoken(arguments[0]), *words])
    return expected.__name__ if inspect.isclass(expected) else str(expected).replace("typing.", "")
