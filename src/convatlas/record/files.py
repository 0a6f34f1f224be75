"""The small JSON files of a run directory: read with a check of the entries that others rely on."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from convatlas.errors import UnreadableError
from convatlas.jsonio import check_format, read_json, read_mapping


def _check_moment(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Number = int | float | Literal["NaN", "Infinity", "-Infinity"] | None
Moment = Annotated[str, AfterValidator(_check_moment)]


class _Entries(BaseModel):
    """Entries of a file with their types; each may be absent, and others may stand beside them."""

    model_config = ConfigDict(strict=True)


class _Best(_Entries):
    metric: str
    value: Number
    step: int | None = None


class _Summary(_Entries):
    run_id: str = ""
    name: str = ""
    state: str = ""
    reason: str = ""
    started: Moment = ""
    ended: Moment = ""
    epochs: int | None = None
    steps: int | None = None
    parameters: int | None = None
    num_samples: dict[str, int] = {}
    best: _Best | None = None
    test: dict[str, Number] | None = None
    train_seconds: float = 0
    startup_seconds: dict[str, Number] = {}
    skipped_images: int = 0


class _Config(_Entries):
    data: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    seed: int | None = None
    expected: list[dict[str, Any]] | None = None
    tracking: dict[str, Any] | None = None


class _Git(_Entries):
    commit: Annotated[str, Field(pattern="^[0-9a-f]{7,64}$")]
    dirty: bool = False
    diff: str = ""


class _Host(_Entries):
    name: str = ""
    torch_threads: PositiveInt = 1


class _Provenance(_Entries):
    git: _Git | None = None
    host: _Host = _Host()
    packages: dict[str, str] = {}
    data_fingerprint: str = ""
    data_digests: dict[str, str] = {}
    started: str = ""
    python: str = ""
    class_list_hash: str = ""
    start: dict[str, str] = {}
    earlier_attempts: list["_Provenance"] = []


class _Evaluation(_Entries):
    split: str
    classes: list[str]
    metrics: dict[str, Number]


class _Job(_Entries):
    job: str
    submitted: str


class _Lock(_Entries):
    host: str
    pid: int
    process_start: int | None
    since: str
    slurm_job: str | None = None
    slurm_restart: int = 0


def read_summary(run: Path) -> dict[str, Any]:
    """Read the ``summary.json`` of a run directory; empty before the run starts.

    Raises:
        UnreadableError: It is damaged, or written by a newer ConvAtlas.
    """
    path = run / "summary.json"
    try:
        summary = read_json(path, dict)
    except FileNotFoundError:
        return {}
    check_format(path, summary)
    return _checked(path, summary, _Summary)


def read_config(run: Path) -> dict[str, Any]:
    """Read the ``config.yaml`` of a run directory, the resolved configuration.

    Raises:
        UnreadableError: It is absent or damaged.
    """
    path = run / "config.yaml"
    try:
        return _checked(path, read_mapping(path), _Config)
    except FileNotFoundError as error:
        raise UnreadableError(f"{run}: expected a run directory, but it has no config.yaml") from error


def read_provenance(run: Path) -> dict[str, Any]:
    """Read the ``provenance.json`` of a run directory; as ``read_summary``."""
    path = run / "provenance.json"
    try:
        return _checked(path, read_json(path, dict), _Provenance)
    except FileNotFoundError:
        return {}


def read_jobs(run: Path) -> list[dict[str, Any]]:
    """Read the SLURM jobs in the ``jobs.json`` of a directory, the oldest first; as ``read_summary``."""
    path = run / "jobs.json"
    try:
        return [_checked(path, job, _Job) for job in read_json(path, list)]
    except FileNotFoundError:
        return []


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read an evaluation, such as ``evaluation/test.json``.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableError: It is damaged.
    """
    return _checked(path, read_json(path, dict), _Evaluation)


def read_lock(path: Path) -> dict[str, Any]:
    """Read the ``lock.json`` of a run, which names its owner; as ``read_evaluation``."""
    try:
        return _checked(path, read_json(path, dict), _Lock)
    except UnreadableError as error:
        raise UnreadableError(f"{error}; delete it if no process trains this run") from error


def _checked(path: Path, content: Any, entries: type[_Entries]) -> dict[str, Any]:
    try:
        entries.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "each entry"
        raise UnreadableError(f"{path}: damaged, {place}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
    checked: dict[str, Any] = content
    return checked
