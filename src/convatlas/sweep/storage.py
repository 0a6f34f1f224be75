"""The storage of the trials of a sweep: a journal in its directory, or a database."""

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
"""Environment variable that passes a database address, which may hold a password, to the workers."""
LOCKS = {"postgresql": "SELECT pg_advisory_lock(hashtext(:name))", "mysql": "SELECT GET_LOCK(:name, -1)"}
"""The statement that takes a named lock until the connection ends, for each kind of database."""
JOURNAL = "journal.log"
"""File of the journal in the directory of the sweep."""
TAIL = 2**20
"""Most bytes of the last line of a journal."""

Mutex = Callable[[], AbstractContextManager[None]]
"""Makes a context that only one process of the sweep can be in, over all machines."""


class FileLock(JournalFileOpenLock):
    """A file lock of the kernel, which is released when its holder ends, also when it is killed.

    Optuna's locks are files that a killed holder leaves behind. They are taken by force after 30 s, possibly by
    several processes.

    Args:
        path: A file of the lock alone, or the journal. An incomplete last line of the journal is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def acquire(self) -> bool:
        """Wait for the lock.

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
        """Release the lock."""
        os.close(self._file)


def open_storage(directory: Path, url: str | None) -> tuple[BaseStorage, Mutex]:
    """Open the storage of a sweep.

    Args:
        directory: The directory of the sweep, on a disk that all workers share.
        url: Address of a database; None: a journal in the directory.

    Returns:
        The storage, and a mutex that keeps two workers from claiming at the same time.

    Raises:
        UnreadableError: The journal is damaged.
        UserError: As ``address``, or the database does not answer.
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
    """Turn the errors of unreadable trials into one line.

    Args:
        place: The journal, or the address of the database.

    Raises:
        UnreadableError: They are damaged.
    """
    try:
        yield
    except (UserError, OSError, SQLAlchemyError):
        raise
    except Exception as error:  # Optuna raises errors of many types for damaged lines
        reason = " ".join(str(error).split())
        raise UnreadableError(
            f"{place}: damaged, its trials cannot be read ({type(error).__name__}: {reason})"
        ) from error


def address(url: str | None) -> str | None:
    """The address of a database without password and options, which may hold secrets, for messages and files.

    Raises:
        UserError: The address is invalid, or of an unsupported kind of database.
    """
    if url is None:
        return None
    try:
        parsed = make_url(url)
    except ArgumentError:  # its message contains the password
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
    # A separate connection: the database releases the lock when it is closed, also by the death of this process.
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(statement), {"name": name[-64:]})  # MySQL's names are as long at most
        yield
