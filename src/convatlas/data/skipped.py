"""Images that could not be decoded and were left out, counted and named."""

import sys
from pathlib import Path
from threading import Lock

from convatlas.data.images.decode import ImageError
from convatlas.utils.files import printable, writing


class SkippedImages:
    """Names each left-out image once: on standard error and, where there is a log, in it.

    Attributes:
        log: A file that gets a line for each; several ranks may share it.
    """

    def __init__(self) -> None:
        self.log: Path | None = None
        self._messages: set[str] = set()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, error: ImageError) -> None:
        """Note an image, whose error names it."""
        message = printable(str(error))
        with self._lock:
            if message in self._messages:
                return
            self._messages.add(message)
            sys.stderr.write(f"skipped   {message}\n")
            if self.log is not None:
                with writing(self.log), self.log.open("a", encoding="utf-8") as file:
                    file.write(message + "\n")
