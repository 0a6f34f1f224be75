"""Evaluate a network on a split; each sample counts once.

    convatlas evaluate run=runs/resnet20_cifar-fashion_mnist_sample-1a2b3c4d-s0
    convatlas evaluate checkpoint=best.ckpt data=imagefolder data.root=/data/birds data.split=val
    convatlas evaluate model=resnet50_v15 model.weights=torchvision data=imagenet data.root=/data/imagenet
    convatlas evaluate run=runs/vgg16-imagenet-1a2b3c4d-s0 protocol=dense_vgg
    convatlas evaluate 'run=[runs/resnet50-a,runs/resnet50-b]' protocol=ten_crop
    convatlas evaluate run=runs/deeplabv3_resnet50-voc_masks-1a2b3c4d-s0 protocol=multi_scale_flip

A checkpoint contains its network and the settings of its data; `data=…` evaluates other data, preprocessed with the
settings stored in the checkpoint. Several checkpoints form an ensemble, the mean of their probabilities. `protocol`
selects the crops and scales of an image, as in the papers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import NonNegativeInt
from torch import nn

from convatlas.cli import execute
from convatlas.config.arguments import reduced
from convatlas.config.composition import fill_num_classes, plain
from convatlas.data.class_list import ClassList
from convatlas.data.classification.module import ClassificationDataModule
from convatlas.data.module import ImageDataModule
from convatlas.errors import UserError
from convatlas.models.base import Architecture
from convatlas.models.classification.classifier import Classifier
from convatlas.record.directory import RunDirectory
from convatlas.record.quantities import named_text
from convatlas.tasks.base import Task
from convatlas.tasks.classification.ensembles import Ensemble, MultiView
from convatlas.tasks.evaluation import evaluate_split, evaluation_file
from convatlas.tasks.segmentation.protocols import DenseViews
from convatlas.tasks.segmentation.task import SegmentationTask
from convatlas.training.agreement import agree
from convatlas.training.callbacks.progress import progress
from convatlas.training.checkpoint_io import KEY
from convatlas.training.plan import weights_digest
from convatlas.training.restore import (
    check_preprocessing,
    checkpoint_paths,
    load_net,
    load_task,
    open_checkpoint,
    restored_config,
    weights_taken,
)
from convatlas.training.trainer import build_trainer, quiet_libraries
from convatlas.utils.console import print_fields, print_result, warn
from convatlas.utils.distributed import is_rank_zero

TYPES = {
    "seed": NonNegativeInt,
    "run": str | list[str] | None,
    "checkpoint": str | list[str] | None,
    "output": str | None,
    "protocol.name": str,
    "protocol.fully_convolutional": bool,
}
"""Types of the keys of an evaluation."""


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate a run's best checkpoint, a checkpoint file, an ensemble of either, or a network with weights.

    Args:
        config: Composed from ``conf/evaluate.yaml`` around the checkpoint by ``restored_config``.

    Returns:
        ``split``, ``protocol``, ``num_samples``, ``metrics``, ``checkpoint`` (a list for an ensemble), ``weights``
        (the weights that were used) and ``evaluation``, the file with the details.

    Raises:
        UserError: Nothing to evaluate, an unreadable checkpoint, classes or preprocessing that differ from a
            checkpoint's, images too small for the protocol.
    """
    quiet_libraries()
    paths = checkpoint_paths(config.run, config.checkpoint)
    if not paths and config.model.weights is None:
        raise UserError("nothing to evaluate: give run=DIR, checkpoint=FILE, or model=M model.weights=FILE")
    data: ImageDataModule = instantiate(config.data)
    fill_num_classes(config, len(data.class_list.names))
    task: Task = instantiate(config.model)
    task.check_data(data)
    if is_rank_zero():
        for message in data.check_labels([data.split]):
            warn(message)
    output = Path("evaluation" if config.output is None else config.output)
    checkpoints = [open_checkpoint(path) for path in paths]
    if paths:
        for path, checkpoint in zip(paths, checkpoints, strict=True):
            trained_on = ClassList(tuple(checkpoint[KEY]["class_list"]))
            trained_on.check_equal(data.class_list, f"checkpoint={path}", f"data={data.name}")
            check_preprocessing(path, checkpoint, paths[0], checkpoints[0])
        load_task(task, checkpoints[0], paths[0])
        if config.output is None and len(paths) == 1 and _is_the_runs_own(config, checkpoints[0][KEY], paths[0]):
            output = RunDirectory(paths[0].parents[1]).evaluation
    protocol = _show_as(task, data, config, [load_net(checkpoint) for checkpoint in checkpoints[1:]])
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output}: cannot be written ({error.strerror})") from error
    weights = weights_digest(task.net)
    agree(config, {"data": data.fingerprint, "class list": data.class_list.hash, "weights": weights})
    trainer = build_trainer(config.trainer, logger=False, callbacks=[progress()], enable_checkpointing=False)
    sources = [str(path) for path in paths] or [config.model.weights]
    source = sources[0] if len(sources) == 1 else sources
    metrics = evaluate_split(trainer, task, data, source, output, protocol)
    return {
        "split": data.split,
        "protocol": protocol["name"],
        "num_samples": task.predictions.num_samples if task.predictions else 0,
        "metrics": metrics,
        "checkpoint": source,
        "weights": ", ".join(map(str, task.loaded or dict.fromkeys(map(weights_taken, checkpoints)))),
        "evaluation": str(evaluation_file(output, data.split, protocol["name"])),
    }


def _show_as(task: Task, data: ImageDataModule, config: DictConfig, others: Sequence[Architecture]) -> dict[str, Any]:
    """Apply the test protocol and the other members of an ensemble; return the protocol for the record."""
    protocol: dict[str, Any] = plain(config)["protocol"]
    views = instantiate(config.protocol.views)
    if views is None:
        protocol["name"] = task.default_protocol
    if views is not None and task.task_type != ("segmentation" if isinstance(views, DenseViews) else "classification"):
        raise UserError(f"protocol={protocol['name']}: it is not for {task.task_type}")
    if others and task.task_type != "classification":
        raise UserError("run and checkpoint: an ensemble is of classification networks; expected one")
    if isinstance(task, SegmentationTask):
        task.views = views or task.views
    elif isinstance(data, ClassificationDataModule):
        data.views = views
        members: list[nn.Module] = [task.net, *others]
        if views is not None:
            fully_convolutional = config.protocol.fully_convolutional
            members = [MultiView(cast(Classifier, net), fully_convolutional=fully_convolutional) for net in members]
        task.net = members[0] if len(members) == 1 else Ensemble(members)
    return protocol


def _is_the_runs_own(config: DictConfig, metadata: dict[str, Any], checkpoint: Path) -> bool:
    """Whether a run is evaluated on all of its own images: only then the result belongs to its record."""
    found, own = (_images(data) for data in (plain(config)["data"], metadata["config"]["data"]))
    run = RunDirectory(checkpoint.parent.parent)
    in_run = run.checkpoints == checkpoint.parent and run.run_id == metadata["run_id"]
    limit = config.trainer.limit_test_batches
    return in_run and found == own and isinstance(limit, float) and limit == 1.0  # 1 would be one batch


def _images(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of data that select the images of an evaluation and their preprocessing."""
    without_effect = ("threads", "prefetch", "split", "seed", "augment")
    dataset = {key: value for key, value in data["dataset"].items() if key not in ("download", "scan_cache")}
    images = {key: value for key, value in data.items() if key not in without_effect}
    found: dict[str, Any] = reduced(images | {"dataset": dataset})
    return found


def show(result: Mapping[str, Any]) -> None:
    """Print an evaluation."""
    headline = f"{result['num_samples']:,} images of the {result['split']} split, {result['protocol']}"
    print_result(headline, [named_text(name, value) for name, value in result["metrics"].items()])
    sources = result["checkpoint"]
    network = {"checkpoint": sources} if isinstance(sources, str) else {"ensemble": ", ".join(sources)}
    print_fields({**network, "weights": result["weights"], "details": result["evaluation"]})


if __name__ == "__main__":
    execute(evaluate, show, TYPES, restored_config, several_ranks=True)
