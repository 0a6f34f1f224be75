"""Run sections of the GPU benchmark in a process that a fault may end without an end to the others."""

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace

from benchmarks.gpu.augmentation import augmentation
from benchmarks.gpu.loading import loading
from benchmarks.gpu.numerics import numerics
from benchmarks.gpu.profiling import where_time_goes
from benchmarks.gpu.rows import Row, Setting
from benchmarks.gpu.speed import networks, resnet50
from benchmarks.gpu.training import ranks, repeated, scaled, variants
from convatlas.training.trainer import quiet_libraries

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


def main() -> None:
    """Run the sections that the arguments name, and write their rows as lines of JSON."""
    output = sys.stdout
    quiet_libraries()
    with redirect_stdout(sys.stderr):  # whatever else is printed is no row
        for name in sys.argv[1:]:
            for row in _rows(name):
                output.write(replace(row, section=name).line() + "\n")
                output.flush()


def _rows(name: str) -> Iterator[Row]:
    try:
        yield from SECTIONS[name](Setting.here())
    except Exception as error:  # whatever it is, the other sections go on
        traceback.print_exc()
        yield Row("the section ends early", "wrong", note=" ".join(str(error).split())[:300])


if __name__ == "__main__":
    main()
