"""Python imports this at its start where `tests.gates.Gate` says so; trainings then hold at the gate's step."""

import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(os.environ["CONVATLAS_TEST_GATE"])
TASK = "convatlas.tasks.base"


def hold(task: Any, *_: object) -> None:
    """Wait before a training step, until the gate is open or the run was told to stop."""
    if task.global_step < int((FOLDER / "step").read_text(encoding="utf-8")):
        return
    (FOLDER / f"held-{os.getpid()}").touch()
    opened = [FOLDER / "open", FOLDER / f"open-{os.getpid()}"]
    stops = [callback.flag for callback in task.trainer.callbacks if hasattr(callback, "flag")]
    while not any(path.exists() for path in opened) and not any(stop.received for stop in stops):
        time.sleep(0.01)


class TaskFinder(MetaPathFinder):
    """Gives the base of all tasks the hook as soon as it is imported: it takes seconds, and not all processes do."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find that module alone."""
        if name != TASK:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            raise ImportError(name)
        load = spec.loader.exec_module

        def load_and_hook(module: ModuleType) -> None:
            load(module)
            module.Task.on_train_batch_start = hold

        spec.loader.exec_module = load_and_hook  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, TaskFinder())
