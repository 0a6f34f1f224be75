"""One process owns a run: a second one is refused, a dead one's place is taken."""

import contextlib
import fcntl
import os
import platform
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from convatlas.errors import UserError
from convatlas.jsonio import dumps, write_atomic, writing
from convatlas.record.files import read_lock
from convatlas.run.directory import RunDirectory, now

HEARTBEAT_SECONDS = 15.0
"""How often an owner shows that it is alive."""
DEAD_SECONDS = 120.0
"""An owner on another machine that was silent for so long is dead."""
POLL_SECONDS = 1.0
"""How often one looks for its sign of life."""


@dataclass(frozen=True)
class Owner:
    """The process that owns a run.

    Args:
        host: Its machine.
        pid: Its number there.
        process_start: When it started, in the kernel's clock ticks: a number may be given to another process later.
        since: When it took the run, UTC.
        slurm_job: Its SLURM job.
        slurm_restart: How often that was requeued before.
    """

    host: str
    pid: int
    process_start: int | None
    since: str
    slurm_job: str | None
    slurm_restart: int = 0

    @classmethod
    def this_process(cls) -> "Owner":
        """Who would own a run that this process takes now."""
        pid = os.getpid()
        job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(platform.node(), pid, process_start(pid), now(), job, restart)

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


class RunLock:
    """Owns a run's directory while it is entered.

    ``lock.json`` names the owner; its time of change is the heartbeat. The file system's own lock would not do: it says
    neither who holds it nor, on a network, that the holder's machine is gone; it only guards the moment of taking.

    Args:
        directory: The run's directory, which exists.

    An owner on another machine shows by its heartbeat whether it is alive: until it does, or has been silent for too
    long, a second process waits. An earlier attempt of the same SLURM job is dead: SLURM runs a job once at a time.

    Raises:
        UserError: On entering, another process owns it and is alive.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "lock.json"
        self._guard = directory / ".lock-guard"
        self._content = ""
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "RunLock":
        with writing(self._guard):
            guard = self._guard.open("w", encoding="utf-8")
        with guard:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX)
            except OSError as error:
                raise UserError(f"run.root: {self._guard} cannot be locked ({error.strerror})") from error
            owner = living_owner(self.path)
            if owner is not None and not self._has_died(owner):
                raise UserError(
                    f"run {self.path.parent} is owned by {owner}: wait for it, end it, or give run.fresh=true for "
                    "another attempt"
                )
            self._content = dumps(asdict(Owner.this_process()))
            write_atomic(self.path, self._content)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        with contextlib.suppress(OSError):  # a disk that has become read-only: the first error counts
            if self._is_mine():
                self.path.unlink()

    def _has_died(self, owner: Owner) -> bool:
        me = Owner.this_process()
        if owner.host == me.host:
            return False
        if owner.slurm_job is not None and owner.slurm_job == me.slurm_job and owner.slurm_restart < me.slurm_restart:
            return True
        sys.stderr.write(f"convatlas: run {self.path.parent}: waiting for a sign of life of its owner, {owner}\n")
        with contextlib.suppress(FileNotFoundError):  # it has ended by itself
            last_beat = self.path.stat().st_mtime
            while living_owner(self.path) == owner:
                if self.path.stat().st_mtime != last_beat:
                    return False
                time.sleep(POLL_SECONDS)
        return True

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # a file system that stumbles: the next beat tries again
                if not self._is_mine():
                    sys.stderr.write(
                        f"convatlas: error: run {self.path.parent} was taken over while this process slept\n"
                    )
                    os._exit(1)  # at once: two must not write
                os.utime(self.path)

    def _is_mine(self) -> bool:
        return self.path.is_file() and self.path.read_bytes() == self._content.encode()


def living_owner(path: Path) -> Owner | None:
    """Who owns a run by its ``lock.json``; None where nobody does, or the owner is dead.

    Raises:
        UnreadableError: The file is damaged.
    """
    try:
        owner = Owner(**read_lock(path))
        silent = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    if owner.host == platform.node() and owner.process_start is not None:
        alive = process_start(owner.pid) == owner.process_start
    else:
        alive = silent < DEAD_SECONDS
    return owner if alive else None


def run_state(run: RunDirectory) -> str:
    """The state of a run: ``running``, ``finished``, ``preempted`` …; ``interrupted`` where the owner is dead."""
    state = str(run.summary.get("state", "not started"))
    return "interrupted" if state == "running" and living_owner(run.path / "lock.json") is None else state


def process_start(pid: int) -> int | None:
    """When a living process of this machine started, in clock ticks since the boot; None where Linux knows none."""
    try:
        # After the command in brackets, which may hold anything: state, …, and the start as field 22 (man 5 proc).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
