"""Evaluate a network on a split, each sample counted once.

    convatlas evaluate run=runs/resnet20_cifar-fashion_mnist_sample-1a2b3c4d-s0
    convatlas evaluate checkpoint=best.ckpt data=imagefolder data.root=/data/birds data.split=val
    convatlas evaluate model=resnet50_v15 model.weights=resnet50.pth data=imagenet data.root=/data/imagenet

A checkpoint brings its network and its data; `data=…` shows it others, prepared as its own were.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import NonNegativeInt

from convatlas.cli import execute
from convatlas.config import fill_num_classes, plain
from convatlas.console import print_fields, print_result
from convatlas.data.class_list import ClassList
from convatlas.data.datamodule import ClassificationDataModule
from convatlas.errors import UserError
from convatlas.evaluation import evaluate_split
from convatlas.restore import checkpoint_path, restored_config
from convatlas.run.callbacks import progress
from convatlas.run.checkpoints import KEY, read_run_checkpoint
from convatlas.run.environment import build_trainer, quiet_libraries
from convatlas.tasks.classification import ClassificationTask

TYPES = {"seed": NonNegativeInt, "run": str | None, "checkpoint": str | None, "output": str | None}
"""What an evaluation asks of its own keys."""


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate a run's best checkpoint, a checkpoint file, or a network with weights.

    Args:
        config: Composed from ``conf/evaluate.yaml`` around the checkpoint by ``restored_config``.

    Returns:
        ``split``, ``num_samples``, ``metrics``, ``checkpoint`` and ``evaluation``, the file with the details.

    Raises:
        UserError: Nothing to evaluate, an unreadable checkpoint, classes that differ from the checkpoint's.
    """
    quiet_libraries()
    path = checkpoint_path(config.run, config.checkpoint)
    if path is None and config.model.weights is None:
        raise UserError("nothing to evaluate: give run=DIR, checkpoint=FILE, or model=M model.weights=FILE")
    data: ClassificationDataModule = instantiate(config.data)
    fill_num_classes(config, len(data.class_list.names))
    task: ClassificationTask = instantiate(config.model)
    output = Path("evaluation" if config.output is None else config.output)
    if path is not None:
        checkpoint = read_run_checkpoint(path)
        trained_on = ClassList(tuple(checkpoint[KEY]["class_list"]))
        trained_on.check_equal(data.class_list, f"checkpoint={path}", f"data={data.name}")
        task.load_state_dict(checkpoint["state_dict"])
        if config.output is None and _is_the_runs_own(config, checkpoint[KEY], path):
            output = path.parents[1] / "evaluation"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output}: cannot be written ({error.strerror})") from error
    trainer = build_trainer(config.trainer, logger=False, callbacks=[progress()], enable_checkpointing=False)
    source = str(path or config.model.weights)
    metrics = evaluate_split(trainer, task, data, source, output)
    return {
        "split": data.split,
        "num_samples": len(task.predictions.indices) if task.predictions else 0,
        "metrics": metrics,
        "checkpoint": source,
        "evaluation": str(output / f"{data.split}.json"),
    }


def _is_the_runs_own(config: DictConfig, metadata: dict[str, Any], checkpoint: Path) -> bool:
    """Whether this is an evaluation of a run on its own images, all of them: only that belongs to its record."""
    same = {"threads", "prefetch", "split", "seed"}
    found, own = (
        {key: value for key, value in data.items() if key not in same}
        for data in (plain(config)["data"], metadata["config"]["data"])
    )
    in_run = checkpoint.parent.name == "checkpoints" and checkpoint.parents[1].name == metadata["run_id"]
    limit = config.trainer.limit_test_batches
    return in_run and found == own and isinstance(limit, float) and limit == 1.0  # 1 would be one batch


def show(result: Mapping[str, Any]) -> None:
    """Print an evaluation for a person."""
    print_result(f"{result['num_samples']:,} images of the {result['split']} split", result["metrics"])
    print_fields({"checkpoint": result["checkpoint"], "details": result["evaluation"]})


if __name__ == "__main__":
    execute(evaluate, show, TYPES, restored_config)
