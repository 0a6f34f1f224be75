"""One process owns a run: a second one is refused, the place of a dead one is taken."""

import contextlib
import fcntl
import os
import platform
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from convatlas.errors import UnreadableError, UserError
from convatlas.record.directory import RunDirectory, now
from convatlas.record.files import read_lock
from convatlas.utils.files import dumps, write_atomic, writing

HEARTBEAT_SECONDS = 15.0
"""How often an owner shows that it is alive."""
DEAD_SECONDS = 120.0
"""An owner in another place whose heartbeat stands still for so long is dead."""
POLL_SECONDS = 1.0
"""How often its heartbeat is looked at."""


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
        numbering: Where the number is valid: the boot of the machine and the PID namespace of the container. Two
            machines, or two containers, may share a host name. Empty where it is not known.
    """

    host: str
    pid: int
    process_start: int | None
    since: str
    slurm_job: str | None
    slurm_restart: int = 0
    numbering: str = ""

    @classmethod
    def this_process(cls) -> "Owner":
        """Who would own a run that this process takes now."""
        pid = os.getpid()
        job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(platform.node(), pid, process_start(pid), now(), job, restart, numbering())

    def is_alive(self) -> bool | None:
        """Whether the process lives; None where only its heartbeat can tell."""
        me = Owner.this_process()
        if self.host == me.host and self.numbering in ("", me.numbering) and self.process_start is not None:
            start = process_start(self.pid)
            hidden = start is None and not Path(f"/proc/{self.pid}").exists() and _exists(self.pid)
            return None if hidden else start == self.process_start
        # SLURM runs a job once at a time: an earlier start of this process's own job is dead.
        earlier = self.slurm_job is not None and self.slurm_job == me.slurm_job
        return False if earlier and self.slurm_restart < me.slurm_restart else None

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


class Watch:
    """Finds out which owners are alive by looking at their locks again and again.

    An owner whose process cannot be looked at shows by its heartbeat that it is alive: the time of change of its
    ``lock.json``. That time comes from another machine's clock, so it is only compared with what it was before. The
    owner is dead when it has not changed for ``DEAD_SECONDS`` of this process's own monotonic clock.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, _Heartbeat] = {}

    def owner(self, path: Path) -> Owner | None:
        """Who owns a run, by its ``lock.json``; None where nobody does, or the owner is known to be dead."""
        sign = _read(path)
        if sign is None or (alive := sign[0].is_alive()) is False:
            self._seen.pop(path, None)
            return None
        if alive is None:
            seen = self._seen.get(path)
            if seen is None or seen.sign != sign:
                self._seen[path] = _Heartbeat(sign, time.monotonic(), has_changed=seen is not None)
            elif seen.still() >= DEAD_SECONDS:
                return None
        return sign[0]

    def is_undecided(self, path: Path) -> bool:
        """Whether it is not known yet if the owner that was seen last is alive."""
        seen = self._seen.get(path)
        return seen is not None and not seen.has_changed and seen.seconds < DEAD_SECONDS

    def settle(self, paths: Iterable[Path]) -> None:
        """Wait until it is known of each owner whether it is alive: ``DEAD_SECONDS`` at most."""
        waiting = list(paths)
        told = set[Path]()
        while True:
            owners: dict[Path, Owner | None] = {}
            for path in waiting:
                with contextlib.suppress(UnreadableError):  # a damaged lock is told to who asks for its owner
                    owners[path] = self.owner(path)
            waiting = [path for path in owners if self.is_undecided(path)]
            for path in waiting:
                if path not in told:
                    told.add(path)
                    sys.stderr.write(
                        f"convatlas: {path.parent}: waiting for a sign of life of its owner, {owners[path]}\n"
                    )
            if not waiting:
                return
            time.sleep(POLL_SECONDS)


@dataclass
class _Heartbeat:
    """An owner and the time of change of its lock, as seen for ``seconds``, the last time at ``looked``."""

    sign: tuple[Owner, int]
    looked: float
    has_changed: bool
    seconds: float = 0.0

    def still(self) -> float:
        """Count the time since it was looked at last; return the seconds without a change."""
        before, self.looked = self.looked, time.monotonic()
        # While this process slept, or its file system did not answer, the owner's may not have answered either.
        self.seconds += min(self.looked - before, HEARTBEAT_SECONDS)
        return self.seconds


class RunLock:
    """Owns a run's directory while it is entered.

    ``lock.json`` names the owner; its time of change is the heartbeat. The file system's own lock would not do: it says
    neither who holds it nor, on a network, that the holder's machine is gone; it only guards the moment of taking.

    Args:
        directory: The run's directory, which exists.

    Raises:
        UserError: On entering, another process owns it and is alive. Whether one on another machine is, takes up to
            ``DEAD_SECONDS`` to find out.
    """

    def __init__(self, directory: Path) -> None:
        self.path = RunDirectory(directory).lock
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
            watch = Watch()
            watch.settle([self.path])
            if (owner := watch.owner(self.path)) is not None:
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


def run_state(run: RunDirectory) -> str:
    """The state of a run, as a list shows it: ``running``, ``finished``, ``preempted`` and so on.

    It is ``interrupted`` where the owner of a running one is known to be dead, and ``no sign of life since …`` where
    the owner's machine set that time more than ``DEAD_SECONDS`` ago by this machine's clock. The clocks may differ, so
    nothing may be done because of it.
    """
    state = str(run.summary.get("state", "not started"))
    if state != "running":
        return state
    sign = _read(run.lock)
    if sign is None or (alive := sign[0].is_alive()) is False:
        return "interrupted"
    seconds = sign[1] / 1e9
    if alive or time.time() - seconds < DEAD_SECONDS:
        return state
    return f"no sign of life since {datetime.fromtimestamp(seconds, UTC).isoformat(timespec='seconds')}"


def _read(path: Path) -> tuple[Owner, int] | None:
    """The owner and the time of change of a ``lock.json``, in nanoseconds of the owner's clock."""
    try:
        return Owner(**read_lock(path)), path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def numbering() -> str:
    """Where the numbers of this machine's processes are valid: its boot and the PID namespace; empty without Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    """Whether there is a process of another user that ``/proc`` hides from this one."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False  # it is this user's, so /proc would show it: it has just ended


def process_start(pid: int) -> int | None:
    """When a living process of this machine started, in clock ticks since the boot; None where Linux knows none."""
    try:
        # After the command in brackets, which may hold anything: state, …, and the start as field 22 (man 5 proc).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
