import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from convatlas.config.composition import compose
from convatlas.report.figures.panels import Dashboard
from convatlas.report.live import LiveReport
from convatlas.report.server import ReportServer
from tests.gates import PATIENCE

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
expect.set_options(timeout=1000 * PATIENCE)
HOSTILE = "<script>alert(1)</script>\"'</script><img src=x onerror=alert(2)>%{x}"

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MakeRun = Callable[..., Path]


def png(seed: int, side: int = 32) -> bytes:
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:side, 0:side] / side
    sky, thing = rng.uniform(90, 230, 3), rng.uniform(20, 200, 3)
    image = sky * (1.1 - 0.4 * row[..., None]) + rng.normal(0, 6, (side, side, 3))
    centre, radius = rng.uniform(0.35, 0.65, 2), rng.uniform(0.15, 0.35)
    inside = (row - centre[0]) ** 2 + ((column - centre[1]) / rng.uniform(0.7, 1.6)) ** 2 < radius**2
    image[inside] = thing * (0.6 + 0.6 * column[inside][:, None])
    file = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _metrics(steps: int, rng: np.random.Generator, skill: float) -> list[dict[str, Any]]:
    epoch_steps = steps // 12
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        epoch, done = (step - 1) // epoch_steps, step / steps
        loss = 2.3 * np.exp(-3 * skill * done) + 0.08 + rng.normal(0, 0.06 + 0.1 * (1 - done))
        row = {"step": step, "epoch": epoch, "time": 1.7e9 + 0.2 * step, "train/loss": float(abs(loss))}
        row["train/learning_rate"] = float(0.05 * (1 + np.cos(np.pi * done)))
        if step % 5 == 0:
            row["train/images_per_second"] = float(rng.normal(1450, 60))
            row["train/data_wait"] = float(abs(rng.normal(0.03, 0.015)))
        rows.append(row)
        if step % epoch_steps == 0:
            top1 = 1 - 0.9 * np.exp(-2.2 * skill * done) - 0.05
            rows.append({"step": step, "epoch": epoch, "time": 1.7e9, "train/top1": float(top1 + 0.03)})
            validation = {"val/loss": float(2.3 * np.exp(-2.2 * skill * done) + 0.25), "val/top1": float(top1)}
            rows.append(
                {"step": step, "epoch": epoch, "time": 1.7e9, **validation, "val/top5": float(1 - (1 - top1) / 4)}
            )
    return rows


def _evaluation(folder: Path, names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    size = len(names)
    counts = rng.poisson(1.2 if size > 20 else 8, (size, size))
    np.fill_diagonal(counts, 100 * rng.integers(7, 11, size) - 60)
    totals = counts.sum(axis=1)
    (folder / "test").mkdir(parents=True)

    def shown(index: int, label: int, prediction: int) -> dict[str, Any]:
        (folder / f"test/{index:06d}.png").write_bytes(png(index))
        right = label == prediction
        return {
            "index": index,
            "path": f"test/{index:06d}.jpg",
            "label": label,
            "prediction": prediction,
            "confidence": 0.995 - 0.004 * (index % 24),
            "label_confidence": 0.995 - 0.004 * (index % 24) if right else 0.002 + 0.0001 * index,
            "image": f"test/{index:06d}.png",
        }

    return {
        "split": "test",
        "checkpoint": "checkpoints/best.ckpt",
        "num_samples": int(totals.sum()),
        "metrics": {"test/top1": float(np.trace(counts) / totals.sum()), "test/top5": 0.9931, "test/loss": 0.4123},
        "classes": names,
        "per_class": [
            {"class": name, "count": int(totals[i]), "accuracy": float(counts[i, i] / totals[i])}
            for i, name in enumerate(names)
        ],
        "confusion_matrix": counts.tolist(),
        "mistakes": [shown(i, i % size, (i + 1 + i // 4) % size) for i in range(24)],
        "samples": [shown(100 + i, i % size, i % size if i % 7 else (i + 3) % size) for i in range(24)],
    }


@pytest.fixture(scope="module")  # and not longer: a process can have one Playwright at a time
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("neither chromium nor google-chrome is on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def dashboard() -> Dashboard:
    """The panels that reports have unless one says otherwise."""
    panels: Dashboard = instantiate(compose("report").dashboard)
    return panels


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a finished run of a few hundred steps, as training leaves it."""

    def make(
        name: str = "resnet20_cifar10",
        *,
        seed: int = 0,
        steps: int = 480,
        skill: float = 1.0,
        classes: list[str] | None = None,
        evaluation: bool = True,
        expected: list[dict[str, Any]] | None = None,
    ) -> Path:
        rng = np.random.default_rng(seed)
        digest = "0f3a9c21" if skill == 1 else f"{round(1000 * skill):08x}"
        run = tmp_path / "runs" / f"run-{digest}-{seed}"
        (run / "evaluation").mkdir(parents=True)
        config = {
            "data": {"_target_": "data.CIFAR10", "name": "cifar10", "image_size": 32, "global_batch_size": 128},
            "model": {"name": "resnet20_cifar", "net": {"depth": 20, "num_classes": 10}},
            "optimizer": {"lr": round(0.1 * skill, 3), "momentum": 0.9, "weight_decay": 1e-4},
            "seed": seed,
            "expected": expected or [],
        }
        (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        provenance = {
            "started": "2025-11-22T20:00:00+00:00",
            "command": "convatlas train data=cifar10 model=resnet20_cifar",
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True, "diff": "- old\n+ new\n"},
            "python": "3.11.7",
            "packages": {"torch": "2.9.0", "pytorch-lightning": "2.6.0"},
            "host": {"name": "node7", "cpus": 16, "gpus": []},
            "data_fingerprint": "9d1f",
        }
        (run / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")
        rows = _metrics(steps, rng, skill)
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        best = rows[-1]["val/top1"]
        summary = {
            "run_id": f"{name}-{digest}-s{seed}",
            "name": name,
            "state": "finished",
            "started": "2025-11-22T20:00:00+00:00",
            "ended": "2025-11-22T21:12:30+00:00",
            "epochs": 12,
            "steps": steps,
            "parameters": 269722,
            "best": {"metric": "val/top1", "value": best, "step": steps},
            "metrics": {"val/top1": best},
            "test": {"test/loss": 0.4123, "test/top1": best - 0.004, "test/top5": 0.9931},
            "startup_seconds": {"imports": 3.1, "composition": 0.21, "data": 0.9, "first_step": 1.4},
            "train_seconds": 4215.0,
        }
        (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        if evaluation:
            result = _evaluation(run / "evaluation", classes or NAMES, rng)
            (run / "evaluation" / "test.json").write_text(json.dumps(result), encoding="utf-8")
        return run

    return make


@pytest.fixture
def serve(tmp_path: Path, dashboard: Dashboard) -> Iterator[Callable[[], ReportServer]]:
    """Starts the dashboard of the runs that the test made."""
    servers: list[ReportServer] = []

    def start() -> ReportServer:
        server = ReportServer(LiveReport(tmp_path / "runs", None, dashboard), 0, 0.2)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    """A run that is under way and whose names are an attack: NaN, torn last line, no evaluation."""
    run = tmp_path / "runs" / "hostile"
    run.mkdir(parents=True)
    config = {"data": {"name": HOSTILE, "classes": [HOSTILE, "b"]}, "model": {"name": HOSTILE}, "seed": 7}
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {"step": step, "epoch": None, "time": 1.7e9 + step, "train/loss": 1 / step} for step in range(1, 200)
    ]
    rows[30]["train/loss"] = "NaN"
    rows[31]["train/loss"] = "Infinity"
    rows[60][f"train/{HOSTILE}"] = 1.0
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 200, "train/lo', encoding="utf-8"
    )
    (run / "summary.json").write_text(
        json.dumps({"name": HOSTILE, "state": "running", "run_id": "hostile"}), encoding="utf-8"
    )
    return run
