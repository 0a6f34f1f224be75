"""Train a network, evaluate it on the reported split, and record the run.

    convatlas train experiment=quickstart
    convatlas train model=resnet50 data=imagefolder data.root=/data/birds trainer.max_epochs=30

The same command is the same run: unfinished, it resumes; finished, it shows its result; `run.fresh=true` begins a
new attempt beside it. Everything it writes is in runs/<run_id>/.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import Logger

from convatlas.cli import execute
from convatlas.clock import STARTUP
from convatlas.config import plain
from convatlas.console import print_fields, print_result
from convatlas.data.datamodule import ClassificationDataModule
from convatlas.evaluation import evaluate_split
from convatlas.rank import is_rank_zero
from convatlas.run.callbacks import Throughput, progress
from convatlas.run.checkpoints import AtomicCheckpointIO, CheckpointMetadata, read_run_checkpoint
from convatlas.run.directory import RunDirectory, now
from convatlas.run.environment import quiet_libraries, world_size
from convatlas.run.identity import run_id
from convatlas.run.provenance import collect_provenance
from convatlas.tasks.classification import ClassificationTask
from convatlas.tracking.local_record import LocalRecord, cut_back
from convatlas.tracking.mirrors import close_mirrors


def train(config: DictConfig) -> dict[str, Any]:
    """Train, evaluate and record one run.

    Args:
        config: Composed from ``conf/train.yaml``; ``data.num_classes`` is filled in from the class list.

    Returns:
        ``run_id``, ``run`` (the directory), ``state``, and the entries of ``summary.json``.

    Raises:
        UserError: A mistake in the configuration, the data or the run directory, before the first step.
    """
    quiet_libraries()
    pl.seed_everything(config.seed, verbose=False)
    data: ClassificationDataModule = instantiate(config.data)
    if config.data.num_classes is None:
        config.data.num_classes = len(data.class_list.names)
    STARTUP.mark("data")

    settings = plain(config)
    run = RunDirectory.choose(config.run.root, run_id(settings, data.fingerprint), config.run.fresh)
    # The order of resume: 1. a finished run is shown, 2. an unfinished one goes on from its last checkpoint,
    # 3. otherwise model.weights is the start, 4. otherwise the seed's own initial weights are.
    if run.finished:
        return _result(run, already_finished=True)
    task: ClassificationTask = instantiate(
        config.model, optimizer=instantiate(config.optimizer), schedule=instantiate(config.schedule)
    )
    data.check_batch(world_size(config.trainer), config.trainer.accumulate_grad_batches)
    resume_from = run.last if run.last.is_file() else None
    resume_step = 0
    if resume_from is not None:
        checkpoint = read_run_checkpoint(resume_from)
        resume_step = checkpoint["global_step"]
    STARTUP.mark("model")

    loggers: list[Logger] = [LocalRecord(run.metrics, run.run_id)]
    if is_rank_zero():
        run.create()
        loggers += [
            instantiate(tracker)(run_id=run.run_id, save_dir=str(run.path), settings=settings)
            for tracker in (config.tracking or {}).values()
        ]
        provenance = collect_provenance(data.fingerprint, data.class_list.hash)
        run.begin(settings, list(data.class_list.names), provenance)
        cut_back(run.metrics, resume_step)
        _announce(config, run, data, task, resume_step)
    trainer = _trainer(config, run, data, task, loggers)
    STARTUP.mark("trainer")

    started = time.monotonic()
    try:
        trainer.fit(task, datamodule=data, ckpt_path=resume_from, weights_only=True)
        task.load_state_dict(read_run_checkpoint(run.best)["state_dict"])
        test = evaluate_split(trainer, task, data, str(run.best), run.path / "evaluation")
    except BaseException as error:
        if is_rank_zero():
            run.update(state="failed", ended=now(), reason=f"{type(error).__name__}: {error}")
        close_mirrors(trainer.loggers, exit_code=1)
        raise
    close_mirrors(trainer.loggers, exit_code=0)
    if is_rank_zero():
        seconds = round(time.monotonic() - started, 1)
        run.update(**_summary(trainer, task, data), test=test, train_seconds=seconds, ended=now(), state="finished")
    return _result(run, already_finished=False)


def _trainer(
    config: DictConfig,
    run: RunDirectory,
    data: ClassificationDataModule,
    task: ClassificationTask,
    loggers: list[Logger],
) -> pl.Trainer:
    callbacks = [
        CheckpointMetadata(run.run_id, plain(config), data.class_list),
        ModelCheckpoint(
            run.checkpoints,
            filename="best",
            monitor=task.monitor,
            mode=task.mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        ModelCheckpoint(run.checkpoints, filename="last", save_on_train_epoch_end=True, enable_version_counter=False),
        Throughput(),
        progress(),
    ]
    trainer: pl.Trainer = instantiate(
        config.trainer,
        logger=loggers,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    return trainer


def _announce(
    config: DictConfig, run: RunDirectory, data: ClassificationDataModule, task: ClassificationTask, step: int
) -> None:
    ranks = world_size(config.trainer)
    accumulation = config.trainer.accumulate_grad_batches
    batch = data.global_batch_size
    limit = config.trainer.limit_train_batches
    steps = data.num_samples("train") // batch
    steps = limit // accumulation if isinstance(limit, int) else int(limit * steps)
    epochs = config.trainer.max_epochs
    parameters = sum(parameter.numel() for parameter in task.net.parameters())
    recipe = task.optimizer_recipe
    fields = {
        "run": f"{run.path}" + (f", resumed after step {step:,}" if step else ""),
        "data": f"{data.name}: {data.num_samples('train'):,} train, {data.num_samples('val'):,} val, "
        f"{data.num_samples('test'):,} test images in {len(data.class_list.names):,} classes",
        "model": f"{task.name}: {parameters:,} parameters",
        "batch": f"global {batch} = {ranks} rank{'s' * (ranks > 1)} × {batch // ranks // accumulation} "
        f"× {accumulation} accumulation; {steps:,} steps/epoch × {epochs} epochs = {steps * epochs:,} steps",
        "lr": recipe.arithmetic(batch) if recipe else "",
        "tracking": ", ".join(config.tracking or {}) or "local record only",
    }
    print_fields(fields)


def _summary(trainer: pl.Trainer, task: ClassificationTask, data: ClassificationDataModule) -> dict[str, Any]:
    best = next(c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor)
    score = best.best_model_score
    checkpoint = read_run_checkpoint(Path(best.best_model_path))
    return {
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "parameters": sum(parameter.numel() for parameter in task.net.parameters()),
        "num_samples": {split: data.num_samples(split) for split in ("train", "val", "test")},
        "best": {
            "metric": task.monitor,
            "value": None if score is None else float(score),
            "step": checkpoint["global_step"],
        },
        "startup_seconds": STARTUP.seconds,
    }


def _result(run: RunDirectory, already_finished: bool) -> dict[str, Any]:
    return {"run": str(run.path), "already_finished": already_finished, **run.summary}


def show(result: Mapping[str, Any]) -> None:
    """Print the result of a run for a person."""
    if result["already_finished"]:
        print_result("This run is finished already; run.fresh=true starts a new attempt.", result["test"])
    else:
        print_result(f"Finished {result['epochs']} epochs, {result['steps']:,} steps.", result["test"])
    run = result["run"]
    print_fields(
        {
            "run": run,
            "best": f"{run}/checkpoints/best.ckpt  ({result['best']['metric']} {result['best']['value']:.4f})",
            "report": f"convatlas report run={run}",
            "predict": f"convatlas predict checkpoint={run}/checkpoints/best.ckpt images=FOLDER",
        }
    )


if __name__ == "__main__":
    execute(train, show, seed=int, **{"run.root": str, "run.fresh": bool})
