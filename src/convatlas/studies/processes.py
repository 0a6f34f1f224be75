"""Run the commands of a study, so many at a time; a signal ends them with the study, and each saves itself."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from convatlas.run.launch import end, start
from convatlas.run.stopping import Preempted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Command:
    """A command of a study.

    Attributes:
        name: What it is called in messages.
        words: The command.
        log: Where its output goes.
    """

    name: str
    words: tuple[str, ...]
    log: Path


def run_commands(commands: Sequence[Command], num_workers: int, ended: Callable[[Command, int], None]) -> None:
    """Run commands in their order, so many at a time. One that fails does not stop the others.

    Args:
        commands: The commands.
        num_workers: How many at a time.
        ended: Is told each command that ended, and its status.

    Raises:
        Preempted: SIGINT, SIGTERM or SIGUSR1 came. The commands were sent SIGTERM, which lets trainings save
            themselves, and have ended; a second signal kills them.
    """
    received: list[signal.Signals] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))

    before = {number: signal.signal(number, receive) for number in SIGNALS}
    waiting, running, told = list(commands), dict[Command, subprocess.Popen[bytes]](), 0
    try:
        while running or (waiting and not received):
            while waiting and len(running) < num_workers and not received:
                command = waiting.pop(0)
                running[command] = start(command.words, command.log)
            if told < len(received):
                what = "ends what runs" if told else f"waits for {len(running)} to save themselves"
                sys.stderr.write(f"convatlas: {received[-1].name}: {what}; the same command goes on\n")
                for process in running.values():
                    end(process, signal.SIGKILL if told else signal.SIGTERM)
                told = len(received)
            time.sleep(POLL_SECONDS)
            for command, process in list(running.items()):
                if (status := process.poll()) is not None:
                    del running[command]
                    if not received:
                        ended(command, status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise Preempted(received[0].name)
