"""The batch scripts with programs of the same names in the place of SLURM's: what they do about each end of a run."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[1] / "slurm"
PROGRAMS = {
    # The probe of the nodes ends with "true"; the run itself is the other call.
    "srun": 'if [ "${@: -1}" = true ]; then exit $PROBE; fi\nprintf "%s\\n" "$@" > "$OUT/ran"; exit $STATUS',
    "squeue": "echo $STATE",
    "scontrol": '[ "$1" = show ] && echo "PreemptTime=$PREEMPT_TIME" || echo "$@" >> "$OUT/requeued"',
    "timeout": 'shift; exec "$@"',
}


@dataclass(frozen=True)
class Ended:
    """What became of a job: its status, what it said, the arguments of the run, and what was queued again."""

    status: int
    errors: str
    ran: list[str]
    requeued: str


class Jobs:
    """Runs the scripts in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in PROGRAMS.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
            (folder / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **variables: str) -> Ended:
        defaults = {"PROBE": "0", "STATUS": "0", "STATE": "RUNNING", "PREEMPT_TIME": "None", "SLURM_JOB_ID": "7"}
        environment = defaults | {"OUT": str(self.folder), "CONVATLAS_SLURM": str(SLURM)} | variables
        done = subprocess.run(
            ["bash", str(SLURM / script), *arguments],
            cwd=self.folder,
            env=environment | {"PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        ran, requeued = self.folder / "ran", self.folder / "requeued"
        return Ended(
            done.returncode,
            done.stderr,
            ran.read_text(encoding="utf-8").splitlines() if ran.exists() else [],
            requeued.read_text(encoding="utf-8").strip() if requeued.exists() else "",
        )


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.mark.parametrize(
    ("variables", "again"),
    [
        ({"STATUS": "0"}, False),
        ({"STATUS": "75"}, True),
        ({"STATUS": "75", "STATE": "CANCELLED"}, False),
        ({"STATUS": "143"}, False),  # a rank was ended because another one failed
        ({"STATUS": "143", "PREEMPT_TIME": "2026-01-01T00:00:00"}, True),  # while Python started
        ({"STATUS": "1"}, False),
        ({"STATUS": "137"}, False),
        ({"STATUS": "1", "PROBE": "1", "SLURM_RESTART_COUNT": "1"}, True),  # a node does not answer
        ({"STATUS": "2", "PROBE": "1", "SLURM_RESTART_COUNT": "1"}, False),  # a mistake is one on every node
    ],
)
def test_which_ends_are_queued_again(variables: dict[str, str], again: bool, jobs: Jobs) -> None:
    ended = jobs.run("train.sbatch", "seed=1", **variables)
    assert ended.status == int(variables["STATUS"])
    assert ended.requeued == ("requeue 7" if again else "")
    assert ended.ran[-2:] == ["train", "seed=1"]


def test_where_srun_can_start_nothing_the_job_fails_at_once(jobs: Jobs) -> None:
    ended = jobs.run("train.sbatch", PROBE="1")
    assert (ended.status, ended.ran, ended.requeued) == (2, [], "")
    assert "srun cannot start a task on each node of job 7" in ended.errors


def test_a_task_of_an_array_takes_its_line_and_is_queued_again_alone(jobs: Jobs) -> None:
    (jobs.folder / "runs.txt").write_text("seed=1\n\"data.root=/a b\" 'x=[1, 2]'\n", encoding="utf-8")
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}
    ended = jobs.run("array.sbatch", "runs.txt", "model=vgg11", STATUS="75", **task)
    assert ended.ran[-4:] == ["train", "model=vgg11", "data.root=/a b", "x=[1, 2]"]
    assert ended.requeued == "requeue 7_2"


@pytest.mark.parametrize(("line", "message"), [("it's=1", "unmatched single quote"), ("", "has no line 1")])
def test_a_line_that_cannot_be_read_trains_nothing(line: str, message: str, jobs: Jobs) -> None:
    (jobs.folder / "runs.txt").write_text(f"{line}\n", encoding="utf-8")
    ended = jobs.run("array.sbatch", "runs.txt", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1")
    assert (ended.status, ended.ran, ended.requeued) == (2, [], "")
    assert message in ended.errors
