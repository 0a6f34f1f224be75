"""The classes of a data set, in the order of the network's outputs."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from convatlas.errors import UserError

SHOWN = 5


def has_control_characters(name: str) -> bool:
    """Whether a name holds a control character, such as a line break or an escape of the terminal."""
    return re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", name) is not None


@dataclass(frozen=True)
class ClassList:
    """The names of the classes, in order.

    Args:
        names: One name a class.

    Raises:
        UserError: A name holds a control character, which a list of names cannot.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in filter(has_control_characters, self.names):
            raise UserError(f"class {name!a}: expected a name without line breaks and other control characters")

    @classmethod
    def read(cls, path: Path) -> "ClassList":
        """Read a file with one name a line; spaces belong to the name, as in the folder's.

        Raises:
            UserError: The file is empty or names a class twice.
        """
        names = tuple(line for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
        if not names or len(set(names)) != len(names):
            raise UserError(f"{path}: expected one class name a line, each once")
        return cls(names)

    @property
    def hash(self) -> str:
        """SHA-256 of the names in order, as hexadecimal digits."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def check_equal(self, other: "ClassList", where: str, other_where: str) -> None:
        """Refuse classes that differ in number, name or order.

        Args:
            other: The classes found.
            where: The origin of these classes, such as ``checkpoint=best.ckpt``.
            other_where: The origin of the other classes.

        Raises:
            UserError: Naming both lists.
        """
        if self.names != other.names:
            raise UserError(
                f"the classes differ: {where} has {self._described()}, {other_where} has {other._described()}; "
                "expected the same names in the same order (a classes.txt beside the images sets it)"
            )

    def _described(self) -> str:
        rest = ", …" if len(self.names) > SHOWN else ""
        return f"{len(self.names)} ({', '.join(self.names[:SHOWN])}{rest}; hash {self.hash[:8]})"
