"""Write the fixtures of this folder anew, with the code of the commit that they are named for.

    git worktree add /tmp/a11ee17 a11ee17
    python -m tests.legacy.make /tmp/a11ee17 [NAME ...]

The commands of ``tests/legacy/commands.py`` are given in /tmp/legacy, so that no other path of this machine is
recorded. Nothing is changed in what they write; ``last.ckpt`` of the detector and the data of
``unfinished_mask_folders`` are left out.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.legacy.commands import COMMIT, FIXTURES, STOPPED_AFTER, STUDY, SWEEP, TRAIN, convatlas, write_masks

WORK = Path("/tmp/legacy")  # noqa: S108  the same on every machine
SEVERAL = {"unfinished_sweep": ["sweep", *SWEEP], "unfinished_study": ["study", *STUDY]}
PREEMPTED = 75
"""The exit status of a run, a sweep and a study that a signal stopped."""
TRAIN_AND_STOP = """
import os, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from convatlas.cli import main

last, steps = int(sys.argv.pop(1)), 0

def count(*_):
    global steps
    steps += 1
    if steps == last:
        os.kill(os.getpid(), signal.SIGTERM)

register_optimizer_step_post_hook(count)
main()
"""
"""``convatlas …`` in a process that sends itself SIGTERM in the optimizer step whose number is the first argument."""


def main() -> None:
    """Run the commands of all fixtures, or of those named, each in a folder of its own; replace the fixtures."""
    checkout = Path(sys.argv[1]).resolve()
    found = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, check=True)
    if not found.stdout.decode().startswith(COMMIT):
        sys.exit(f"{checkout}: expected a checkout of {COMMIT}")
    os.environ |= {
        "PYTHONPATH": str(checkout / "src"),
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": "cache",
        "PYTHONWARNINGS": "ignore",  # which name the files of libraries
    }
    WORK.mkdir()
    for name in sys.argv[2:] or [*TRAIN, *SEVERAL]:
        directory = WORK / name
        directory.mkdir()
        if name in SEVERAL:
            _stop_in_second_run(directory, SEVERAL[name])
        elif name in STOPPED_AFTER:
            _train_and_stop(directory, TRAIN[name], STOPPED_AFTER[name])
        else:
            convatlas(directory, "train", *TRAIN[name])
        for unused in ("images", "cache"):
            shutil.rmtree(directory / unused, ignore_errors=True)
        if name == "finished_detection":
            (last,) = directory.glob("runs/*/checkpoints/last.ckpt")
            last.unlink()  # best.ckpt shows as much
        if (FIXTURES / name).exists():
            shutil.rmtree(FIXTURES / name)
        shutil.copytree(directory, FIXTURES / name)
    shutil.rmtree(WORK)


def _train_and_stop(directory: Path, overrides: Sequence[str], step: int) -> None:
    if "data=mask_folders" in overrides:
        write_masks(directory / "images")
    command = [sys.executable, "-c", TRAIN_AND_STOP, str(step), "train", *overrides]
    status = subprocess.run(command, cwd=directory, check=False).returncode
    if status != PREEMPTED:
        sys.exit(f"{shlex.join(command)}: status {status}")
    _write_end(directory, overrides)


def _write_end(directory: Path, overrides: Sequence[str]) -> None:
    """Let a copy of an unfinished run go on; keep its record and the SHA-256 of its last weights as ``end.json``."""
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy)
    convatlas(copy, "train", *overrides)
    (run,) = (copy / "runs").iterdir()
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights.values())).hexdigest()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    text = json.dumps({"weights": digest, "metrics": lines}, indent=1)
    (directory / "end.json").write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(copy)


def _stop_in_second_run(directory: Path, arguments: Sequence[str]) -> None:
    """Start a command that does several runs; stop it when the first is finished and the second has some steps."""
    process = subprocess.Popen([sys.executable, "-m", "convatlas", *arguments], cwd=directory)
    while process.poll() is None and not (_states(directory) == ["finished", "running"] and _steps(directory) > 2):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    if process.wait() != PREEMPTED or _states(directory) != ["finished", "preempted"]:
        sys.exit(f"{shlex.join(arguments)}: the runs are {_states(directory)}; start again")


def _states(directory: Path) -> list[str]:
    return sorted(
        json.loads(path.read_text(encoding="utf-8"))["state"] for path in directory.rglob("runs/*/summary.json")
    )


def _steps(directory: Path) -> int:
    """The fewest lines of any run's record."""
    return min(
        (len(path.read_bytes().splitlines()) for path in directory.rglob("runs/*/metrics.jsonl")),
        default=0,
    )


if __name__ == "__main__":
    main()
