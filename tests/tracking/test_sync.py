"""What `convatlas sync` makes of runs in every state; a real wandb-core talks to a server on loopback."""

import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from convatlas.config.composition import compose
from convatlas.errors import UserError
from convatlas.record.lock import RunLock
from convatlas.tracking.wandb.artifacts import checkpoint_step
from convatlas.training.checkpoint_io import read_checkpoint
from pipelines.sync import show, status, sync
from tests.gates import PATIENCE, until
from tests.tracking.conftest import bytes_under, record, rows, set_tracking, summary, synced
from tests.wandb_server import Run, WandbServer


def test_an_offline_run_is_published_whole(offline_run: Path, server: WandbServer) -> None:
    before = {path: path.read_bytes() for path in offline_run.rglob("*") if path.is_file()}
    result = synced(offline_run)
    assert (result["state"], result["new"]) == ("published", len(record(offline_run)))
    (run,) = server.runs.values()
    assert rows(run) == record(offline_run)
    assert run.name == offline_run.name
    assert run.fields["groupName"] == offline_run.name.removesuffix("-s0")
    assert (run.fields["jobType"], run.fields["tags"], run.fields["notes"]) == ("train", ["small"], "a test")
    assert run.config["model"]["name"] == "resnet20_cifar"
    assert (run.exit_code, run.summary["state"]) == (0, "finished")
    assert {"provenance.json", "class_list.txt"} <= set(run.files)
    assert {path: path.read_bytes() for path in before} == before


def test_pictures_of_the_test_go_with_its_row(offline_run: Path, server: WandbServer) -> None:
    synced(offline_run)
    (run,) = server.runs.values()
    media = {name: value for name, value in run.history[-1].items() if isinstance(value, dict)}
    assert set(media) == {"test/samples", "test/mistakes", "test/predictions", "test/confusion_matrix"}
    assert media["test/samples"]["count"] == 24
    assert any(name.startswith("media/images/test/confusion_matrix") for name in run.files)
    table = json.loads(next(content for name, content in run.files.items() if name.endswith("table.json")))
    evaluation = json.loads((offline_run / "evaluation" / "test.json").read_text(encoding="utf-8"))
    assert len(table["data"]) == len(evaluation["samples"]) + len(evaluation["mistakes"])


def test_a_damaged_run_is_named_and_the_others_are_published(offline_run: Path, server: WandbServer) -> None:
    damages = {"summary.json": b"", "config.yaml": b"\xff", "lock.json": b"\0", "metrics.jsonl": b"oops\n"}
    for name, damage in damages.items():
        shutil.copytree(offline_run, offline_run.parent / f"damaged-{name}", ignore=shutil.ignore_patterns("*.ckpt"))
        (offline_run.parent / f"damaged-{name}" / name).write_bytes(damage)
    patient = [f"{key}={PATIENCE}" for key in ("answer_seconds", "finish_seconds")]
    result = sync(compose("sync", [f"root={offline_run.parent}", *patient]))
    runs = {Path(run["run"]).name: run for run in result["runs"]}
    assert runs[offline_run.name]["state"] == "published"
    for name in damages:
        run = runs[f"damaged-{name}"]
        assert run["state"] == "failed"
        assert f"damaged-{name}/{name}" in run["reason"]
        assert (offline_run.parent / f"damaged-{name}" / name).read_bytes() == damages[name]
    assert status(result) == 1


def test_files_outside_a_run_are_neither_sent_nor_deleted(
    offline_run: Path, server: WandbServer, tmp_path: Path
) -> None:
    secret, elsewhere = tmp_path / "secret", tmp_path / "elsewhere"
    secret.write_text("secret", encoding="utf-8")
    elsewhere.mkdir()
    links = {"class_list.txt": secret, "evaluation/test": elsewhere, "wandb": elsewhere}
    for name, target in links.items():
        run = offline_run.parent / f"link-{Path(name).name}"
        shutil.copytree(offline_run, run, ignore=shutil.ignore_patterns("*.ckpt", Path(name).name))
        (run / name).symlink_to(target)
    for file in (offline_run / "evaluation" / "test").iterdir():
        shutil.copy(file, elsewhere)
    there = sorted(elsewhere.iterdir())
    patient = [f"{key}={PATIENCE}" for key in ("answer_seconds", "finish_seconds")]
    result = sync(compose("sync", [f"runs={offline_run.parent}/link-*", "checkpoints=none", *patient]))
    reasons = {Path(run["run"]).name: run["reason"] for run in result["runs"] if run["state"] == "failed"}
    assert "class_list.txt: missing, or a link out of the run's directory" in reasons["link-class_list.txt"]
    assert ".png: missing, or not in the folder of its evaluation" in reasons["link-test"]
    assert "File exists: " in reasons["link-wandb"]
    assert not any(b"secret" in content for run in server.runs.values() for content in run.files.values())
    assert sorted(elsewhere.iterdir()) == there


def test_a_damaged_checkpoint_is_not_sent(offline_run: Path, server: WandbServer) -> None:
    path = offline_run / "checkpoints" / "best.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = synced(offline_run)
    assert result["state"] == "failed"
    assert "best.ckpt: damaged: the checksum of" in result["reason"]
    assert [artifact for artifact in server.artifacts if artifact.type == "model"] == []


@pytest.mark.parametrize("content", [[1], {"epoch": 1}, {"global_step": "x"}])
def test_a_checkpoint_without_a_step_is_named(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt: damaged: expected global_step, an integer"):
        checkpoint_step(tmp_path / "x.ckpt")
    torch.save({"global_step": 7}, tmp_path / "x.ckpt")
    assert checkpoint_step(tmp_path / "x.ckpt") == 7


def test_the_axes_are_the_optimizer_step_and_the_epoch(offline_run: Path, server: WandbServer) -> None:
    synced(offline_run)
    (run,) = server.runs.values()
    metrics = json.loads(run.fields["config"])["_wandb"]["value"]["m"]
    assert {metric.get("1") or metric.get("2") for metric in metrics} == {"trainer/global_step", "epoch", "*"}


def test_a_second_sync_sends_nothing(offline_run: Path, server: WandbServer) -> None:
    synced(offline_run)
    server.operations.clear()
    assert synced(offline_run)["state"] == "up to date"
    assert set(server.operations) == {"Viewer", "RunResumeStatus"}


def test_only_missing_rows_are_sent(offline_run: Path, server: WandbServer) -> None:
    lines = (offline_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (offline_run / "metrics.jsonl").write_text("".join(lines[:5]) + lines[5][:20], encoding="utf-8")
    whole = summary(offline_run)
    (offline_run / "summary.json").write_text(
        json.dumps({"run_id": offline_run.name, "state": "running"}), encoding="utf-8"
    )
    assert synced(offline_run)["new"] == 5
    (run,) = server.runs.values()
    assert (run.summary["state"], run.exit_code) == ("interrupted", 1)
    (offline_run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    (offline_run / "summary.json").write_text(json.dumps(whole), encoding="utf-8")
    assert synced(offline_run)["new"] == len(lines) - 5
    assert rows(run) == record(offline_run)
    assert (run.summary["state"], run.exit_code) == ("finished", 0)


def test_a_preempted_run_is_marked_so(offline_run: Path, server: WandbServer) -> None:
    (offline_run / "summary.json").write_text(
        json.dumps(summary(offline_run) | {"state": "preempted"}), encoding="utf-8"
    )
    synced(offline_run)
    (run,) = server.runs.values()
    assert run.preempting
    assert run.exit_code != 0


def test_a_run_that_trains_is_skipped(offline_run: Path, server: WandbServer) -> None:
    with RunLock(offline_run):
        result = synced(offline_run)
    assert result["state"] == "trains"
    assert "owned by process" in result["reason"]
    assert server.runs == {}


@pytest.mark.parametrize(
    ("what", "later"),
    [
        ("UpsertBucket", []),
        ("file_stream", ["CreateRunFiles", "CreateArtifact"]),  # other failures do not hide why rows are refused
        ("CreateArtifact", []),
    ],
    ids=["UpsertBucket", "file_stream", "CreateArtifact"],
)
def test_a_refusal_is_an_error_with_its_reason(
    what: str, later: list[str], offline_run: Path, server: WandbServer
) -> None:
    server.refused = {what: "the quota is used up", **dict.fromkeys(later, "not now")}
    result = synced(offline_run)
    assert result["state"] == "failed"
    assert "the quota is used up" in result["reason"]
    assert status({"runs": [result]}) == 1
    server.refused = {}
    assert synced(offline_run)["state"] == "published"
    (run,) = server.runs.values()
    assert rows(run) == record(offline_run)
    assert {name.rpartition(":")[2] for name in server.aliases() if offline_run.name + ":" in name} >= {"best", "last"}


def test_checkpoints_become_versions_and_superseded_ones_go(offline_run: Path, server: WandbServer) -> None:
    assert synced(offline_run)["checkpoints"] == ["best", "last"]
    models = [artifact for artifact in server.artifacts if artifact.type == "model"]
    assert {frozenset(artifact.aliases - {"latest"}) for artifact in models} == {
        frozenset({"best"}),
        frozenset({"last", "step-12"}),
    }
    best = next(artifact for artifact in models if "best" in artifact.aliases)
    assert best.files["best.ckpt"] == (offline_run / "checkpoints" / "best.ckpt").read_bytes()
    assert best.metadata["class_list"] == (offline_run / "class_list.txt").read_text(encoding="utf-8").splitlines()
    assert best.metadata["config"]["model"]["name"] == "resnet20_cifar"
    assert best.metadata["metrics"]["test/top1"] == summary(offline_run)["test"]["test/top1"]

    newer = read_checkpoint(offline_run / "checkpoints" / "best.ckpt") | {"global_step": 11}
    torch.save(newer, offline_run / "checkpoints" / "best.ckpt")
    assert synced(offline_run)["deleted"] == 1
    assert best not in server.artifacts
    assert {f"{offline_run.name}:{alias}" for alias in ("best", "last", "step-11", "step-12")} <= set(server.aliases())


def test_a_lost_checkpoint_is_reported(offline_run: Path, server: WandbServer) -> None:
    (offline_run / "checkpoints" / "best.ckpt").unlink()
    result = synced(offline_run)
    assert (result["state"], result["reason"]) == ("failed", "best.ckpt is lost")
    (run,) = server.runs.values()
    assert rows(run) == record(offline_run)


def test_the_disk_holds_checkpoints_once(offline_run: Path, server: WandbServer) -> None:
    before = bytes_under(offline_run)
    synced(offline_run)
    checkpoints = sum(path.stat().st_size for path in (offline_run / "checkpoints").iterdir())
    assert bytes_under(offline_run) <= before
    assert bytes_under(offline_run) <= 1.1 * checkpoints + (before - checkpoints)
    assert not (offline_run / "wandb").exists()


def test_another_record_of_the_same_id_gets_a_run_of_its_own(offline_run: Path, server: WandbServer) -> None:
    synced(offline_run)
    lines = [json.dumps(line | {"time": line["time"] + 100}) + "\n" for line in record(offline_run)]
    (offline_run / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    assert synced(offline_run)["url"].endswith(f"{offline_run.name}-w2")
    assert rows(server.runs[f"{offline_run.name}-w2"]) == record(offline_run)
    assert synced(offline_run)["state"] == "up to date"


@pytest.mark.slow
def test_a_run_deleted_there_is_published_under_another_id(offline_run: Path, server: WandbServer) -> None:
    server.deleted = {offline_run.name}
    assert synced(offline_run)["url"].endswith(f"{offline_run.name}-w2")


def test_runs_that_do_not_track_are_left_alone_unless_named(offline_run: Path, server: WandbServer) -> None:
    set_tracking(offline_run)
    config = (offline_run / "config.yaml").read_text(encoding="utf-8")
    (offline_run / "config.yaml").write_text(config.partition("tracking:")[0] + "tracking: {}\n", encoding="utf-8")
    (result,) = sync(compose("sync", [f"root={offline_run.parent}"]))["runs"]
    assert result["state"] == "untracked"
    assert synced(offline_run)["state"] == "published"


def test_no_server_is_one_error(offline_run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.delay = 3
    with pytest.raises(UserError, match="does not answer within 1 s"):
        synced(offline_run, "answer_seconds=1")
    server.delay = 0
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match="set WANDB_API_KEY or run `wandb login`"):
        synced(offline_run)


@pytest.mark.slow
def test_watching_publishes_a_run_when_it_has_ended(
    offline_run: Path, server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = ExitStack()

    def rounds() -> int:
        return server.operations.count("Viewer")  # what each round of the watch begins with

    def watch() -> dict[str, Run]:
        try:
            until(lambda: rounds() >= 3)
            while_it_trained = dict(server.runs)
            owner.close()
            until(lambda: any(run.exit_code is not None for run in server.runs.values()))
            ended = rounds()
            until(lambda: rounds() >= ended + 2)
            return while_it_trained
        finally:
            signal.raise_signal(signal.SIGINT)

    owner.enter_context(RunLock(offline_run))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background lacks
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(watch)
        result = sync(compose("sync", [f"root={offline_run.parent}", "watch=true", "watch_seconds=0.5"]))
    signal.signal(signal.SIGINT, before)
    assert watched.result() == {}
    assert [run["state"] for run in result["runs"]] == ["published"]
    assert "published  http" in capsys.readouterr().err
    show(result)
    assert "published" in capsys.readouterr().out


def test_wandbs_own_process_of_the_caller_is_not_used(
    offline_run: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/nowhere")
    assert synced(offline_run)["state"] == "published"
