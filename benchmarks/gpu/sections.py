"""The parts of the GPU benchmark, each a process of its own: a fault of one does not stop the others."""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.gpu.augmentation import augmentation
from benchmarks.gpu.loading import loading
from benchmarks.gpu.numerics import numerics
from benchmarks.gpu.rows import Row, Setting
from benchmarks.gpu.speed import networks, resnet50, where_time_goes
from benchmarks.gpu.training import ranks, repeated, scaled, variants
from convatlas.run.environment import quiet_libraries

SECTIONS: dict[str, Callable[[Setting], Iterable[Row]]] = {
    "numerics": numerics,
    "augmentation": augmentation,
    "repeated": repeated,
    "scaled": scaled,
    "variants": variants,
    "ranks": ranks,
    "resnet50": resnet50,
    "networks": networks,
    "loading": loading,
    "where_time_goes": where_time_goes,
}


@contextmanager
def _rows_alone() -> Iterator[Callable[[Row], None]]:
    """Keep standard output for rows; whatever else is printed goes to standard error."""
    output, sys.stdout = sys.stdout, sys.stderr

    def write(row: Row) -> None:
        output.write(row.line() + "\n")
        output.flush()

    try:
        yield write
    finally:
        sys.stdout = output


def main() -> None:
    """Run the section that the first argument names, and write its rows as lines of JSON."""
    name = sys.argv[1]
    quiet_libraries()
    with _rows_alone() as write:
        try:
            for row in SECTIONS[name](Setting.here()):
                write(replace(row, section=name))
        except Exception as error:  # whatever it is, the other sections go on
            traceback.print_exc()
            write(Row("the section ends early", "wrong", note=" ".join(str(error).split())[:300], section=name))


if __name__ == "__main__":
    main()
