"""The rows of the table that the GPU benchmark prints, and the machine that it runs on."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch

Verdict = Literal["right", "wrong", "measured", "not here"]
Value = float | int | str
Precision = Literal["float32", "tf32", "bf16"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        check: What was looked at.
        verdict: ``right`` or ``wrong`` where there is a bound; ``measured`` where there is none; ``not here`` where
            this machine lacks what it needs.
        values: The figures by name, with units in the names.
        note: The bound, or why it was not done.
        section: The section that it belongs to; the process of the section fills it in.
    """

    check: str
    verdict: Verdict
    values: dict[str, Value] = field(default_factory=dict)
    note: str = ""
    section: str = ""

    @classmethod
    def within(cls, check: str, bound: float, **values: float) -> "Row":
        """A row whose values must all be at most ``bound``; NaN is not."""
        right = all(value <= bound for value in values.values())
        return cls(check, "right" if right else "wrong", dict(values), f"at most {bound:g}")

    @classmethod
    def equal(cls, check: str, difference: str | None, **values: Value) -> "Row":
        """A row that is right where there is no difference."""
        return cls(check, "wrong" if difference else "right", values, difference or "equal bit for bit")

    def cells(self) -> list[str]:
        """The row as text."""
        figures = "  ".join(f"{name} {_text(value)}" for name, value in self.values.items())
        return [self.section, self.check, figures, self.verdict, self.note]

    def line(self) -> str:
        """The row as a line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, line: str) -> "Row":
        """The row of a line."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Setting:
    """The device that a section runs on, and whether it runs in full.

    Attributes:
        device: The first GPU, or the CPU.
        reduced: A few small cases, which show that the command works; their times are no figures.
    """

    device: torch.device
    reduced: bool

    @classmethod
    def here(cls) -> "Setting":
        """That of this machine: reduced where it has no GPU."""
        available = torch.cuda.is_available()
        return cls(torch.device("cuda" if available else "cpu"), not available)

    @property
    def accelerator(self) -> str:
        """The device as ``trainer.accelerator`` names it."""
        return "gpu" if self.device.type == "cuda" else "cpu"

    @contextmanager
    def precision(self, name: Precision) -> Iterator[None]:
        """Compute in a precision: TF32 in matrix products and convolutions, bf16 by autocast."""
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=name == "bf16"):
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| section | check | figures | verdict | |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *(_table_row(row) for row in rows)]) + "\n"


def _table_row(row: Row) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in row.cells()) + " |"


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
