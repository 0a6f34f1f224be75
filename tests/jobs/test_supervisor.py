import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from convatlas.jobs.supervisor import Command, run_commands
from convatlas.utils.signals import Preempted


def command(tmp_path: Path, name: str, script: str) -> Command:
    return Command(name, (sys.executable, "-c", script), tmp_path / f"{name}.log")


def test_a_command_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    commands = [command(tmp_path, f"c{status}", f"print({status}); raise SystemExit({status})") for status in (0, 3, 0)]
    ended: list[tuple[str, int]] = []
    run_commands(commands, 1, lambda one, status: ended.append((one.name, status)))
    assert ended == [("c0", 0), ("c3", 3), ("c0", 0)]
    assert (tmp_path / "c3.log").read_text(encoding="utf-8") == "3\n"


SAVES_ITSELF = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *args: (print("saved", flush=True), sys.exit(75)))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_running_commands_and_starts_no_others(tmp_path: Path, number: signal.Signals) -> None:
    commands = [command(tmp_path, name, SAVES_ITSELF) for name in ("first", "second")]
    first, second = (tmp_path / f"{name}.log" for name in ("first", "second"))

    def interrupt() -> None:
        while not (first.is_file() and "ready" in first.read_text(encoding="utf-8")):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    before = signal.getsignal(number)
    with pytest.raises(Preempted) as stopped:
        run_commands(commands, 1, lambda one, status: None)
    assert (stopped.value.code, stopped.value.signal_name) == (75, number.name)
    assert first.read_text(encoding="utf-8") == "ready\nsaved\n"
    assert not second.exists()
    assert signal.getsignal(number) == before
