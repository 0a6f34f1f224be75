"""Publishes the record of a run to W&B, in a process of its own: ``python -m convatlas.tracking.wandb.publisher``.

Row i of the W&B history is line i of ``metrics.jsonl``; both only grow. The publisher asks the server how many rows it
holds and sends the others. This is the same for a run that is training, was offline, is partly published, or is already
published.

Standard input provides one line, the ``Job``, and ends when the run ends. Standard output receives one JSON object when
the W&B run is open and one when everything is sent, or ``{"error": reason}`` in place of either. Failures of the
network or the server stop only this process.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convatlas.errors import UnreadableError, UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.files import file_inside
from convatlas.record.lines import LineReader
from convatlas.tracking.wandb.artifacts import Policy, checkpoint_file, delete_superseded, kept, send_checkpoints
from convatlas.tracking.wandb.media import evaluation_media
from convatlas.tracking.wandb.server import HeldRun, WandbError, WandbServer

POLL_SECONDS = 2.0
"""Seconds between two looks at the record of a run that is training."""
INIT_SECONDS = 10.0
"""Seconds that the server may take to open the W&B run."""
SETTLE_SECONDS = 10.0
"""Seconds that the server may take to count the rows that it received."""
SAME_SECONDS = 1.0
"""Rows of one step whose times differ by less are the same row; a server may round times."""
DIGEST = "record"
"""Key of the W&B summary with a digest of the published record."""
FATAL = "ERROR+4"
"""Level of the errors after which wandb-core sends no more rows."""


@dataclass(frozen=True)
class Job:
    """A run and how to publish it.

    Args:
        directory: The run's directory.
        run_id: The W&B run's id and name.
        config: The resolved configuration.
        project: The W&B project.
        entity: Owner of the project; None is the user.
        group: Group of the run.
        job_type: Role of the run in its group.
        tags: Its tags.
        notes: Its notes.
        checkpoints: Checkpoints that become artifacts.
        answer_seconds: Longest time that the server may take for an answer.
        finish_seconds: Longest time for the uploads that remain at the end.
        live: Whether the run is training in the parent of this process.
    """

    directory: str
    run_id: str
    config: dict[str, Any]
    project: str
    entity: str | None
    group: str
    job_type: str
    tags: list[str]
    notes: str | None
    checkpoints: Policy
    answer_seconds: float
    finish_seconds: float
    live: bool


class Publication:
    """The W&B run of a record.

    Args:
        job: The run and how to publish it.

    Raises:
        WandbError: The server cannot be reached or refuses, or another process publishes the run.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.directory = Path(job.directory)
        self.record = RunDirectory(self.directory)
        self.folder = self.directory / "wandb"  # W&B's own files, while this process runs
        self._guard = self._lock()
        self.server = WandbServer.connect(job.answer_seconds)
        self.entity = job.entity or self.server.entity
        self._reader = LineReader(self.record.metrics)
        self._rows = self._reader.new()
        self.current = False
        for wandb_id in self._ids():
            held = self.server.run(self.entity, job.project, wandb_id)
            if held is not None and not self._is_start(held):
                continue  # another record had the same id
            self.wandb_id = wandb_id
            self.num_before = self._sent = held.num_rows if held else 0
            self.current = not job.live and held is not None and self._is_shown(held)
            if self.current or self._open():
                break

    @property
    def url(self) -> str:
        """The URL of the run's page."""
        base = self.server.url.replace("https://api.wandb.ai", "https://wandb.ai")
        return f"{base}/{self.entity}/{self.job.project}/runs/{self.wandb_id}"

    def send(self) -> None:
        """Send new lines of the record."""
        self._rows += self._reader.new()
        for index in range(self._sent, self._num_ready()):
            self._run.log(self._row(index), step=index)
            self._sent = index + 1

    def finish(self) -> dict[str, Any]:
        """Send the remaining lines, finish the W&B run, and verify that the server holds all rows.

        Returns:
            ``url``; numbers of ``rows`` and ``new`` rows in the history; ``checkpoints`` sent, ``deleted`` versions,
            ``missing`` checkpoints.

        Raises:
            WandbError: The server does not hold everything.
        """
        result = {"url": self.url, "sent": not self.current, "missing": self._missing()}
        result |= {"new": 0, "checkpoints": [], "deleted": 0}
        if self.current:
            return result | {"rows": self.num_before}
        self.send()
        self._save_files()
        state = self._state()
        killed = state == "running"
        refusal = None
        if not (killed and self.job.live):  # otherwise the same command may have resumed and waits for this process
            try:
                result |= self._send_checkpoints()
            except Exception as error:  # wandb raises anything after errors of the network or the server
                refusal = WandbError(f"its checkpoints are not taken ({' '.join(str(error).split())})")
            self._run.summary[DIGEST] = None if refusal else self._digest()
        self._run.summary.update({**self._summary(), "state": "interrupted" if killed else state})
        if state == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if state == "finished" else 1)
        self._verify()
        if refusal:
            raise refusal
        shutil.rmtree(self.folder)
        return result | {"rows": self._sent, "new": self._sent - self.num_before}

    def _lock(self) -> Any:
        """Lock the run against other publishers; the lock ends with this process."""
        guard = (self.directory / ".publishing").open("w", encoding="utf-8")
        deadline = time.monotonic() + self.job.answer_seconds
        while True:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise WandbError(f"another process publishes {self.directory}") from None
                time.sleep(0.1)
            else:
                return guard

    def _ids(self) -> Iterator[str]:
        """Candidates for the id of the W&B run: the run's id, then others in case it is taken or was deleted."""
        yield self.job.run_id
        for attempt in itertools.count(2):
            yield f"{self.job.run_id}-w{attempt}"

    def _is_start(self, held: HeldRun) -> bool:
        """Whether the server holds the start of this record, by the time of its last row: records are never cut."""
        if not held.num_rows:
            return True
        if held.num_rows > len(self._rows):
            return False
        line, last = self._rows[held.num_rows - 1], held.last
        same_step: bool = last.get("trainer/global_step") == line["step"]
        return same_step and bool(abs(last.get("_timestamp", 0) - line.get("time", 0)) < SAME_SECONDS)

    def _is_shown(self, held: HeldRun) -> bool:
        return held.num_rows == self._num_ready() and held.summary.get(DIGEST) == self._digest()

    def _open(self) -> bool:
        """Open the W&B run; False if a run of this id was deleted, because W&B reserves its id forever."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
            os.environ[name] = str(self.folder.resolve())
        os.environ["WANDB_SILENT"] = "true"
        os.environ.pop("WANDB_SERVICE", None)  # the wandb process of the parent
        import wandb

        self.wandb: Any = wandb
        job, git = self.job, self._provenance().get("git") or {}
        settings = wandb.Settings(
            console="off",
            init_timeout=INIT_SECONDS,
            finish_timeout=job.finish_seconds,
            disable_git=True,
            git_commit=git.get("commit"),
            host=(self._provenance().get("host") or {}).get("name"),
            program="convatlas",
            x_disable_meta=not job.live,  # the machine that publishes is not the one that trained
            x_disable_stats=not job.live,
            x_disable_machine_info=not job.live,
            x_stats_pid=os.getppid(),
            x_save_requirements=False,
        )
        try:
            self._run = wandb.init(
                id=self.wandb_id,
                name=job.run_id,
                entity=self.entity,
                project=job.project,
                config=job.config | {"run_id": job.run_id},
                group=job.group,
                job_type=job.job_type,
                tags=job.tags,
                notes=job.notes,
                resume="allow",
                mode="online",  # whatever WANDB_MODE says
                settings=settings,
            )
        except wandb.Error as error:
            if "previously created and deleted" in str(error):
                wandb.teardown()
                return False
            raise WandbError(" ".join(str(error).split())) from error
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("epoch", step_metric="trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step")
        return True

    def _num_ready(self) -> int:
        """Number of lines that can be sent; the line of the test waits for its pictures."""
        waiting = not (self.record.evaluation / "test.json").is_file()
        return next((i for i, line in enumerate(self._rows) if waiting and _is_test(line)), len(self._rows))

    def _row(self, index: int) -> dict[str, Any]:
        line = dict(self._rows[index])
        if missing := {"epoch", "time"} - line.keys():
            path = self.record.metrics
            raise UnreadableError(f"{path}:{index + 1}: damaged line, expected {' and '.join(sorted(missing))}")
        step, epoch, when = (line.pop(key) for key in ("step", "epoch", "time"))
        row = {"trainer/global_step": step, "epoch": epoch, "_timestamp": when}
        row |= {name: float(value) for name, value in line.items()}  # "NaN" too
        if _is_test(line):
            row |= evaluation_media(self.wandb, self.record.evaluation / "test.json")
        return row

    def _state(self) -> str:
        """The final state of the run; ``running`` if it was killed."""
        return str(self._summary().get("state", "running"))

    def _summary(self) -> dict[str, Any]:
        return {
            key: value
            for key, value in self.record.summary.items()
            if key not in ("format", "test", "run_id", "name", "host")
        }

    def _provenance(self) -> dict[str, Any]:
        return self.record.provenance

    def _digest(self) -> str:
        """A digest of the published files; checkpoints count by size and modification time."""
        stats = [
            (name, file.stat().st_size, file.stat().st_mtime_ns)
            for name in kept(self.job.checkpoints)
            if (file := checkpoint_file(self.directory, name)).is_file()
        ]
        texts = [path.read_bytes() for path in (self.record.metrics, self.record.summary_file) if path.is_file()]
        return hashlib.sha256(b"".join(texts) + json.dumps(stats).encode()).hexdigest()

    def _missing(self) -> list[str]:
        """Checkpoints that a finished run should have but does not have."""
        if self._state() != "finished":
            return []
        return [name for name in kept(self.job.checkpoints) if not checkpoint_file(self.directory, name).is_file()]

    def _save_files(self) -> None:
        """Upload copies: W&B would link files outside its folder and write through the links."""
        folder = Path(self._run.dir)
        saved = []
        for path in (self.record.provenance_file, self.record.class_list):
            if (file := file_inside(self.directory, path.name)) is None:
                raise UnreadableError(f"{path}: missing, or a link out of the run's directory")
            saved.append(Path(shutil.copy(file, folder / path.name)))
        if diff := (self._provenance().get("git") or {}).get("diff"):
            saved.append(folder / "diff.patch")
            saved[-1].write_text(diff, encoding="utf-8")
        for file in saved:
            self._run.save(str(file), base_path=str(folder), policy="now")

    def _send_checkpoints(self) -> dict[str, Any]:
        names = [name for name in kept(self.job.checkpoints) if checkpoint_file(self.directory, name).is_file()]
        if not names:
            return {}
        for artifact in send_checkpoints(self._run, self.wandb, self.directory, names):
            artifact.wait(timeout=int(self.job.finish_seconds))
        path = f"{self.entity}/{self.job.project}/{self.wandb_id}"
        return {"checkpoints": names, "deleted": delete_superseded(self.wandb, path, self.job.checkpoints)}

    def _verify(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            held = self.server.run(self.entity, self.job.project, self.wandb_id)
            if held is not None and self._is_start(held) and held.num_rows == self._sent:
                return
            if time.monotonic() > deadline:
                num_rows = held.num_rows if held else 0
                raise WandbError(f"{self.url} holds {num_rows:,} of {self._sent:,} rows{self._reason()}")
            time.sleep(0.5)

    def _reason(self) -> str:
        """The error at which wandb-core stopped sending rows, otherwise its last logged error."""
        notes = [note for log in self.folder.glob("**/debug-internal.log") for note in _notes(log)]
        errors = [note for note in notes if note["level"].startswith("ERROR")]
        fatal = [note for note in errors if note["level"] == FATAL]  # other requests may fail after it
        return "".join(f" ({note['msg']})" for note in (fatal or errors)[-1:])


def _notes(log: Path) -> list[dict[str, str]]:
    """Entries with a level and a message in the log of wandb-core; an incomplete line is skipped."""
    notes = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            note = json.loads(line)
            if isinstance(note, dict) and {"level", "msg"} <= note.keys():
                notes.append({key: str(note[key]) for key in ("level", "msg")})
    return notes


def main() -> int:
    """Publish one run."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # these are for the run; this process ends after the run
    results = os.dup(1)
    os.dup2(2, 1)  # output of libraries must not mix with results

    def say(result: Mapping[str, Any]) -> None:
        os.write(results, json.dumps(result).encode() + b"\n")

    job = Job(**json.loads(sys.stdin.readline()))
    try:
        publication = Publication(job)
        say({"url": publication.url})
        while job.live and not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            publication.send()
        say(publication.finish())
    except (WandbError, UserError, OSError) as error:
        say({"error": " ".join(str(error).split())})
        return 1
    return 0


def _is_test(line: Mapping[str, Any]) -> bool:
    return any(name.startswith("test/") for name in line)


if __name__ == "__main__":
    # wandb's own clean-up at the end of a process waits for a server that may not answer.
    status = main()
    sys.stderr.flush()
    os._exit(status)
