"""Lock a run for a single owner: a second process is refused while the owner is alive."""

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
"""Seconds between two heartbeats of an owner."""
DEAD_SECONDS = 120.0
"""An owner on another machine counts as dead when its heartbeat has not changed for this long."""
POLL_SECONDS = 1.0
"""Seconds between two checks of that heartbeat."""


@dataclass(frozen=True)
class Owner:
    """The process that owns a run.

    Args:
        host: Host name of its machine.
        pid: Its process id on the machine.
        process_start: Start of the process in the kernel's clock ticks. It distinguishes processes with the same id.
        since: Time at which it took the run, UTC.
        slurm_job: Its SLURM job.
        slurm_restart: Number of times that the job was requeued.
        numbering: The boot id of the machine and the PID namespace, in which the process id is valid. They distinguish
            machines or containers with the same host name. Empty if unknown.
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
        """Describe this process as an owner."""
        pid = os.getpid()
        job, restart = os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(platform.node(), pid, process_start(pid), now(), job, restart, numbering())

    def is_alive(self) -> bool | None:
        """Whether the process is alive; None if only its heartbeat can tell."""
        me = Owner.this_process()
        if self.host == me.host and self.numbering in ("", me.numbering) and self.process_start is not None:
            start = process_start(self.pid)
            hidden = start is None and not Path(f"/proc/{self.pid}").exists() and _exists(self.pid)
            return None if hidden else start == self.process_start
        # SLURM runs a job only once at a time, so an owner from an earlier start of this process's job is dead.
        earlier = self.slurm_job is not None and self.slurm_job == me.slurm_job
        return False if earlier and self.slurm_restart < me.slurm_restart else None

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


class Watch:
    """Finds out which owners are alive by reading their locks repeatedly.

    The process of an owner may be invisible, for example on another machine. Its heartbeat, the modification time of
    its ``lock.json``, then shows that it is alive. The time comes from the clock of another machine, so it is only
    compared with earlier values. The owner counts as dead if the heartbeat does not change for ``DEAD_SECONDS`` of the
    monotonic clock of this process.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, _Heartbeat] = {}

    def owner(self, path: Path) -> Owner | None:
        """Return the owner of a run from its ``lock.json``; None if there is none or if it is known to be dead."""
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
        """Check whether it is still unknown if the last owner of a run is alive."""
        seen = self._seen.get(path)
        return seen is not None and not seen.has_changed and seen.seconds < DEAD_SECONDS

    def settle(self, paths: Iterable[Path]) -> None:
        """Wait, at most ``DEAD_SECONDS``, until it is known whether each owner is alive."""
        waiting = list(paths)
        told = set[Path]()
        while True:
            owners: dict[Path, Owner | None] = {}
            for path in waiting:
                with contextlib.suppress(UnreadableError):  # `owner` raises the error of a damaged lock to its caller
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
    """The last heartbeat of an owner.

    Attributes:
        sign: The owner and the modification time of its lock in nanoseconds.
        looked: Time of the last check, by the monotonic clock.
        has_changed: Whether a change of the owner or of the time was observed.
        seconds: Seconds without a change until ``looked``.
    """

    sign: tuple[Owner, int]
    looked: float
    has_changed: bool
    seconds: float = 0.0

    def still(self) -> float:
        """Add the time since the last check, and return the seconds without a change."""
        before, self.looked = self.looked, time.monotonic()
        # If this process slept or its file system did not respond, the owner may also have been unable to write.
        self.seconds += min(self.looked - before, HEARTBEAT_SECONDS)
        return self.seconds


class RunLock:
    """Context manager that owns a run's directory.

    ``lock.json`` names the owner, and its modification time is the heartbeat. A file-system lock (``flock``) only
    protects the moment of taking the run. It is not sufficient alone: it does not name its holder, and on a network
    file system it does not show that the machine of the holder has failed.

    Args:
        directory: The run's directory, which exists.

    Raises:
        UserError: On entering, if another process that is alive owns the run. For an owner on another machine, this
            check takes up to ``DEAD_SECONDS``.
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
        with contextlib.suppress(OSError):  # the disk may be read-only now; the first error is reported
            if self._is_mine():
                self.path.unlink()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # a temporary error: the next beat tries again
                if not self._is_mine():
                    sys.stderr.write(
                        f"convatlas: error: run {self.path.parent} was taken over while this process slept\n"
                    )
                    os._exit(1)  # at once, because two processes must not write
                os.utime(self.path)

    def _is_mine(self) -> bool:
        return self.path.is_file() and self.path.read_bytes() == self._content.encode()


def run_state(run: RunDirectory) -> str:
    """Return the state of a run for display: ``running``, ``finished``, ``preempted`` and so on.

    A running run whose owner is known to be dead is ``interrupted``. If the owner's last heartbeat is more than
    ``DEAD_SECONDS`` old by this machine's clock, the state is ``no sign of life since …``. The two clocks may differ,
    so this state is only for display.
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
    """Read the owner and the modification time of a ``lock.json``, in nanoseconds of the owner's clock."""
    try:
        return Owner(**read_lock(path)), path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def numbering() -> str:
    """Return the boot id and the PID namespace, in which process ids are valid; empty if not on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    """Whether the process exists but belongs to another user, so that ``/proc`` hides it."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False  # /proc would show a process of this user, so it has just ended


def process_start(pid: int) -> int | None:
    """Return the start of a living process in clock ticks since the boot; None if there is no such process."""
    try:
        # The command in brackets may contain any character. The state and field 22, the start, follow it (man 5 proc).
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
