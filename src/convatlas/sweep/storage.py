"""Where the trials of a sweep are kept: a journal in its directory, or a database."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from convatlas.errors import UnreadableError, UserError

VARIABLE = "CONVATLAS_SWEEP_STORAGE"
"""Hands the address of a database to workers: it may hold a password, and command lines are read by everybody."""
LOCKS = {"postgresql": "SELECT pg_advisory_lock(hashtext(:name))", "mysql": "SELECT GET_LOCK(:name, -1)"}
"""What takes a lock by name until the connection ends, for each kind of database."""
JOURNAL = "journal.log"
"""The file of a journal in the directory of its sweep."""
TAIL = 2**20
"""Bytes that the last line of a journal has at most."""

Mutex = Callable[[], AbstractContextManager[None]]
"""Makes a context that one process of the sweep at a time is in, on whatever machine."""


class FileLock(JournalFileOpenLock):
    """The kernel's lock of a file, which ends with its holder, be it killed.

    Optuna's own locks are files that a killed holder leaves behind: after 30 s of waiting they are taken by force,
    by more than one process if it comes to that.

    Args:
        path: The file: the lock's own, or the journal, whose last line a dying machine may have left torn.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def acquire(self) -> bool:
        """Wait for it.

        Raises:
            UserError: The file system has no locks.
        """
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"root: {self.path} cannot be locked ({error.strerror}); give storage=postgresql://… or another disk"
            ) from error
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            tail = os.pread(self._file, TAIL, max(0, size - TAIL))
            os.truncate(self._file, size - len(tail) + tail.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Give it back."""
        os.close(self._file)


def open_storage(directory: Path, url: str | None) -> tuple[BaseStorage, Mutex]:
    """Open the storage of a sweep.

    Args:
        directory: The sweep's, on a disk that all workers share.
        url: The address of a database; None: a journal in the directory.

    Returns:
        The storage, and what keeps two workers from claiming at one time.

    Raises:
        UnreadableError: The journal is damaged.
        UserError: As ``address``; nothing answers there.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url is None:
        journal = directory / JOURNAL
        backend = JournalFileBackend(str(journal), FileLock(journal))
        with reading_trials(journal):
            return JournalStorage(backend), partial(_file_mutex, directory / ".claim-lock")
    shown, statement = address(url), LOCKS[make_url(url).get_backend_name()]
    try:
        storage = RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        mutex = partial(_database_mutex, url, statement, directory.name)
        with mutex():
            pass
    except (SQLAlchemyError, ImportError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise UserError(f"storage={shown}: {reason}") from None
    return storage, mutex


@contextmanager
def reading_trials(place: object) -> Iterator[None]:
    """Report trials that cannot be read as one line.

    Args:
        place: The journal, or the address of the database.

    Raises:
        UnreadableError: They are damaged.
    """
    try:
        yield
    except (UserError, OSError, SQLAlchemyError):
        raise
    except Exception as error:  # whatever damaged lines make Optuna raise
        reason = " ".join(str(error).split())
        raise UnreadableError(
            f"{place}: damaged, its trials cannot be read ({type(error).__name__}: {reason})"
        ) from error


def address(url: str | None) -> str | None:
    """The address of a database without its password and its options, one of which may be one, to be shown and kept.

    Raises:
        UserError: It cannot be read, or is of a kind of database that has no lock for us.
    """
    if url is None:
        return None
    try:
        parsed = make_url(url)
    except ArgumentError:  # whose text has all of it
        raise UserError("storage: expected postgresql://USER@HOST/DATABASE or mysql://…") from None
    if (dialect := parsed.get_backend_name()) not in LOCKS:
        raise UserError(f"storage={dialect}://…: expected postgresql or mysql; null is a journal in the directory")
    return parsed.set(query={}).render_as_string(hide_password=True)


@contextmanager
def _file_mutex(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _database_mutex(url: str, statement: str, name: str) -> Iterator[None]:
    # A connection of its own, closed at the end: its death, too, gives the lock back.
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(statement), {"name": name[-64:]})  # MySQL's names are as long at most
        yield
