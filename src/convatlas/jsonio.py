"""JSON that every reader accepts: non-finite numbers as text, files replaced atomically."""

import json
import math
import os
from pathlib import Path
from typing import Any


def jsonable(value: Any) -> Any:
    """Replace NaN and infinities by ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, as JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def dumps(value: Any, indent: int | None = None) -> str:
    """Serialise to standard JSON; paths and other objects become their text."""
    return json.dumps(jsonable(value), indent=indent, default=str, allow_nan=False)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, never meets half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def printable(name: str) -> str:
    """Write what terminals and UTF-8 have no sign for as escapes: file names may hold any byte."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)
