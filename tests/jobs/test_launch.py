import signal
import sys
from pathlib import Path

import psutil

from convatlas.jobs.launch import end, start, train_command
from tests.gates import PATIENCE, until


def test_one_rank_is_one_process_and_more_are_torchruns() -> None:
    assert train_command(["seed=1"]) == [sys.executable, "-m", "convatlas", "train", "seed=1"]
    assert "--nproc-per-node=2" in train_command(["seed=1"], ranks=2)


def test_the_output_is_appended_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for word in ("first", "second"):
        assert start([sys.executable, "-c", f"print('{word}')"], log).wait() == 0
    assert log.read_text(encoding="utf-8") == "first\nsecond\n"


def test_a_signal_reaches_the_children_of_the_command_too(tmp_path: Path) -> None:
    sleeper = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {'import time; time.sleep(60)'!r}]).wait()"
    )
    process = start([sys.executable, "-c", sleeper], tmp_path / "log")
    until(lambda: psutil.Process(process.pid).children())
    children = psutil.Process(process.pid).children()

    end(process, signal.SIGKILL)

    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert psutil.wait_procs(children, PATIENCE)[1] == []
    end(process, signal.SIGKILL)  # nothing is left to signal
