"""The report at scale: writes many long runs, then measures reading, the page, and its first paint in Chromium.

    python -m benchmarks.report_scale [--runs 200] [--steps 100000] [--every 10] [--folder DIR]

The runs are those of a sweep, five seeds for each of its configurations, and lie on the disk as training leaves them.
`--every` is how many steps lie between two lines of metrics.jsonl, trainer.log_every_n_steps. Prints seconds, peak
memory, bytes, and the times of the page: first contentful paint, all that is in the window drawn, filter applied.
"""

import argparse
import itertools
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from hydra.utils import instantiate
from playwright.sync_api import sync_playwright

from convatlas.config.composition import compose
from convatlas.record.reader import read_run
from convatlas.report.page import write_report
from convatlas.report.selection import runs_in

SEEDS = 5
EPOCHS = 90
LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
DECAYS = (1e-5, 1e-4, 5e-4, 1e-3)
DEPTHS = (20, 56)


def write_runs(root: Path, count: int, steps: int, every: int) -> None:
    """Write ``count`` finished runs of a sweep, each configuration with ``SEEDS`` seeds."""
    sweep = itertools.cycle(itertools.product(LEARNING_RATES, DECAYS, DEPTHS))
    for index, (rate, decay, depth) in zip(range(-(-count // SEEDS)), sweep, strict=False):
        for seed in range(min(SEEDS, count - index * SEEDS)):
            name = f"resnet{depth}_cifar-cifar10-{index:08x}-s{seed}"
            _write_run(root / name, seed, steps, every, {"rate": rate, "decay": decay, "depth": depth})


def _write_run(run: Path, seed: int, steps: int, every: int, setting: dict[str, Any]) -> None:
    rng = np.random.default_rng([seed, int(1e6 * setting["rate"]), int(1e6 * setting["decay"]), setting["depth"]])
    skill = 1.3 - 0.25 * abs(np.log10(setting["rate"]) + 1) - 0.1 * abs(np.log10(setting["decay"]) + 3.3)
    skill += 0.002 * setting["depth"] + rng.normal(0, 0.02)
    run.mkdir(parents=True)
    net = {"depth": setting["depth"], "num_classes": 10}
    algorithm = {"momentum": 0.9, "weight_decay": setting["decay"]}
    config = {
        "seed": seed,
        "data": {"name": "cifar10", "global_batch_size": 128},
        "model": {"name": f"resnet{setting['depth']}_cifar", "net": net},
        "optimizer": {"learning_rate": setting["rate"], "algorithm": algorithm},
        "trainer": {"max_epochs": EPOCHS, "log_every_n_steps": every},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    done = np.arange(1, steps + 1) / steps
    losses = 2.3 * np.exp(-4 * skill * done) + 0.05 + np.abs(rng.normal(0, 0.15 - 0.1 * done))
    losses[rng.integers(steps)] += 5  # a spike among a hundred thousand steps
    logged = {
        "train/loss": losses,
        "train/learning_rate": setting["rate"] * 0.5 * (1 + np.cos(np.pi * done)),
        "train/images_per_second": rng.normal(1450 - 12 * setting["depth"], 40, steps),
        "train/data_wait": np.abs(rng.normal(0.03, 0.01, steps)),
    }
    epoch_steps = steps // EPOCHS
    with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            line = {"step": step, "epoch": (step - 1) // epoch_steps, "time": 1.7e9 + 0.1 * step}
            if step % every == 0:
                file.write(json.dumps(line | {name: float(column[step - 1]) for name, column in logged.items()}) + "\n")
            if step % epoch_steps == 0:
                top1 = float(0.95 - 0.85 * np.exp(-3 * skill * step / steps) + rng.normal(0, 0.004))
                values = {"val/loss": 2.3 * (1 - top1), "val/top1": top1, "val/top5": 1 - (1 - top1) / 5}
                file.write(json.dumps(line | {"train/top1": top1 + 0.02}) + "\n")
                file.write(json.dumps(line | values) + "\n")
    summary = {
        "run_id": run.name,
        "name": f"resnet{setting['depth']}_cifar on cifar10",
        "state": "finished",
        "started": f"2026-01-01T{seed:02d}:00:00+00:00",
        "ended": f"2026-01-02T{seed:02d}:00:00+00:00",
        "epochs": EPOCHS,
        "steps": steps,
        "parameters": 269_722 if setting["depth"] == 20 else 853_018,
        "best": {"metric": "val/top1", "value": top1, "step": steps},
        "test": {"test/top1": top1 - 0.004, "test/top5": 1 - (1 - top1) / 5, "test/loss": 2.3 * (1 - top1)},
        "train_seconds": 0.1 * steps,
    }
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def measure_browser(page_file: Path, screenshot: Path | None) -> dict[str, float]:
    """Open a page in headless Chromium; seconds from the start of its navigation, and of a filter."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(page_file.resolve().as_uri(), wait_until="load")
        loaded = page.evaluate("performance.now()") / 1000
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        page.locator(".plot").first.scroll_into_view_if_needed()
        page.locator(".plot .trace").first.wait_for(state="attached")
        began = time.perf_counter()
        page.locator(".filter input").fill("learning_rate:0.1 depth:56")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        filtered = time.perf_counter() - began
        if screenshot is not None:
            page.screenshot(path=screenshot)
        browser.close()
    return {"first_paint": paint, "loaded": loaded, "filter": filtered}


def main() -> None:
    """Write the runs, or take those of ``--folder``, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where the runs are kept, for another measurement")
    parser.add_argument("--screenshot", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.folder or Path(temporary) / "runs"
        if not root.is_dir():
            write_runs(root, arguments.runs, arguments.steps, arguments.every)
        paths = runs_in(root)
        size = sum((path / "metrics.jsonl").stat().st_size for path in paths)
        began, busy = time.perf_counter(), time.process_time()
        records = [read_run(path) for path in paths]
        read, busy = time.perf_counter() - began, time.process_time() - busy
        began = time.perf_counter()
        page, tables = write_report(records, Path(temporary) / "report.html", instantiate(compose("report").dashboard))
        written = time.perf_counter() - began
        memory = psutil.Process().memory_info().rss
        times = measure_browser(page, arguments.screenshot)
        print(f"runs          {len(paths)}, {size / 1e9:.2f} GB of metrics.jsonl")
        print(f"read          {read:.1f} s, of these {busy:.1f} s on the CPU: {size / busy / 1e6:.0f} MB/s")
        sizes = [file.stat().st_size / 1e6 for file in (page, tables)]
        print(f"page          {written:.1f} s, {sizes[0]:.1f} MB; Markdown {sizes[1]:.2f} MB")
        print(f"memory        {memory / 2**20:.0f} MiB")
        print("browser       " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items()))


if __name__ == "__main__":
    main()
