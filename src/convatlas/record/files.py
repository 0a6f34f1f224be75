"""Read the small files of a run directory and check the entries that other modules rely on."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from convatlas.errors import UnreadableError
from convatlas.utils.files import check_format, read_json, read_mapping


def _check_moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("expected a time with its offset from UTC")
    return text


LIMIT = 2**53
"""Larger integers are refused: no count is so large, and some do not fit a float."""
Integer = Annotated[int, Field(ge=-LIMIT, le=LIMIT)]
Count = Annotated[int, Field(ge=0, le=LIMIT)]
Value = Integer | float | Literal["NaN", "Infinity", "-Infinity"]
Number = Value | None
OF_FINISHED = ("ended", "epochs", "steps", "best", "test")
"""Entries that the summary of a finished run must have."""
Moment = Annotated[str, AfterValidator(_check_moment)]


class _Entries(BaseModel):
    """The entries of a file with their types. An entry with a default is optional; other entries are allowed."""

    model_config = ConfigDict(strict=True)


class _Best(_Entries):
    metric: str
    value: Number
    step: Count | None = None


class _Summary(_Entries):
    run_id: str = ""
    name: str = ""
    state: str = ""
    reason: str = ""
    started: Moment = ""
    ended: Moment = ""
    epochs: Count | None = None
    steps: Count | None = None
    parameters: Count | None = None
    num_samples: dict[str, Count] = {}
    best: _Best | None = None
    test: dict[str, Number] | None = None
    train_seconds: Annotated[float, Field(ge=0, le=LIMIT)] = 0
    startup_seconds: dict[str, Number] = {}
    skipped_images: Count = 0

    @model_validator(mode="after")
    def _check_finished(self) -> Self:
        missing = [name for name in OF_FINISHED if getattr(self, name) in ("", None)]
        if self.state == "finished" and missing:
            raise ValueError(f"expected {', '.join(missing)} of a finished run")
        return self


class _Expectation(_Entries):
    model_config = ConfigDict(strict=True, extra="forbid")

    metric: str
    value: Annotated[float, Field(ge=-LIMIT, le=LIMIT)]
    source: str
    tolerance: Annotated[float, Field(ge=0, le=LIMIT)] | None = None


class _Wandb(_Entries):
    project: str = ""
    entity: str | None = None
    group: str | None = None
    job_type: str = ""
    tags: list[str] | None = None
    notes: str | None = None
    checkpoints: Literal["none", "best", "best+last"] = "none"


class _Tracking(_Entries):
    wandb: _Wandb | None = None


class _Config(_Entries):
    data: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    seed: Count | None = None
    expected: list[_Expectation] | None = None
    tracking: _Tracking | None = None


class _Git(_Entries):
    commit: Annotated[str, Field(pattern="^[0-9a-f]{7,64}$")]
    dirty: bool = False
    diff: str = ""


class _Host(_Entries):
    name: str = ""
    torch_threads: Annotated[int, Field(ge=1, le=LIMIT)] = 1


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


class _Classified(_Entries):
    path: str
    image: str
    label: Count
    prediction: Count
    confidence: Value
    label_confidence: Value


class _Segmented(_Entries):
    path: str
    image: str
    label_overlay: str
    prediction_overlay: str
    mean_iou: Value
    pixel_accuracy: Value


class _Detected(_Entries):
    path: str
    label_overlay: str
    prediction_overlay: str
    right: Count
    missed: Count
    wrong: Count


class _ClassAccuracy(_Entries):
    class_name: str = Field(alias="class")
    count: Count
    accuracy: Number


class _ClassIou(_Entries):
    class_name: str = Field(alias="class")
    colour: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]
    pixels: Count
    iou: Number
    accuracy: Number


class _ClassAp(_Entries):
    class_name: str = Field(alias="class")
    objects: Count
    box_ap: Number
    box_ap_50: Number
    mask_ap: Number = None
    mask_ap_50: Number = None


class _Protocol(_Entries):
    name: str


class _Evaluation(_Entries):
    split: str
    classes: list[str]
    metrics: dict[str, Number]
    protocol: _Protocol | None = None
    checkpoint: str | list[str] | None = None
    num_samples: Count | None = None

    def _check_matrix(self, matrix: list[list[int]]) -> None:
        size = len(self.classes)
        if {len(matrix), *map(len, matrix)} != {size}:
            raise ValueError(f"expected confusions of {size} classes")


class _ClassificationEvaluation(_Evaluation):
    per_class: list[_ClassAccuracy] = []
    confusion_matrix: list[list[Count]] | None = None
    samples: list[_Classified] = []
    mistakes: list[_Classified] = []

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if self.confusion_matrix is not None:
            self._check_matrix(self.confusion_matrix)
        size = len(self.classes)
        if any(max(shown.label, shown.prediction) >= size for shown in (*self.samples, *self.mistakes)):
            raise ValueError(f"expected labels and predictions of {size} classes")
        return self


class _SegmentationEvaluation(_Evaluation):
    per_class_iou: list[_ClassIou]
    pixel_confusion_matrix: list[list[Count]]
    worst: list[_Segmented] = []
    segmented: list[_Segmented] = []

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        self._check_matrix(self.pixel_confusion_matrix)
        return self


class _DetectionEvaluation(_Evaluation):
    per_class_ap: list[_ClassAp]
    worst: list[_Detected] = []
    detected: list[_Detected] = []


EVALUATIONS: dict[str, type[_Evaluation]] = {
    "classification": _ClassificationEvaluation,
    "segmentation": _SegmentationEvaluation,
    "detection": _DetectionEvaluation,
}
"""The entries of an evaluation by task type."""


class _Job(_Entries):
    job: Annotated[str, Field(pattern="^[0-9]{1,9}(_[0-9]{1,9})?$")]
    submitted: str


class _Lock(_Entries):
    host: str
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    process_start: Count | None
    since: str
    slurm_job: str | None = None
    slurm_restart: Count = 0


def read_summary(path: Path) -> dict[str, Any]:
    """Read the summary of a run; empty before the run starts.

    Raises:
        UnreadableError: It is damaged, or written by a newer ConvAtlas.
    """
    try:
        summary = read_json(path, dict)
    except FileNotFoundError:
        return {}
    check_format(path, summary)
    return _checked(path, summary, _Summary)


def read_config(path: Path) -> dict[str, Any]:
    """Read the resolved configuration of a run.

    Raises:
        UnreadableError: It is absent or damaged.
    """
    try:
        return _checked(path, read_mapping(path), _Config)
    except FileNotFoundError as error:
        raise UnreadableError(f"{path.parent}: expected a run directory, but it has no {path.name}") from error


def read_provenance(path: Path) -> dict[str, Any]:
    """Read the provenance of a run; as ``read_summary``."""
    try:
        return _checked(path, read_json(path, dict), _Provenance)
    except FileNotFoundError:
        return {}


def read_source(path: Path) -> dict[str, Any]:
    """Read the ``git.json`` of a source snapshot: commit and changes of its source; as ``read_evaluation``."""
    return _checked(path, read_json(path, dict), _Git)


def read_jobs(path: Path) -> list[dict[str, Any]]:
    """Read the SLURM jobs of a run, the oldest first; as ``read_summary``."""
    try:
        return [_checked(path, job, _Job) for job in read_json(path, list)]
    except FileNotFoundError:
        return []


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read an evaluation, such as ``evaluation/test.json``.

    Returns:
        Its entries. ``task_type`` is ``classification``, ``segmentation`` or ``detection``; for a file of an earlier
        version, which does not have it, it is found from the other entries.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableError: It is damaged.
    """
    content = read_json(path, dict)
    if "per_class_iou" in content:
        task_type = "segmentation"
    else:
        task_type = "detection" if "per_class_ap" in content else "classification"
    content = {"task_type": task_type, **content}
    entries = EVALUATIONS.get(str(content["task_type"]))
    if entries is None:
        raise UnreadableError(f"{path}: damaged, task_type: expected {', '.join(EVALUATIONS)}")
    return _checked(path, content, entries)


def file_inside(folder: Path, name: str) -> Path | None:
    """Find a file of a folder by the name in a record; None if it is absent or not in the folder.

    Args:
        folder: The folder. A link that leads out of it counts as absent.
        name: The path in it.
    """
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError):  # not a valid file name
        return None


def read_lock(path: Path) -> dict[str, Any]:
    """Read the lock of a run, which names its owner; as ``read_evaluation``."""
    try:
        return _checked(path, read_json(path, dict), _Lock)
    except UnreadableError as error:
        raise UnreadableError(f"{error}; delete it if no process trains this run") from error


def _checked(path: Path, content: Any, entries: type[_Entries]) -> dict[str, Any]:
    try:
        entries.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        place = ".".join(map(str, first["loc"])) or ("" if isinstance(content, dict) else "each entry")
        text = f"{place}: {message[:1].lower()}{message[1:]}" if place else message
        raise UnreadableError(f"{path}: damaged, {text}") from error
    checked: dict[str, Any] = content
    return checked
