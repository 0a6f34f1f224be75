"""The public names and locations of all objects that a configuration may construct.

``TABLE`` is written by hand. A name that comes from a file, such as the ``_target_`` of a checkpoint's configuration,
is looked up here and is never imported by name. To move a class, change its location here and add the old location to
``former_names.py``.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from convatlas.config.former_names import FORMER

TABLE: Mapping[str, Mapping[str, str]] = {
    "classifier": {
        "convatlas.models.AlexNet": "convatlas.models.classification.alexnet.AlexNet",
        "convatlas.models.AlexNetTorchvision": "convatlas.models.classification.alexnet.AlexNetTorchvision",
        "convatlas.models.CudaConvNet": "convatlas.models.classification.cuda_convnet.CudaConvNet",
        "convatlas.models.CifarResNet": "convatlas.models.classification.resnet.CifarResNet",
        "convatlas.models.GoogLeNet": "convatlas.models.classification.googlenet.GoogLeNet",
        "convatlas.models.GoogLeNetTorchvision": "convatlas.models.classification.googlenet.GoogLeNetTorchvision",
        "convatlas.models.ResNet": "convatlas.models.classification.resnet.ResNet",
        "convatlas.models.VGG": "convatlas.models.classification.vgg.VGG",
    },
    "segmenter": {
        "convatlas.models.DeepLabV2": "convatlas.models.segmentation.deeplab.DeepLabV2",
        "convatlas.models.DeepLabV3": "convatlas.models.segmentation.deeplab.DeepLabV3",
        "convatlas.models.DeepLabV3Plus": "convatlas.models.segmentation.deeplab.DeepLabV3Plus",
        "convatlas.models.DeepLabVGG": "convatlas.models.segmentation.deeplab.DeepLabVGG",
        "convatlas.models.FCN": "convatlas.models.segmentation.fcn.FCN",
        "convatlas.models.FCNVGG": "convatlas.models.segmentation.fcn.FCNVGG",
        "convatlas.models.UNet": "convatlas.models.segmentation.unet.UNet",
    },
    "detector": {
        "convatlas.models.FasterRCNNC4": "convatlas.models.detection.faster_rcnn.FasterRCNNC4",
        "convatlas.models.FasterRCNNFPN": "convatlas.models.detection.faster_rcnn.FasterRCNNFPN",
        "convatlas.models.FasterRCNNVGG": "convatlas.models.detection.faster_rcnn.FasterRCNNVGG",
        "convatlas.models.MaskRCNNC4": "convatlas.models.detection.mask_rcnn.MaskRCNNC4",
        "convatlas.models.MaskRCNNFPN": "convatlas.models.detection.mask_rcnn.MaskRCNNFPN",
    },
    "proposals": {"convatlas.models.Proposals": "convatlas.models.detection.detector.Proposals"},
    "regions": {"convatlas.models.Regions": "convatlas.models.detection.detector.Regions"},
    "classification_task": {
        "convatlas.tasks.ClassificationTask": "convatlas.tasks.classification.task.ClassificationTask",
    },
    "segmentation_task": {"convatlas.tasks.SegmentationTask": "convatlas.tasks.segmentation.task.SegmentationTask"},
    "detection_task": {"convatlas.tasks.DetectionTask": "convatlas.tasks.detection.task.DetectionTask"},
    "optimizer": {"convatlas.tasks.OptimizerConfig": "convatlas.tasks.optimization.OptimizerConfig"},
    "algorithm": {
        "timm.optim.Lamb": "timm.optim.Lamb",
        "torch.optim.ASGD": "torch.optim.ASGD",
        "torch.optim.Adadelta": "torch.optim.Adadelta",
        "torch.optim.Adafactor": "torch.optim.Adafactor",
        "torch.optim.Adagrad": "torch.optim.Adagrad",
        "torch.optim.Adam": "torch.optim.Adam",
        "torch.optim.AdamW": "torch.optim.AdamW",
        "torch.optim.Adamax": "torch.optim.Adamax",
        "torch.optim.NAdam": "torch.optim.NAdam",
        "torch.optim.RAdam": "torch.optim.RAdam",
        "torch.optim.RMSprop": "torch.optim.RMSprop",
        "torch.optim.Rprop": "torch.optim.Rprop",
        "torch.optim.SGD": "torch.optim.SGD",
    },
    "schedule": {
        "convatlas.tasks.constant": "convatlas.tasks.optimization.constant",
        "convatlas.tasks.cosine": "convatlas.tasks.optimization.cosine",
        "convatlas.tasks.exponential": "convatlas.tasks.optimization.exponential",
        "convatlas.tasks.one_cycle": "convatlas.tasks.optimization.one_cycle",
        "convatlas.tasks.plateau": "convatlas.tasks.optimization.plateau",
        "convatlas.tasks.poly": "convatlas.tasks.optimization.poly",
        "convatlas.tasks.step": "convatlas.tasks.optimization.step",
    },
    "classification_data": {
        "convatlas.data.ClassificationDataModule": "convatlas.data.classification.module.ClassificationDataModule",
    },
    "segmentation_data": {
        "convatlas.data.SegmentationDataModule": "convatlas.data.segmentation.module.SegmentationDataModule",
    },
    "detection_data": {"convatlas.data.DetectionDataModule": "convatlas.data.detection.module.DetectionDataModule"},
    "classification_dataset": {
        "convatlas.data.fashion_mnist_sample": "convatlas.data.classification.datasets.fashion_mnist_sample",
        "convatlas.data.image_folder": "convatlas.data.classification.datasets.image_folder",
        "convatlas.data.imagenette": "convatlas.data.classification.datasets.imagenette",
        "convatlas.data.torchvision_arrays": "convatlas.data.classification.datasets.torchvision_arrays",
    },
    "segmentation_dataset": {
        "convatlas.data.mask_folders": "convatlas.data.segmentation.datasets.mask_folders",
        "convatlas.data.shapes_masks": "convatlas.data.segmentation.datasets.shapes",
        "convatlas.data.voc_masks": "convatlas.data.segmentation.datasets.voc",
        "convatlas.data.voc_masks_folder": "convatlas.data.segmentation.datasets.voc_folder",
    },
    "detection_dataset": {
        "convatlas.data.coco_objects": "convatlas.data.detection.datasets.coco",
        "convatlas.data.shapes_objects": "convatlas.data.detection.datasets.shapes",
        "convatlas.data.voc_objects": "convatlas.data.detection.datasets.voc",
    },
    "image_augmentation": {"convatlas.data.Augmentation": "convatlas.data.transforms.image.Augmentation"},
    "mask_augmentation": {
        "convatlas.data.JointAugmentation": "convatlas.data.segmentation.transforms.JointAugmentation"
    },
    "object_augmentation": {
        "convatlas.data.ObjectAugmentation": "convatlas.data.detection.transforms.ObjectAugmentation"
    },
    "image_crop": {
        "convatlas.data.CenterCrop": "convatlas.data.transforms.image.CenterCrop",
        "convatlas.data.PadCrop": "convatlas.data.transforms.image.PadCrop",
        "convatlas.data.RandomResizedCrop": "convatlas.data.transforms.image.RandomResizedCrop",
        "convatlas.data.ScaleJitterCrop": "convatlas.data.transforms.image.ScaleJitterCrop",
    },
    "image_step": {
        "convatlas.data.ColorJitter": "convatlas.data.transforms.color.ColorJitter",
        "convatlas.data.HorizontalFlip": "convatlas.data.transforms.image.HorizontalFlip",
        "convatlas.data.RandAugment": "convatlas.data.transforms.auto_augment.RandAugment",
        "convatlas.data.TrivialAugmentWide": "convatlas.data.transforms.auto_augment.TrivialAugmentWide",
    },
    "batch_step": {
        "convatlas.data.Lighting": "convatlas.data.transforms.on_device.Lighting",
        "convatlas.data.RandomErasing": "convatlas.data.transforms.on_device.RandomErasing",
    },
    "mix": {"convatlas.data.Mix": "convatlas.data.transforms.on_device.Mix"},
    "progressive_size": {"convatlas.data.ProgressiveSize": "convatlas.data.transforms.progressive.ProgressiveSize"},
    "mask_crop": {"convatlas.data.ScaleCrop": "convatlas.data.segmentation.transforms.ScaleCrop"},
    "mask_step": {
        "convatlas.data.ElasticDeformation": "convatlas.data.segmentation.transforms.ElasticDeformation",
        "convatlas.data.MaskFlip": "convatlas.data.segmentation.transforms.Flip",
    },
    "pixel_weights": {"convatlas.data.BorderWeights": "convatlas.data.segmentation.border_weights.BorderWeights"},
    "object_resize": {
        "convatlas.data.ObjectScaleJitter": "convatlas.data.detection.transforms.ScaleJitter",
        "convatlas.data.ResizeShortSide": "convatlas.data.detection.transforms.ResizeShortSide",
    },
    "object_step": {"convatlas.data.ObjectFlip": "convatlas.data.detection.transforms.ObjectFlip"},
    "views": {
        "convatlas.tasks.DenseCrops": "convatlas.tasks.classification.protocols.Dense",
        "convatlas.tasks.SquareCrops": "convatlas.tasks.classification.protocols.SquareCrops",
        "convatlas.tasks.TenCrop": "convatlas.tasks.classification.protocols.TenCrop",
        "convatlas.tasks.DenseViews": "convatlas.tasks.segmentation.protocols.DenseViews",
    },
    "trainer": {"pytorch_lightning.Trainer": "pytorch_lightning.Trainer"},
    "strategy": {"convatlas.training.ddp": "convatlas.training.trainer.ddp"},
    "tracker": {
        "convatlas.tracking.WandbMirror": "convatlas.tracking.mirrors.WandbMirror",
        "convatlas.tracking.tensorboard_mirror": "convatlas.tracking.mirrors.tensorboard_mirror",
    },
    "dashboard": {"convatlas.report.Dashboard": "convatlas.report.figures.panels.Dashboard"},
    "panel": {"convatlas.report.Panel": "convatlas.report.figures.panels.Panel"},
    "cluster": {"convatlas.jobs.Cluster": "convatlas.jobs.slurm.Cluster"},
    "resources": {"convatlas.jobs.Resources": "convatlas.jobs.slurm.Resources"},
    "parameter": {
        "convatlas.sweep.Choice": "convatlas.sweep.space.Choice",
        "convatlas.sweep.Float": "convatlas.sweep.space.Float",
        "convatlas.sweep.Int": "convatlas.sweep.space.Int",
    },
    "sampler": {
        # Not CmaEsSampler: it unpickles what it finds in the journal.
        "convatlas.sweep.Grid": "convatlas.sweep.space.Grid",
        "optuna.samplers.BruteForceSampler": "optuna.samplers.BruteForceSampler",
        "optuna.samplers.GPSampler": "optuna.samplers.GPSampler",
        "optuna.samplers.NSGAIIISampler": "optuna.samplers.NSGAIIISampler",
        "optuna.samplers.NSGAIISampler": "optuna.samplers.NSGAIISampler",
        "optuna.samplers.QMCSampler": "optuna.samplers.QMCSampler",
        "optuna.samplers.RandomSampler": "optuna.samplers.RandomSampler",
        "optuna.samplers.TPESampler": "optuna.samplers.TPESampler",
    },
    "pruner": {
        "optuna.pruners.HyperbandPruner": "optuna.pruners.HyperbandPruner",
        "optuna.pruners.MedianPruner": "optuna.pruners.MedianPruner",
        "optuna.pruners.NopPruner": "optuna.pruners.NopPruner",
        "optuna.pruners.PatientPruner": "optuna.pruners.PatientPruner",
        "optuna.pruners.PercentilePruner": "optuna.pruners.PercentilePruner",
        "optuna.pruners.SuccessiveHalvingPruner": "optuna.pruners.SuccessiveHalvingPruner",
        "optuna.pruners.ThresholdPruner": "optuna.pruners.ThresholdPruner",
        "optuna.pruners.WilcoxonPruner": "optuna.pruners.WilcoxonPruner",
    },
}
"""Locations of the objects, by kind and public name."""

_KINDS = {name: kind for kind, entries in TABLE.items() for name in entries}
_LOCATIONS = {name: location for entries in TABLE.values() for name, location in entries.items()}
_PUBLIC = {**FORMER, **{location: name for name, location in _LOCATIONS.items()}, **{name: name for name in _KINDS}}


def public_name(name: str) -> str | None:
    """The public name that a public name, a location or a former location stands for; None for any other string."""
    return _PUBLIC.get(name)


def kind_of(public: str) -> str:
    """The kind of a public name, such as ``classifier``."""
    return _KINDS[public]


def find_object(public: str) -> Callable[..., Any]:
    """The class or function of a public name."""
    module, _, attribute = _LOCATIONS[public].rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def public_attributes(package: str) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package, which imports public names of the package on first access.

    Args:
        package: The package, such as ``convatlas.models``.
    """

    def attribute(name: str) -> Any:
        public = f"{package}.{name}"
        if public not in _LOCATIONS:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return find_object(public)

    return attribute
