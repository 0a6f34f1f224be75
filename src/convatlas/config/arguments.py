"""The arguments of the constructors in a configuration, including the defaults of omitted ones."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from hydra.utils import get_object

from convatlas.config.former_names import IN_IDENTITIES
from convatlas.config.public_names import find_object, kind_of, public_name
from convatlas.config.value_types import annotation_of, with_floats
from convatlas.utils.files import dumps

INSTANTIATE = ("_target_", "_convert_", "_partial_", "_recursive_", "_args_")
"""Keys of a node that tell Hydra how to call the constructor."""

SUPPLIED: Mapping[str, frozenset[str]] = {
    "algorithm": frozenset({"params", "lr"}),
    "classification_task": frozenset({"optimizer", "schedule"}),
    "detection_task": frozenset({"optimizer", "schedule"}),
    "segmentation_task": frozenset({"optimizer", "schedule"}),
    "trainer": frozenset(
        {
            "callbacks",
            "default_root_dir",
            "enable_checkpointing",
            "enable_model_summary",
            "logger",
            "num_sanity_val_steps",
            "plugins",
            "use_distributed_sampler",
        }
    ),
}
"""Arguments that the program supplies itself and that no configuration holds, by kind of constructor."""

CHANGED_DEFAULTS: Mapping[str, int] = {}
"""Defaults that were changed on purpose, such as ``convatlas.models.ResNet.stride_in``, with a version number.

The version is part of the identity of every run that uses the default, so that such a run gets a new identity.
"""


def constructor(target: str) -> Callable[..., Any]:
    """Find the class or function of a ``_target_``: in the table of public names, otherwise by import.

    Raises:
        ImportError, ValueError: There is no such object.
    """
    public = public_name(target)
    found: Callable[..., Any] = get_object(target) if public is None else find_object(public)
    return found


COMMON = "common"
"""The ``**`` parameter of a constructor that passes on the arguments of its base class."""


def signature(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters of a function or class by name, with evaluated annotations.

    ``**common`` of a class is replaced by the parameters of its base class.
    """
    annotated = function.__init__ if inspect.isclass(function) else function
    found = {
        name: parameter.replace(annotation=annotation_of(annotated, name))
        for name, parameter in inspect.signature(function).parameters.items()
    }
    if inspect.isclass(function) and COMMON in found:
        del found[COMMON]
        owner = next(base for base in inspect.getmro(function) if "__init__" in vars(base))
        return signature(owner.__bases__[0]) | found
    return found


@cache
def parameters(target: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a constructor, except those that the program supplies itself."""
    public = public_name(target)
    supplied = SUPPLIED.get(kind_of(public), frozenset()) if public is not None else frozenset()
    found = signature(constructor(target))
    return {name: parameter for name, parameter in found.items() if name not in supplied}


def defaults(target: str) -> dict[str, Any]:
    """The default values of a constructor's arguments, as built-in types."""
    function = constructor(target)
    factories = {
        field.name: field.default_factory
        for field in (dataclasses.fields(function) if dataclasses.is_dataclass(function) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    return {
        name: _typed(target, name, _plain(factories[name]() if name in factories else parameter.default))
        for name, parameter in parameters(target).items()
        if parameter.default is not inspect.Parameter.empty
    }


def expanded(value: Any, defaults_of: Callable[[str], Mapping[str, Any]] = defaults) -> Any:
    """Add every argument that a configuration leaves at its default.

    Args:
        value: The configuration, or a part of it, as built-in containers.
        defaults_of: Gives the defaults of a ``_target_``.

    Returns:
        The same configuration with the defaults after the given arguments, and with public names in ``_target_``.
    """
    if isinstance(value, list):
        return [expanded(item, defaults_of) for item in value]
    if not isinstance(value, dict):
        return value
    given = {key: expanded(item, defaults_of) for key, item in value.items()}
    if "_target_" not in given:
        return given
    target = str(given["_target_"])
    named = {"_target_": public_name(target) or target} | {
        key: item for key, item in given.items() if key != "_target_"
    }
    named |= {key: item for key, item in defaults_of(target).items() if key not in given}
    return {key: _typed(target, key, item) for key, item in named.items()}


def targets(value: Any) -> set[str]:
    """The constructors that a configuration names anywhere, by public name if they have one."""
    if isinstance(value, list):
        return {name for item in value for name in targets(item)}
    if not isinstance(value, dict):
        return set()
    own = str(value["_target_"]) if "_target_" in value else ""
    return {public_name(own) or own} - {""} | targets(list(value.values()))


def reduced(value: Any) -> Any:
    """Remove every argument that has its default value; the inverse of ``expanded``.

    A default of ``CHANGED_DEFAULTS`` is replaced by its version, a name of ``IN_IDENTITIES`` by the former one.
    """
    if isinstance(value, list):
        return [reduced(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "_target_" not in value:
        return {key: reduced(item) for key, item in value.items()}
    target = str(value["_target_"])
    name = public_name(target) or target
    usual = defaults(target)
    found: dict[str, Any] = {"_target_": IN_IDENTITIES.get(name, name)}
    for key, item in value.items():
        typed = _typed(target, key, item)
        if key not in INSTANTIATE and not (key in usual and _same(typed, usual[key])):
            found[key] = reduced(typed)
    versions = {
        f"{key} at default of version": version
        for path, version in CHANGED_DEFAULTS.items()
        for owner, _, key in [path.rpartition(".")]
        if owner == name and key not in found
    }
    return found | versions


def _typed(target: str, name: str, value: Any) -> Any:
    """Convert whole numbers to floats if the constructor expects floats."""
    parameter = parameters(target).get(name)
    return with_floats(value, parameter.annotation) if parameter and isinstance(value, int | list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | bool | None):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))  # addresses differ between processes


def _same(first: Any, second: Any) -> bool:
    """Compare values and their types: as a limit of Lightning, 1 is one batch and 1.0 is all of them."""
    return dumps(first) == dumps(second)
