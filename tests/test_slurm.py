"""A real SLURM: two nodes with two ranks each, and all that can end a job. Each run ends as the one left alone."""

import contextlib
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.kill_and_resume import difference
from convatlas.record.lines import read_metrics
from tests.conftest import SMALL, read_json
from tests.gates import PATIENCE, Gate
from tests.slurm_cluster import SlurmCluster, missing
from tests.wandb_server import KEY, WandbServer

ROOT = Path(__file__).parents[1]
TRAIN = [
    *SMALL,
    "trainer.max_epochs=5",
    "trainer.log_every_n_steps=1",
    "run.checkpoint_steps=4",
]
"""A run of 30 steps, held at the tenth by a gate where a test needs it to be under way."""
JOB = ["cluster=cpu", "resources=two_cpu_nodes", "resources.cpus_per_task=1"]
pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: the path of a socket may not be long
    with SlurmCluster(folder / "c", nodes=2, cpus=4) as running:
        yield running
    shutil.rmtree(folder)


@pytest.fixture
def wandb_server() -> Iterator[WandbServer]:
    with WandbServer() as running:
        yield running
        assert running.unknown == []


def convatlas(cluster: SlurmCluster, directory: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "convatlas", *arguments, "format=json"],
        cwd=directory,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def submit(cluster: SlurmCluster, directory: Path, *overrides: str) -> str:
    (run,) = convatlas(cluster, directory, "submit", *TRAIN, *JOB, *overrides)["runs"]
    assert run["state"] == "submitted"
    return str(run["job"])


def log(directory: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((directory / "runs" / "slurm").glob("*.log")))


def run_of(directory: Path) -> Path:
    (run,) = (directory / "runs").glob("resnet20*")
    return run


def wait_for_end(cluster: SlurmCluster, directory: Path, job: str, state: str = "COMPLETED") -> None:
    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    cluster.wait(lambda: cluster.state(job) in ended, PATIENCE, "the job's end")
    assert cluster.state(job) == state, log(directory)


def assert_equal_to(alone: Path, directory: Path) -> None:
    assert difference(run_of(directory), run_of(alone)) is None


@pytest.fixture(scope="module")
def alone(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a job that nothing happened to."""
    directory = tmp_path_factory.mktemp("alone")
    wait_for_end(cluster, directory, submit(cluster, directory))
    return directory


@pytest.fixture
def gate(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Gate]:
    """Holds the ranks of what is submitted in the midst of the training."""
    usual = cluster.environment
    with Gate(tmp_path / "gate", step=10) as closed:
        cluster.environment = usual | closed.variables
        yield closed
    cluster.environment = usual


@pytest.mark.slow
def test_usr1_queues_the_job_again_and_it_ends_bit_identical(
    cluster: SlurmCluster, alone: Path, gate: Gate, tmp_path: Path
) -> None:
    job = submit(cluster, tmp_path)
    gate.wait(4)
    (queued,) = convatlas(cluster, tmp_path, "submit", *TRAIN, *JOB)["runs"]
    assert queued["state"] == f"queued already as job {job}"
    assert [
        (entry["job"], entry["slurm"], entry["state"]) for entry in convatlas(cluster, tmp_path, "jobs")["jobs"]
    ] == [(job, "RUNNING", "running")]
    cluster.command("scancel", "--signal=USR1", job)
    cluster.wait(lambda: read_json(run_of(tmp_path) / "summary.json")["state"] == "preempted", PATIENCE)
    cluster.wait(lambda: cluster.field(job, "Restarts") == "1", PATIENCE)
    (queued,) = convatlas(cluster, tmp_path, "submit", *TRAIN, *JOB)["runs"]
    assert queued["state"].startswith(("queued already as job", "owned by process"))
    gate.open()
    assert queued["state"] == f"queued already as job {job}"
    wait_for_end(cluster, tmp_path, job)
    assert_equal_to(alone, tmp_path)
    provenance = read_json(run_of(tmp_path) / "provenance.json")
    assert provenance["slurm"]["SLURM_RESTART_COUNT"] == "1"
    assert len(provenance["earlier_attempts"]) == 1
    assert provenance["git"]["commit"]
    (finished,) = convatlas(cluster, tmp_path, "submit", *TRAIN, *JOB)["runs"]
    assert finished["state"] == "finished already"


@pytest.mark.slow
def test_a_script_submitted_by_hand_trains_four_equal_ranks_into_one_run(
    cluster: SlurmCluster, alone: Path, wandb_server: WandbServer, tmp_path: Path
) -> None:
    hook = tmp_path / "python"  # tells what each rank's weights are in the end
    hook.write_text(
        f"#!{sys.executable}\n"
        "import hashlib, os, sys\n"
        "import pytorch_lightning as pl\n"
        "from convatlas.cli import main\n"
        "def on_fit_end(self):\n"
        "    data = b''.join(p.detach().numpy().tobytes() for p in self.parameters())\n"
        f"    name = '{tmp_path}/rank' + os.environ['SLURM_PROCID']\n"
        "    open(name, 'w').write(hashlib.sha256(data).hexdigest())\n"
        "pl.LightningModule.on_fit_end = on_fit_end\n"
        "sys.argv = ['convatlas', *sys.argv[3:]]\n"
        "sys.exit(main())\n",
        encoding="utf-8",
    )
    hook.chmod(0o755)
    usual = dict(cluster.environment)
    cluster.environment |= {
        "CONVATLAS_PYTHON": str(hook),
        "WANDB_BASE_URL": wandb_server.url,
        "WANDB_API_KEY": KEY,
    }
    flags = ["--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", f"--chdir={tmp_path}", "--output=log"]
    overrides = [item for item in TRAIN if item != "tracking=none"] + ["tracking=wandb_online"]
    job = cluster.command("sbatch", "--parsable", *flags, str(ROOT / "slurm" / "train.sbatch"), *overrides)
    cluster.environment = usual
    wait_for_end(cluster, tmp_path, job)
    assert_equal_to(alone, tmp_path)
    (published,) = wandb_server.runs.values()
    assert (published.name, published.exit_code) == (run_of(tmp_path).name, 0)
    assert len(published.history) == len(read_metrics(run_of(tmp_path) / "metrics.jsonl"))
    hashes = [(tmp_path / f"rank{rank}").read_text(encoding="utf-8") for rank in range(4)]
    assert len(set(hashes)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "early", [pytest.param(False, id="training"), pytest.param(True, id="starting", marks=pytest.mark.full)]
)
def test_a_preempted_job_goes_on_when_there_is_room_again(
    cluster: SlurmCluster, alone: Path, gate: Gate, tmp_path: Path, early: bool
) -> None:
    job = submit(cluster, tmp_path, "cluster.sbatch.partition=low")
    if early:
        cluster.wait(lambda: len(_ranks(job)) == 4, PATIENCE)
    else:
        gate.wait(4)
    urgent = cluster.command(
        "sbatch",
        "--parsable",
        "--partition=high",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--wrap=sleep 5",
        "--output=/dev/null",
    )
    wait_for_end(cluster, tmp_path, urgent)
    gate.open()
    wait_for_end(cluster, tmp_path, job)
    assert cluster.field(job, "Restarts") == "1"
    assert_equal_to(alone, tmp_path)


@pytest.mark.slow
def test_a_failed_node_is_survived(cluster: SlurmCluster, alone: Path, gate: Gate, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path)
    gate.wait(4)
    cluster.kill_node("n2")
    gate.open()  # two of the four ranks are gone
    cluster.wait(lambda: cluster.state(job) == "PENDING", PATIENCE)
    cluster.start_node("n2")
    wait_for_end(cluster, tmp_path, job)
    assert_equal_to(alone, tmp_path)


@pytest.mark.slow
def test_a_cancelled_job_stays_cancelled_and_a_new_one_goes_on(
    cluster: SlurmCluster, alone: Path, gate: Gate, tmp_path: Path
) -> None:
    job = submit(cluster, tmp_path)
    gate.wait(4)
    cluster.command("scancel", job)
    wait_for_end(cluster, tmp_path, job, "CANCELLED")
    gate.open()
    again = submit(cluster, tmp_path)
    assert again != job
    wait_for_end(cluster, tmp_path, again)
    assert_equal_to(alone, tmp_path)


@pytest.mark.slow
def test_one_dead_rank_ends_the_job_with_a_message_and_the_next_one_goes_on(
    cluster: SlurmCluster, alone: Path, gate: Gate, tmp_path: Path
) -> None:
    job = submit(cluster, tmp_path)
    gate.wait(4)
    ranks = _ranks(job)
    gate.open(*(ranks[number].pid for number in range(3)))  # they wait for the last one, in the step
    ranks[3].kill()
    wait_for_end(cluster, tmp_path, job, "FAILED")
    gate.open()
    assert "another rank ended or fell silent" in log(tmp_path)
    assert not any(process.is_running() for process in ranks.values())
    wait_for_end(cluster, tmp_path, submit(cluster, tmp_path))
    assert_equal_to(alone, tmp_path)


@pytest.mark.full
@pytest.mark.slow
def test_torchrun_on_two_nodes_gives_the_same_run_bit_for_bit(
    cluster: SlurmCluster, alone: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    launch = "-m torch.distributed.run --nnodes=2 --nproc-per-node=2 --rdzv-backend=c10d --rdzv-id=1 --rdzv-endpoint"
    command = [sys.executable, *shlex.split(launch), endpoint, "-m", "convatlas", "train", *TRAIN]
    agents = [
        subprocess.Popen(
            [*command, "trainer.accelerator=cpu"],
            cwd=tmp_path,
            env=cluster.environment | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [agent.communicate(timeout=PATIENCE)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], errors
    assert_equal_to(alone, tmp_path)


@pytest.mark.slow
def test_an_array_trains_a_run_a_line_and_submits_only_what_is_missing(cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "seeds.txt").write_text("seed=1\nseed=2 'run.checkpoint_steps=3'\n", encoding="utf-8")
    arguments = ["submit", *SMALL, "cluster=cpu", "resources=one_cpu", "resources.cpus_per_task=1", "runs=seeds.txt"]
    runs = convatlas(cluster, tmp_path, *arguments)["runs"]
    for run in runs:
        wait_for_end(cluster, tmp_path, run["job"])
        assert read_json(tmp_path / run["run"] / "summary.json")["state"] == "finished"
    (tmp_path / "seeds.txt").write_text("seed=2\nseed=3\n", encoding="utf-8")
    again = convatlas(cluster, tmp_path, *arguments)["runs"]
    assert [run["state"] for run in again] == ["finished already", "submitted"]
    assert again[1]["job"].endswith("_2")
    wait_for_end(cluster, tmp_path, again[1]["job"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "told", [pytest.param(0, marks=pytest.mark.full), 1]
)  # the last task of an array has the array's own number
def test_one_task_of_an_array_is_told_to_stop_and_goes_on_alone(
    cluster: SlurmCluster, gate: Gate, tmp_path: Path, told: int
) -> None:
    (tmp_path / "seeds.txt").write_text("seed=1\nseed=2\n", encoding="utf-8")
    arguments = ["submit", *TRAIN, "cluster=cpu", "resources=one_cpu", "resources.cpus_per_task=1", "runs=seeds.txt"]
    runs = convatlas(cluster, tmp_path, *arguments)["runs"]
    gate.wait(2)
    cluster.command("scancel", "--signal=USR1", runs[told]["job"])
    cluster.wait(lambda: cluster.field(runs[told]["job"], "Restarts") == "1", PATIENCE, "the requeue")
    gate.open()
    for run in runs:
        wait_for_end(cluster, tmp_path, run["job"])
    restarts = [cluster.field(run["job"], "Restarts") for run in runs]
    assert restarts == ["1" if number == told else "0" for number in range(2)]


@pytest.mark.slow
def test_a_queued_job_does_not_see_later_edits(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "+cluster.sbatch.hold=true")
    (snapshot,) = (tmp_path / "runs" / "slurm" / "source").iterdir()
    assert (snapshot / "src/convatlas/cli.py").read_bytes() == (ROOT / "src/convatlas/cli.py").read_bytes()
    (snapshot / "src/convatlas/__init__.py").write_text("raise SystemExit('the snapshot')\n", encoding="utf-8")
    cluster.command("scontrol", "release", job)
    wait_for_end(cluster, tmp_path, job, "FAILED")
    assert "the snapshot" in log(tmp_path)


@pytest.mark.slow
def test_the_commands_of_the_cluster_page_run(cluster: SlurmCluster, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- slurm -->\n```console\n(.*?)```", page, flags=re.DOTALL)
    commands = [shlex.split(line.removeprefix("$ convatlas ")) for line in block.splitlines()]
    small = [item for item in SMALL if item not in commands[0]] + ["resources.cpus_per_task=1"]
    results = [convatlas(cluster, tmp_path, *words, *(small if words[0] == "submit" else [])) for words in commands]
    assert [run["state"] for result in results[:2] for run in result["runs"]] == ["to be submitted", "submitted"]
    (job,) = results[2]["jobs"]
    wait_for_end(cluster, tmp_path, job["job"])
    (job,) = convatlas(cluster, tmp_path, "jobs")["jobs"]
    assert (job["slurm"], job["state"]) == ("COMPLETED", "finished")


def _ranks(job: str) -> dict[int, psutil.Process]:
    """The Python processes of a job's ranks."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            if (
                environment.get("SLURM_JOB_ID") == job
                and "SLURM_STEP_NUM_TASKS" in environment
                and ("convatlas" in process.cmdline())
            ):
                found[int(environment["SLURM_PROCID"])] = process
    return found
