"""Runs that W&B follows while they train, with every trouble that a server can make."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convatlas.utils.signals import EXIT_STATUS
from tests.conftest import SMALL
from tests.gates import PATIENCE, Gate, until
from tests.tracking.conftest import record, rows, summary, synced, train_process
from tests.wandb_server import KEY, WandbServer

IMPATIENT = ("tracking.wandb.answer_seconds=10", "tracking.wandb.finish_seconds=2")
LONG = ("trainer.max_epochs=8", "trainer.log_every_n_steps=1", "run.checkpoint_steps=4")


def only_run(root: Path) -> Path:
    (run,) = root.iterdir()
    return run


@pytest.mark.slow
def test_rows_arrive_while_the_run_trains(server: WandbServer, tmp_path: Path) -> None:
    process = train_process(tmp_path, *LONG, "trainer.max_epochs=1000")
    until(lambda: any(run.history for run in server.runs.values()))  # wandb-core sends every 15 s
    assert process.poll() is None
    arrived = rows(next(iter(server.runs.values())))
    assert arrived == record(only_run(tmp_path))[: len(arrived)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == EXIT_STATUS


def test_a_run_is_published_with_everything_that_belongs_to_it(server: WandbServer, tmp_path: Path) -> None:
    process = train_process(tmp_path, "tracking.wandb.checkpoints=best", *LONG)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    run = only_run(tmp_path)
    (published,) = server.runs.values()
    assert rows(published) == record(run)
    assert (published.exit_code, published.fields["commit"][:1].isalnum()) == (0, True)
    assert f"tracking  wandb {server.url}/lab/convatlas/runs/{run.name}" in errors
    assert f"{run.name}:best" in server.aliases()
    assert published.streams["wandb-events.jsonl"]  # what the machine did
    assert not (run / "wandb").exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
    assert synced(run)["state"] == "up to date"


@pytest.mark.slow
def test_killed_resumed_and_published_it_is_one_run_with_the_records_rows(server: WandbServer, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with Gate(tmp_path / "first", step=13) as gate:
        process = train_process(root, *LONG, gate=gate)
        gate.wait()
        process.kill()
        process.communicate()
    run = only_run(root)
    until(lambda: next(iter(server.runs.values())).exit_code == 1)  # its publisher ends it
    (published,) = server.runs.values()
    assert rows(published) == record(run)
    assert published.summary["state"] == "interrupted"

    with Gate(tmp_path / "second", step=26) as gate:
        process = train_process(root, *LONG, "tracking=wandb_offline", gate=gate)
        gate.wait()
        process.kill()
        process.communicate()
    assert synced(run)["state"] == "published"
    assert rows(published) == record(run)

    process = train_process(root, *LONG)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert rows(published) == record(run)
    assert list(server.runs) == [run.name]
    assert published.exit_code == 0
    assert len({(line["step"], tuple(line)) for line in record(run)}) == len(record(run))


@pytest.mark.slow
def test_a_preempted_run_is_marked_and_goes_on(server: WandbServer, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with Gate(tmp_path / "gate", step=13) as gate:
        process = train_process(root, *LONG, gate=gate)
        gate.wait()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == EXIT_STATUS
    (published,) = server.runs.values()
    assert published.preempting
    assert published.summary["state"] == "preempted"
    process = train_process(root, *LONG)
    process.communicate(timeout=PATIENCE)
    assert rows(published) == record(only_run(root))
    assert (published.exit_code, published.summary["state"]) == (0, "finished")


def test_without_a_server_it_trains_offline_and_says_so(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    process = train_process(tmp_path, "tracking=wandb")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "tracking  wandb offline: " in errors
    assert "Connection refused); `convatlas sync` publishes the run" in errors
    server.start()
    run = only_run(tmp_path)
    assert not (run / "wandb").exists()
    assert synced(run)["state"] == "published"
    (published,) = server.runs.values()
    assert rows(published) == record(run)


@pytest.mark.slow
def test_an_outage_in_mid_run_costs_a_bounded_time(server: WandbServer, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with Gate(tmp_path / "gate", step=5) as gate:
        process = train_process(root, *LONG, *IMPATIENT, gate=gate)
        gate.wait()
        server.stop()
    _, errors = process.communicate(timeout=PATIENCE)  # wandb alone would try again for ever
    assert process.returncode == 0, errors
    run = only_run(root)
    assert "convatlas: warning: W&B: " in errors
    assert f"`convatlas sync runs={run}` sends the rest" in errors
    server.start()
    assert synced(run)["state"] == "published"
    (published,) = server.runs.values()
    assert rows(published) == record(run)
    assert published.exit_code == 0


@pytest.mark.slow
def test_a_server_that_takes_half_a_minute_is_not_waited_for(server: WandbServer, tmp_path: Path) -> None:
    server.delay = 30
    process = train_process(tmp_path, "tracking.wandb.answer_seconds=1")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "does not answer within 1 s" in errors
    assert summary(only_run(tmp_path))["state"] == "finished"


@pytest.mark.full
@pytest.mark.slow
def test_a_server_that_becomes_slow_is_not_waited_for(server: WandbServer, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with Gate(tmp_path / "gate", step=5) as gate:
        process = train_process(root, *LONG, *IMPATIENT, gate=gate)
        gate.wait()
        server.delay = 30
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "sends the rest" in errors
    assert summary(only_run(root))["state"] == "finished"


@pytest.mark.parametrize("trouble", ["no key", "no server", "refused"])
def test_online_tracking_without_a_server_is_refused_before_training(
    trouble: str, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    elif trouble == "no server":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    else:
        server.refused = {"UpsertBucket": "you may not write to this project"}
    root = tmp_path / "runs"
    process = train_process(root, "tracking=wandb_online")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("convatlas: error:")]
    assert line.startswith("convatlas: error: tracking=wandb_online: ")
    expected = {"no key": "set WANDB_API_KEY", "no server": "refused", "refused": "you may not write to this project"}
    assert expected[trouble] in line
    assert record(only_run(root)) == []


@pytest.mark.slow
def test_a_key_of_wandb_login_counts(server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text(
        f"machine {server.url.removeprefix('http://')} login user password {KEY}\n", encoding="utf-8"
    )
    (tmp_path / "netrc").chmod(0o600)
    process = train_process(tmp_path / "runs", "tracking=wandb_online")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert len(server.runs) == 1


@pytest.mark.slow
def test_two_ranks_are_one_run(server: WandbServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "convatlas"]
    overrides = [*SMALL, "tracking=wandb_online", "trainer.accelerator=cpu", f"run.root={tmp_path}"]
    done = subprocess.run([*command, "train", *overrides], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    (published,) = server.runs.values()
    assert server.operations.count("UpsertBucket") <= 3
    assert rows(published) == record(only_run(tmp_path))
    assert published.exit_code == 0
