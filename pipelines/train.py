"""Train a network, evaluate it on the reported split, and record the run.

    convatlas train experiment=quickstart
    convatlas train model=resnet50 data=imagefolder data.root=/data/birds trainer.max_epochs=30

The same command is the same run: an unfinished run resumes, a finished one shows its result, and `run.fresh=true`
starts a new attempt. A run writes only to runs/<run_id>/. On SIGTERM or SIGUSR1 it finishes the step, saves last.ckpt
and exits with status 75.
"""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers.logger import Logger

from convatlas.cli import execute
from convatlas.config.arguments import expanded
from convatlas.config.composition import plain
from convatlas.data.module import ImageDataModule
from convatlas.data.sources.scan import passed_over_text
from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory, now
from convatlas.record.lock import RunLock
from convatlas.record.provenance import collect_provenance
from convatlas.record.quantities import named_text
from convatlas.tasks.base import Task
from convatlas.tasks.evaluation import evaluate_split
from convatlas.tracking.local import LocalRecord
from convatlas.tracking.mirrors import close_mirrors, description
from convatlas.training.agreement import agree, compare
from convatlas.training.callbacks.checkpointing import RunCheckpoints
from convatlas.training.callbacks.ddp_buckets import DeterministicBuckets
from convatlas.training.callbacks.ema import EMA
from convatlas.training.callbacks.progress import Throughput, progress
from convatlas.training.callbacks.resume_state import ResumeState
from convatlas.training.callbacks.stopping import StopSignals
from convatlas.training.checkpoint_io import AtomicCheckpointIO, CheckpointMetadata, read_run_checkpoint
from convatlas.training.gpu import gpu_settings, set_tf32
from convatlas.training.plan import TYPES, plan_run, run_on_other_data, state_at_start
from convatlas.training.rehearsal import Rehearsal
from convatlas.training.restore import load_task
from convatlas.training.resume import ResumePoint, resume_point
from convatlas.training.trainer import build_trainer, lost_rank_told, quiet_libraries, world_size
from convatlas.utils.clock import STARTUP
from convatlas.utils.console import print_fields, print_result, warn
from convatlas.utils.distributed import is_rank_zero
from convatlas.utils.files import writing
from convatlas.utils.signals import Preempted


def train(config: DictConfig) -> dict[str, Any]:
    """Train, evaluate and record one run.

    Args:
        config: Composed from ``conf/train.yaml``; ``data.num_classes`` is filled in from the class list.

    Returns:
        ``run_id``, ``run`` (the directory), ``state``, and the entries of ``summary.json``.

    Raises:
        UserError: Before the first step: a mistake in the configuration, the data or the run directory, or a run that
            another process owns. Later: an image that cannot be decoded, a loss that is not finite, or a full disk.
        RankLostError: Another rank did not connect, ended or stopped responding.
        Preempted: SIGTERM or SIGUSR1 arrived, and ``last`` is saved; the exit status is 75.
    """
    quiet_libraries()
    set_tf32(config.tf32)
    pl.seed_everything(config.seed, verbose=False)
    run, data = plan_run(config)
    STARTUP.mark("data")

    ranks = world_size(config.trainer)
    if config.run.fresh and ranks > 1:  # a rank may look before and another after the directory exists
        raise UserError(f"run.fresh=true: {ranks} ranks cannot agree on a new attempt; give run.attempt={run.attempt}")
    if not config.trainer.limit_val_batches or config.trainer.check_val_every_n_epoch > config.trainer.max_epochs:
        raise UserError(
            "trainer.limit_val_batches and trainer.check_val_every_n_epoch: no epoch would be validated, "
            "expected at least one: the best checkpoint is chosen there"
        )
    agree(config, {"run": run.run_id, "data": data.fingerprint, "class list": data.class_list.hash})
    # The order of resume: 1. a finished run is shown; 2. an unfinished run resumes from its last checkpoint;
    # 3. otherwise training starts from model.weights; 4. otherwise it starts from random weights of the seed.
    if run.finished:
        return _result(run, already_finished=True)
    task: Task = instantiate(
        config.model, optimizer=instantiate(config.optimizer), schedule=instantiate(config.schedule)
    )
    task.check_data(data)
    data.check_batch(ranks, config.trainer.accumulate_grad_batches)
    STARTUP.mark("model")
    warnings = data.check_labels()  # on every rank, so that none waits for another that reads many masks
    STARTUP.mark("labels")
    if is_rank_zero():
        for message in warnings:
            warn(message)
        if other := run_on_other_data(config, run, data):
            warn(f"this is a new run: its data are not those of {other}")
        run.create()
    with RunLock(run.path) if is_rank_zero() else nullcontext():
        return _run(config, run, data, task)


def _run(config: DictConfig, run: RunDirectory, data: ImageDataModule, task: Task) -> dict[str, Any]:
    """Resume or begin the run that this process owns, train, and record how it ended."""
    start = state_at_start(task, data)
    with lost_rank_told():
        compare(start)  # rank 0 owns the run: from here on no other process changes it
        if run.finished:  # by a process that rank 0 has waited for
            return _result(run, already_finished=True)
        begin = _resume_point(config, run, data, task)
    record = LocalRecord(run.metrics, run.run_id)
    mirrors: list[Logger] = []
    settings: dict[str, Any] = expanded(plain(config))
    if is_rank_zero():
        record.resume(begin.step)
        provenance = collect_provenance(data.fingerprint, data.digests, data.class_list.hash, start)
        run.begin(settings, list(data.class_list.names), provenance)
    data.skipped.log = run.skipped
    earlier_seconds = run.summary.get("train_seconds", 0.0)
    started = time.monotonic()
    stop = StopSignals()
    failed = False
    try:
        if is_rank_zero():
            mirrors += [
                instantiate(tracker)(directory=str(run.path), settings=settings)
                for tracker in (config.tracking or {}).values()
            ]
        trainer = _trainer(config, run, data, task, [record, *mirrors], stop)
        if is_rank_zero():
            _announce(config, run, data, task, trainer, begin.step)
        STARTUP.mark("trainer")
        summary = _train_and_evaluate(trainer, run, data, task, begin)
    except BaseException as error:
        failed = True
        outcome = stop.outcome(error)
        interrupted = isinstance(outcome, KeyboardInterrupt | SystemExit)  # Lightning turns Ctrl-C into SystemExit
        state = "preempted" if isinstance(outcome, Preempted) else "interrupted" if interrupted else "failed"
        summary = {"state": state, "reason": f"{type(outcome).__name__}: {outcome}"}
        if outcome is not error:
            raise outcome from error
        raise
    finally:
        try:
            if is_rank_zero():
                seconds = round(earlier_seconds + time.monotonic() - started, 1)
                _end(run, failed, **summary, train_seconds=seconds, ended=now())
        finally:
            close_mirrors(mirrors)
            stop.leave_together()
            stop.flag.release()
    return _result(run, already_finished=False)


def _resume_point(config: DictConfig, run: RunDirectory, data: ImageDataModule, task: Task) -> ResumePoint:
    """Choose the checkpoint to continue from, the same one on all ranks, and check that it can be loaded."""
    read = Rehearsal(config.trainer, task, data).read if run.has_begun else read_run_checkpoint
    begin = resume_point(run, read)
    if begin.checkpoint and run.best.is_file():
        read(run.best)  # it may still be the best one after hours of training
    compare({"step to resume from": str(begin.step)})
    return begin


def _train_and_evaluate(
    trainer: pl.Trainer, run: RunDirectory, data: ImageDataModule, task: Task, begin: ResumePoint
) -> dict[str, Any]:
    """Train, evaluate the best checkpoint on the reported split, and summarise the run."""
    trainer.fit(task, datamodule=data, ckpt_path=begin.checkpoint, weights_only=True)
    best = read_run_checkpoint(run.best)
    load_task(task, best, run.best)
    test = evaluate_split(trainer, task, data, str(run.best), run.evaluation)
    with writing(run.previous):
        run.previous.unlink(missing_ok=True)
    summary = _summary(trainer, task, data, best) | {"test": test, "state": "finished"}
    summary["skipped_images"] = run.num_skipped()
    if is_rank_zero():
        run.sync_record()
    return summary


def _end(run: RunDirectory, failed: bool, **entries: Any) -> None:
    """Record how the run ended. After a failure, which the user must see, an error here is only a warning."""
    try:
        run.update(**entries)
    except UserError as error:
        if not failed:
            raise
        warn(str(error))


def _trainer(
    config: DictConfig,
    run: RunDirectory,
    data: ImageDataModule,
    task: Task,
    loggers: list[Logger],
    stop: StopSignals,
) -> pl.Trainer:
    callbacks: list[pl.Callback] = [
        CheckpointMetadata(run.run_id, expanded(plain(config)), data.class_list),
        ResumeState(),
        DeterministicBuckets(),
        stop,
        RunCheckpoints(
            run,
            task.monitor,
            task.mode,
            minutes=config.run.checkpoint_minutes,
            steps=config.run.checkpoint_steps,
            stop=stop,
        ),
        Throughput(),
        progress(),
    ]
    if config.ema.decay is not None:
        callbacks.append(EMA(config.ema.decay, config.ema.every_n_steps))
    return build_trainer(
        config.trainer, logger=loggers, callbacks=callbacks, plugins=[AtomicCheckpointIO()], num_sanity_val_steps=0
    )


def _announce(
    config: DictConfig, run: RunDirectory, data: ImageDataModule, task: Task, trainer: pl.Trainer, step: int
) -> None:
    ranks = world_size(config.trainer)
    accumulation = config.trainer.accumulate_grad_batches
    batch = data.global_batch_size
    limit = config.trainer.limit_train_batches
    steps = data.num_samples("train") // batch
    steps = min(steps, limit // accumulation) if isinstance(limit, int) else int(limit * steps)
    epochs = config.trainer.max_epochs
    parameters = sum(parameter.numel() for parameter in task.net.parameters())
    recipe = task.optimizer_config
    device = trainer.strategy.root_device
    fields = {
        "run": f"{run.path}" + (f", resumed after step {step:,}" if step else ""),
        "data": f"{data.name}: {data.num_samples('train'):,} train, {data.num_samples('val'):,} val, "
        f"{data.num_samples('test'):,} test images in {len(data.class_list.names):,} classes",
        **({"files": passed_over_text(data.passed_over)} if data.passed_over else {}),
        "model": f"{task.name}: {parameters:,} parameters",
        **({"weights": ", ".join(map(str, task.loaded))} if task.loaded else {}),
        "batch": f"global {batch} = {ranks} rank{'s' * (ranks > 1)} × {batch // ranks // accumulation} "
        f"× {accumulation} accumulation; {steps:,} steps/epoch × {epochs} epochs = {steps * epochs:,} steps",
        "lr": recipe.arithmetic(batch) if recipe else "",
        "tracking": "; ".join(map(description, trainer.loggers[1:])) or "local record only",
        **({"gpu": gpu_settings(expanded(plain(config)), device)} if device.type == "cuda" else {}),
    }
    print_fields(fields)


def _summary(trainer: pl.Trainer, task: Task, data: ImageDataModule, best: dict[str, Any]) -> dict[str, Any]:
    best_value = next(item.best_value for item in trainer.checkpoint_callbacks if isinstance(item, RunCheckpoints))
    return {
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "parameters": sum(parameter.numel() for parameter in task.net.parameters()),
        "num_samples": {split: data.num_samples(split) for split in ("train", "val", "test")},
        "best": {
            "metric": task.monitor,
            "value": best_value,
            "step": best["global_step"],
        },
        "startup_seconds": STARTUP.seconds,
    }


def _result(run: RunDirectory, already_finished: bool) -> dict[str, Any]:
    return {"run": str(run.path), "already_finished": already_finished, **run.summary}


def show(result: Mapping[str, Any]) -> None:
    """Print the result of a run."""
    metrics = [named_text(name, value) for name, value in result["test"].items()]
    if result["already_finished"]:
        print_result("This run is finished already; run.fresh=true starts a new attempt.", metrics)
    else:
        print_result(f"Finished {result['epochs']} epochs, {result['steps']:,} steps.", metrics)
    run, best, skipped = result["run"], result["best"], result.get("skipped_images", 0)
    print_fields(
        {
            "run": run,
            **({"skipped": f"{skipped:,} images, listed in {run}/skipped_images.txt"} if skipped else {}),
            "best": f"{run}/checkpoints/best.ckpt  ({named_text(best['metric'], best['value'])})",
            "report": f"convatlas report run={run}",
            "predict": f"convatlas predict checkpoint={run}/checkpoints/best.ckpt images=FOLDER",
        }
    )


if __name__ == "__main__":
    execute(train, show, TYPES, several_ranks=True)
