"""Evaluate a network on a split, each sample counted once.

    convatlas evaluate run=runs/resnet20_cifar-fashion_mnist_sample-1a2b3c4d-s0
    convatlas evaluate checkpoint=best.ckpt data=imagefolder data.root=/data/birds data.split=val
    convatlas evaluate model=resnet50_v15 model.weights=resnet50.pth data=imagenet data.root=/data/imagenet

A checkpoint brings its network and its data; `data=…` shows it others, prepared as its own were.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from convatlas.cli import execute
from convatlas.console import print_fields, print_result
from convatlas.data.class_list import ClassList
from convatlas.data.datamodule import ClassificationDataModule
from convatlas.errors import UserError
from convatlas.evaluation import evaluate_split
from convatlas.restore import checkpoint_path, restored_config
from convatlas.run.callbacks import progress
from convatlas.run.checkpoints import KEY, read_run_checkpoint
from convatlas.run.environment import quiet_libraries
from convatlas.tasks.classification import ClassificationTask


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
    if config.data.num_classes is None:
        config.data.num_classes = len(data.class_list.names)
    task: ClassificationTask = instantiate(config.model)
    if path is not None:
        checkpoint = read_run_checkpoint(path)
        trained_on = ClassList(tuple(checkpoint[KEY]["class_list"]))
        trained_on.check_equal(data.class_list, f"checkpoint={path}", f"data={data.name}")
        task.load_state_dict(checkpoint["state_dict"])
    trainer: pl.Trainer = instantiate(
        config.trainer,
        logger=False,
        callbacks=[progress()],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    source = str(path or config.model.weights)
    output = _output(config, path)
    metrics = evaluate_split(trainer, task, data, source, output)
    return {
        "split": data.split,
        "num_samples": data.num_samples(data.split),
        "metrics": metrics,
        "checkpoint": source,
        "evaluation": str(output / f"{data.split}.json"),
    }


def _output(config: DictConfig, checkpoint: Path | None) -> Path:
    """``output``, else ``evaluation/`` of the run that the checkpoint lies in, else ``evaluation/`` here."""
    if config.output is not None:
        return Path(config.output)
    if config.run is not None or (checkpoint is not None and checkpoint.parent.name == "checkpoints"):
        return Path(config.run or checkpoint.parents[1]) / "evaluation"  # type: ignore[union-attr]
    return Path("evaluation")


def show(result: Mapping[str, Any]) -> None:
    """Print an evaluation for a person."""
    print_result(f"{result['num_samples']:,} images of the {result['split']} split", result["metrics"])
    print_fields({"checkpoint": result["checkpoint"], "details": result["evaluation"]})


if __name__ == "__main__":
    execute(evaluate, show, restored_config, seed=int, run=str | None, checkpoint=str | None, output=str | None)
