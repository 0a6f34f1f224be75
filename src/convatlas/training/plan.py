"""Plan a run before it starts: its data, its name and its directory."""

import hashlib
import json
import re
from collections.abc import MutableMapping
from typing import Annotated, Any, Literal

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from convatlas.config.arguments import expanded
from convatlas.config.composition import fill_num_classes, plain
from convatlas.data.module import ImageDataModule
from convatlas.errors import UnreadableError, UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.expectation import Expectation
from convatlas.record.identity import changed_settings, initial_weights, run_id
from convatlas.record.provenance import differing_parts
from convatlas.tasks.base import Task
from convatlas.training.legacy_runs import find_run_of_before, recorded_settings

TYPES: dict[str, Any] = {
    "seed": NonNegativeInt,
    "tf32": bool | None,
    "run.root": str,
    "run.attempt": PositiveInt,
    "run.fresh": bool,
    "run.checkpoint_minutes": PositiveFloat,
    "run.checkpoint_steps": PositiveInt | None,
    "ema.decay": Annotated[float, Field(gt=0, lt=1)] | None,
    "ema.every_n_steps": PositiveInt,
    "data.split": Literal["test"],
    "expected": list[Expectation],
    "seeds": list[NonNegativeInt],
    "trainer.max_epochs": PositiveInt,
    "trainer.log_every_n_steps": PositiveInt,
    "trainer.devices": PositiveInt | Literal["auto"],
    "trainer.num_nodes": PositiveInt,
}
"""Types of keys of a run that no constructor checks, or not as strictly."""


def plan_run(
    config: DictConfig, opened: MutableMapping[str, ImageDataModule] | None = None
) -> tuple[RunDirectory, ImageDataModule]:
    """Open the data of a run and find its directory.

    Args:
        config: Composed from ``conf/train.yaml``; ``data.num_classes`` is filled in from the class list.
        opened: Data modules that are already open, by configuration, for callers that only need the names of several
            runs. All seeds share one; new ones are added.

    Returns:
        The directory, which need not exist, and the data module.

    Raises:
        UserError: A mistake in the configuration of the data or in the images; a default has changed since a run of
            this identity began.
    """
    if opened is None:
        data = _open_images(config.data)
    else:
        key = json.dumps({**plain(config)["data"], "seed": None}, sort_keys=True)
        data = opened[key] = opened.get(key) or _open_images(config.data)
    fill_num_classes(config, len(data.class_list.names))
    settings = plain(config)
    identity = run_id(settings, data.fingerprint, *initial_weights(settings["model"]))
    run = RunDirectory.choose(config.run.root, identity, config.run.attempt, config.run.fresh)
    if not run.path.exists() and not config.run.fresh:
        run = find_run_of_before(run, settings, data) or run
    if run.has_begun and (differences := changed_settings(recorded_settings(run), expanded(settings))):
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise UserError(
            f"{run.path}: a default has changed since this run began: {differences[0]}{more}; give the former value if "
            "the key is still there, or run.fresh=true for a new attempt"
        )
    return run, data


def run_on_other_data(config: DictConfig, run: RunDirectory, data: ImageDataModule) -> str | None:
    """Find a run of the same settings on other data, to explain why a new run does not resume it.

    Args:
        config: As ``plan_run`` left it.
        run: The run's directory.
        data: Its data.

    Returns:
        The directory of the latest such run and the parts that differ, or None if there is no such run.
    """
    if run.path.exists() or not run.path.parent.is_dir():
        return None
    settings = plain(config)
    weights = initial_weights(settings["model"])
    start = f"{settings['model']['name']}-{settings['data']['name']}-"
    found: list[tuple[str, str]] = []
    for path in run.path.parent.iterdir():
        if not path.name.startswith(start):
            continue
        try:
            recorded = RunDirectory(path).provenance
            started, fingerprint, digests = (recorded[key] for key in ("started", "data_fingerprint", "data_digests"))
        except (UnreadableError, KeyError):  # a damaged record, or one without digests of parts
            continue
        if run_id(settings, fingerprint, *weights) == re.sub(r"-a\d+$", "", path.name):
            other = differing_parts(digests, data.digests)
            if other:
                found.append((started, f"{path} ({', '.join(other)} differ)"))
    return max(found)[1] if found else None


def _open_images(config: DictConfig) -> ImageDataModule:
    try:
        data: ImageDataModule = instantiate(config)
    except InstantiationException as error:  # Hydra wraps the exceptions of constructors
        if isinstance(error.__cause__, UserError):
            raise UserError(str(error.__cause__)) from error
        raise
    return data


def check_metric(key: str, metric: str, config: DictConfig) -> None:
    """Refuse a metric of an evaluation that runs of this configuration do not have.

    Args:
        key: The key that is set to the metric, for the message.
        metric: The metric with its split, such as ``val/top1``; metrics of ``train`` are not checked.
        config: Composed from ``conf/train.yaml``.

    Raises:
        UserError: The task has no such metric.
    """
    split, _, quantity = metric.partition("/")
    task: type[Task] = get_class(config.model._target_)
    if split != "train" and not re.fullmatch(task.metric_names, quantity):
        raise UserError(f"{key}={metric}: {task.task_type} has {split}/({task.metric_names})")


def state_at_start(task: Task, data: ImageDataModule) -> dict[str, str]:
    """Fingerprints of the state before the first step; runs with different ones differ from step 0.

    Args:
        task: The new task, before a checkpoint is loaded, so that a resumed run has the fingerprints of its start.
        data: The data, not yet divided between ranks: the order is that of the global batches.

    Returns:
        ``initial_weights`` and ``first_order`` (the images of the first epoch's batches), SHA-256.
    """
    order = hashlib.sha256()
    for batch in data.train_order(epoch=0, accumulation=1):
        order.update(batch.tobytes())
    return {"initial_weights": weights_digest(task.net), "first_order": order.hexdigest()}


def weights_digest(net: nn.Module) -> str:
    """The SHA-256 of a network's parameters and buffers with their names, shapes and types."""
    weights = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        weights.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return weights.hexdigest()
