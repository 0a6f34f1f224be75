"""Show on this machine's GPUs that training is right, and how fast it is.

    make gpu                                              # correctness, and the speed of ResNet-50
    python -m benchmarks.gpu --only networks              # one section
    python -m benchmarks.gpu --wheels DIR                 # packages that are missing here, without a network

It needs torch, torchvision, pytorch-lightning, torchmetrics and timm. What else is missing is installed from the folder
of wheels, which `scripts/gpu_wheels.sh DIR` makes, into a temporary folder. On a GPU each section is a process of its
own. Rows are printed as they come. They are written to `docs/gpu.json` and into `docs/gpu.md`, where other sections of
the same card stay. Without a GPU a reduced form runs on the CPU, which shows that the command works; its times are no
figures, and nothing is written. The exit status is 1 where a row is wrong.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu.rows import Row, markdown

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
USUAL = ("numerics", "augmentation", "repeated", "scaled", "variants", "ranks", "resnet50")
"""The sections that run without ``--only``; together they are to take under 9 minutes on one GPU."""
MORE = ("networks", "loading", "where_time_goes")
STARTS_PROCESSES = ("repeated", "scaled", "ranks")
"""Sections that mostly wait for processes that they start."""
FIGURES = "<!-- make gpu writes what follows -->"
"""The line of docs/gpu.md after which the table stands."""


def install(wheels: Path, folder: Path) -> None:
    """Install the packages of a folder of wheels that are missing here into another folder.

    Raises:
        SystemExit: There is no such folder, or pip fails.
    """
    files = sorted(wheels.glob("*.whl"))
    if not files:
        sys.exit(f"--wheels {wheels}: no wheels; scripts/gpu_wheels.sh {wheels} makes them on a machine with a network")
    missing = [str(file) for file in files if not _is_here(file.name.split("-")[0])]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target"]
    if missing and subprocess.run([*command, str(folder), *missing], check=False).returncode:
        sys.exit(f"--wheels {wheels}: pip could not install them for Python {sys.version.split()[0]}")


def _is_here(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Run the sections one after the other and write what they report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*USUAL, *MORE], default=USUAL, help="some sections")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for what is missing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.wheels:
            install(arguments.wheels, Path(folder))
        paths = [folder, str(REPOSITORY / "src"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        run(list(arguments.only), environment)


def say(line: str) -> None:
    """Print a line at once, and whole where two threads print."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def show(row: Row) -> None:
    """Print a row."""
    say("  ".join(cell for cell in row.cells() if cell))


def earlier_rows(card: str, version: str) -> list[Row]:
    """Read the rows that earlier calls wrote for the same card and the same version of PyTorch."""
    if not (DOCS / "gpu.json").is_file():
        return []
    record = json.loads((DOCS / "gpu.json").read_text(encoding="utf-8"))
    return [Row(**row) for row in record["rows"]] if (record["card"], record["torch"]) == (card, version) else []


def run_process(sections: list[str], environment: dict[str, str]) -> list[Row]:
    """Run sections in a separate process and print their rows, and its error output if a row is wrong."""
    rows: list[Row] = []
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu.sections", *sections]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=said, encoding="utf-8", cwd=REPOSITORY
        )
        for line in process.stdout or ():
            rows.append(Row.read(line))
            show(rows[-1])
        if process.wait():
            missing = " ".join(section for section in sections if section not in {row.section for row in rows})
            section = missing or rows[-1].section
            rows.append(Row("the process ended", "wrong", note=f"status {process.returncode}", section=section))
            show(rows[-1])
        if any(row.verdict == "wrong" for row in rows):
            said.seek(0)
            sys.stderr.write(said.read()[-4000:])
    say(f"{' '.join(sections)}  {time.monotonic() - start:.0f} s")
    return rows


def run(sections: list[str], environment: dict[str, str]) -> None:
    """Run sections, print their rows, and write them.

    Raises:
        SystemExit: With status 1, a row is wrong.
    """
    here = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: a reduced form on the CPU"
    say(f"{here}; torch {torch.__version__}, {torch.cuda.device_count()} GPUs")
    rows: list[Row] = []
    # A fault of the driver ends a process. The reduced form has none: it imports once in each of two processes.
    if torch.cuda.is_available():
        groups, at_once = [[section] for section in sections], 1
    else:
        waiting = [section for section in sections if section in STARTS_PROCESSES]
        others = [section for section in sections if section not in STARTS_PROCESSES]
        groups, at_once = [group for group in (others, waiting) if group], 2
    with ThreadPoolExecutor(at_once) as pool:
        for found in pool.map(lambda group: run_process(group, environment), groups):
            rows += found
    if torch.cuda.is_available():
        rows = [row for row in earlier_rows(here, torch.__version__) if row.section not in sections] + rows
        record = {"card": here, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
        (DOCS / "gpu.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        page = (DOCS / "gpu.md").read_text(encoding="utf-8").partition(FIGURES)[0]
        heading = f"{here}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}.\n\n"
        (DOCS / "gpu.md").write_text(f"{page}{FIGURES}\n\n{heading}{markdown(rows)}", encoding="utf-8")
    if any(row.verdict == "wrong" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
