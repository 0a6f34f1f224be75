"""Check the types of configuration values with pydantic, and name them in messages."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
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


def _check_name(text: str) -> str:
    if not text or not text.isprintable() or "/" in text or text.startswith("."):
        raise ValueError("no name")
    return text


Name = Annotated[str, AfterValidator(_check_name)]
"""A string that becomes part of a file name."""

Side = Annotated[int, Ge(1), Le(2**14)]
"""Height or width of an image in pixels; a batch of larger images would not fit into memory."""

TYPE_NAMES = {
    Name: "a name: printable, without /, not beginning with a full stop",
    dict: "a mapping",
    Side: "an integer from 1 to 16384",
    PositiveInt: "a positive integer",
    NonNegativeInt: "an integer from 0",
    PositiveFloat: "a positive number",
    NoneType: "null",
}
"""Names of types in messages."""

EXACT = 2**53
"""Floats represent every whole number up to this one exactly."""

BOUNDS = {Ge: "from", Le: "to", Gt: "above", Lt: "below"}
"""Names of the limits of a number in messages."""


def annotation_of(function: Callable[..., Any], name: str) -> Any:
    """The annotation of a parameter; ``inspect.Parameter.empty`` if there is none."""
    function = inspect.unwrap(function)
    annotation = getattr(function, "__annotations__", {}).get(name, inspect.Parameter.empty)
    if isinstance(annotation, str):
        try:
            return eval(annotation, getattr(function, "__globals__", {}))  # noqa: S307  the constructor's own text
        except NameError:  # a type imported for type checkers only
            return inspect.Parameter.empty
    return annotation


def with_floats(value: Any, annotation: Any) -> Any:
    """Convert whole numbers to floats if a type expects floats, so that 1 and 1.0 are the same value.

    Args:
        value: A number, a list of numbers, or any other value, which is returned unchanged, as are integers above
            ``EXACT``.
        annotation: The type. A type that also accepts integers, such as ``int | float``, changes nothing.
    """
    types = list(_alternatives(annotation))
    if isinstance(value, list):
        of_items = [get_args(kind)[0] for kind in types if get_args(kind)]
        return [with_floats(item, of_items[0]) for item in value] if of_items else value
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= EXACT
    return float(value) if is_whole and float in types and int not in types else value


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The members of a union, without limits."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        for argument in arguments:
            yield from _alternatives(argument)
    elif origin is Annotated:
        yield from _alternatives(arguments[0])
    else:
        yield annotation


def check_value(key: str, value: object, expected: Any, where: str) -> None:
    """Check the type of one value.

    Args:
        key: Its key, for the message.
        value: The value.
        expected: A type that pydantic understands; others are not checked.
        where: End of the message.

    Raises:
        UserError: It has another type.
    """
    try:
        adapter = TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, SchemaError, NameError):  # a protocol, or a type that only its own library can check
        return
    try:
        checked = adapter.validate_python(value)
        # Numbers written as text, 2.0 or true for a count convert, but would reach the constructor unconverted.
        ok = (
            not (isinstance(value, str) and isinstance(checked, bool | int | float))
            and not (isinstance(value, float) and isinstance(checked, int))
            and not (isinstance(value, bool) and isinstance(checked, int | float) and not isinstance(checked, bool))
        )
    except ValidationError:
        ok = False
    if not ok:
        raise UserError(f"{key}={value}: expected {_type_name(expected)}{where}")


def _type_name(expected: Any) -> str:
    """The name of a type in messages."""
    if expected in TYPE_NAMES:
        return TYPE_NAMES[expected]
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(map(_type_name, arguments))
    if origin is dict:
        return TYPE_NAMES[dict]
    if origin is list and is_dataclass(arguments[0]):
        return f"a list of mappings with {', '.join(field.name for field in fields(arguments[0]))}"
    if origin is list:
        return f"a list, each entry {_type_name(arguments[0])}"
    if origin is Annotated:
        bounds = [bound for item in arguments[1:] for bound in getattr(item, "metadata", [item])]
        words = [f"{BOUNDS[type(bound)]} {getattr(bound, type(bound).__name__.lower())}" for bound in bounds]
        return " ".join([_type_name(arguments[0]), *words])
    return expected.__name__ if inspect.isclass(expected) else str(expected).replace("typing.", "")
