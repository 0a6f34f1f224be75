"""The lines of a record, also of one that is being written."""

import json
from pathlib import Path
from typing import Any


class LineReader:
    """Reads the lines of a ``metrics.jsonl`` as they come.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0

    def new(self) -> list[dict[str, Any]]:
        """The whole lines since the last call; one that is being written, or was torn by a kill, is left out."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        lines = []
        for line in text.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
            self._position += len(line)
        return lines
