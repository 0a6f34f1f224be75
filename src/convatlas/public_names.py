"""The public names of everything that a configuration may construct, and where each of them is.

``TABLE`` is written by hand. A name that comes from a file, such as the ``_target_`` of a checkpoint's configuration,
is looked up here and is never imported by name. To move a class, change its location and keep the old one behind it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

TABLE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "classifier": {
        "convatlas.models.AlexNet": ("convatlas.models.alexnet.AlexNet",),
        "convatlas.models.AlexNetTorchvision": ("convatlas.models.alexnet.AlexNetTorchvision",),
        "convatlas.models.CudaConvNet": ("convatlas.models.cuda_convnet.CudaConvNet",),
        "convatlas.models.CifarResNet": ("convatlas.models.resnet.CifarResNet",),
        "convatlas.models.GoogLeNet": ("convatlas.models.googlenet.GoogLeNet",),
        "convatlas.models.GoogLeNetTorchvision": ("convatlas.models.googlenet.GoogLeNetTorchvision",),
        "convatlas.models.ResNet": ("convatlas.models.resnet.ResNet",),
        "convatlas.models.VGG": ("convatlas.models.vgg.VGG",),
    },
    "segmenter": {
        "convatlas.models.DeepLabV2": ("convatlas.models.deeplab.DeepLabV2",),
        "convatlas.models.DeepLabV3": ("convatlas.models.deeplab.DeepLabV3",),
        "convatlas.models.DeepLabV3Plus": ("convatlas.models.deeplab.DeepLabV3Plus",),
        "convatlas.models.DeepLabVGG": ("convatlas.models.deeplab.DeepLabVGG",),
        "convatlas.models.FCN": ("convatlas.models.fcn.FCN",),
        "convatlas.models.FCNVGG": ("convatlas.models.fcn.FCNVGG",),
        "convatlas.models.UNet": ("convatlas.models.unet.UNet",),
    },
    "detector": {
        "convatlas.models.FasterRCNNC4": ("convatlas.models.faster_rcnn.FasterRCNNC4",),
        "convatlas.models.FasterRCNNFPN": ("convatlas.models.faster_rcnn.FasterRCNNFPN",),
        "convatlas.models.FasterRCNNVGG": ("convatlas.models.faster_rcnn.FasterRCNNVGG",),
        "convatlas.models.MaskRCNNC4": ("convatlas.models.mask_rcnn.MaskRCNNC4",),
        "convatlas.models.MaskRCNNFPN": ("convatlas.models.mask_rcnn.MaskRCNNFPN",),
    },
    "proposals": {"convatlas.models.Proposals": ("convatlas.models.detector.Proposals",)},
    "regions": {"convatlas.models.Regions": ("convatlas.models.detector.Regions",)},
    "classification_task": {
        "convatlas.tasks.ClassificationTask": ("convatlas.tasks.classification.ClassificationTask",),
    },
    "segmentation_task": {"convatlas.tasks.SegmentationTask": ("convatlas.tasks.segmentation.SegmentationTask",)},
    "detection_task": {"convatlas.tasks.DetectionTask": ("convatlas.tasks.detection.DetectionTask",)},
    "optimizer": {"convatlas.tasks.OptimizerRecipe": ("convatlas.tasks.optimization.OptimizerRecipe",)},
    "algorithm": {
        "timm.optim.Lamb": ("timm.optim.Lamb",),
        "torch.optim.ASGD": ("torch.optim.ASGD",),
        "torch.optim.Adadelta": ("torch.optim.Adadelta",),
        "torch.optim.Adafactor": ("torch.optim.Adafactor",),
        "torch.optim.Adagrad": ("torch.optim.Adagrad",),
        "torch.optim.Adam": ("torch.optim.Adam",),
        "torch.optim.AdamW": ("torch.optim.AdamW",),
        "torch.optim.Adamax": ("torch.optim.Adamax",),
        "torch.optim.NAdam": ("torch.optim.NAdam",),
        "torch.optim.RAdam": ("torch.optim.RAdam",),
        "torch.optim.RMSprop": ("torch.optim.RMSprop",),
        "torch.optim.Rprop": ("torch.optim.Rprop",),
        "torch.optim.SGD": ("torch.optim.SGD",),
    },
    "schedule": {
        "convatlas.tasks.constant": ("convatlas.tasks.optimization.constant",),
        "convatlas.tasks.cosine": ("convatlas.tasks.optimization.cosine",),
        "convatlas.tasks.exponential": ("convatlas.tasks.optimization.exponential",),
        "convatlas.tasks.one_cycle": ("convatlas.tasks.optimization.one_cycle",),
        "convatlas.tasks.plateau": ("convatlas.tasks.optimization.plateau",),
        "convatlas.tasks.poly": ("convatlas.tasks.optimization.poly",),
        "convatlas.tasks.step": ("convatlas.tasks.optimization.step",),
    },
    "classification_data": {
        "convatlas.data.ClassificationDataModule": ("convatlas.data.datamodule.ClassificationDataModule",),
    },
    "segmentation_data": {
        "convatlas.data.SegmentationDataModule": ("convatlas.data.mask_data.SegmentationDataModule",),
    },
    "detection_data": {"convatlas.data.DetectionDataModule": ("convatlas.data.object_data.DetectionDataModule",)},
    "classification_dataset": {
        "convatlas.data.fashion_mnist_sample": ("convatlas.data.dataset.fashion_mnist_sample",),
        "convatlas.data.image_folder": ("convatlas.data.dataset.image_folder",),
        "convatlas.data.imagenette": ("convatlas.data.dataset.imagenette",),
        "convatlas.data.torchvision_arrays": ("convatlas.data.dataset.torchvision_arrays",),
    },
    "segmentation_dataset": {
        "convatlas.data.mask_folders": ("convatlas.data.mask_datasets.mask_folders",),
        "convatlas.data.shapes_masks": ("convatlas.data.mask_datasets.shapes",),
        "convatlas.data.voc_masks": ("convatlas.data.mask_datasets.voc",),
        "convatlas.data.voc_masks_folder": ("convatlas.data.mask_datasets.voc_folder",),
    },
    "detection_dataset": {
        "convatlas.data.coco_objects": ("convatlas.data.object_datasets.coco",),
        "convatlas.data.shapes_objects": ("convatlas.data.object_datasets.shapes",),
        "convatlas.data.voc_objects": ("convatlas.data.object_datasets.voc",),
    },
    "image_augmentation": {"convatlas.data.Augmentation": ("convatlas.data.augment.Augmentation",)},
    "mask_augmentation": {"convatlas.data.JointAugmentation": ("convatlas.data.joint.JointAugmentation",)},
    "object_augmentation": {"convatlas.data.ObjectAugmentation": ("convatlas.data.object_augment.ObjectAugmentation",)},
    "image_crop": {
        "convatlas.data.CenterCrop": ("convatlas.data.augment.CenterCrop",),
        "convatlas.data.PadCrop": ("convatlas.data.augment.PadCrop",),
        "convatlas.data.RandomResizedCrop": ("convatlas.data.augment.RandomResizedCrop",),
        "convatlas.data.ScaleJitterCrop": ("convatlas.data.augment.ScaleJitterCrop",),
    },
    "image_step": {
        "convatlas.data.ColorJitter": ("convatlas.data.photometric.ColorJitter",),
        "convatlas.data.HorizontalFlip": ("convatlas.data.augment.HorizontalFlip",),
        "convatlas.data.RandAugment": ("convatlas.data.auto_augment.RandAugment",),
        "convatlas.data.TrivialAugmentWide": ("convatlas.data.auto_augment.TrivialAugmentWide",),
    },
    "batch_step": {
        "convatlas.data.Lighting": ("convatlas.data.batch_augment.Lighting",),
        "convatlas.data.RandomErasing": ("convatlas.data.batch_augment.RandomErasing",),
    },
    "mix": {"convatlas.data.Mix": ("convatlas.data.batch_augment.Mix",)},
    "progressive_size": {"convatlas.data.ProgressiveSize": ("convatlas.data.progressive.ProgressiveSize",)},
    "mask_crop": {"convatlas.data.ScaleCrop": ("convatlas.data.joint.ScaleCrop",)},
    "mask_step": {
        "convatlas.data.ElasticDeformation": ("convatlas.data.joint.ElasticDeformation",),
        "convatlas.data.MaskFlip": ("convatlas.data.joint.Flip",),
    },
    "pixel_weights": {"convatlas.data.BorderWeights": ("convatlas.data.border_weights.BorderWeights",)},
    "object_resize": {
        "convatlas.data.ObjectScaleJitter": ("convatlas.data.object_augment.ScaleJitter",),
        "convatlas.data.ResizeShortSide": ("convatlas.data.object_augment.ResizeShortSide",),
    },
    "object_step": {"convatlas.data.ObjectFlip": ("convatlas.data.object_augment.HorizontalFlip",)},
    "views": {
        "convatlas.data.DenseCrops": ("convatlas.data.views.Dense",),
        "convatlas.data.SquareCrops": ("convatlas.data.views.SquareCrops",),
        "convatlas.data.TenCrop": ("convatlas.data.views.TenCrop",),
        "convatlas.models.DenseViews": ("convatlas.models.dense_views.DenseViews",),
    },
    "trainer": {"pytorch_lightning.Trainer": ("pytorch_lightning.Trainer",)},
    "strategy": {"convatlas.run.ddp": ("convatlas.run.environment.ddp",)},
    "tracker": {
        "convatlas.tracking.WandbMirror": ("convatlas.tracking.mirrors.WandbMirror",),
        "convatlas.tracking.tensorboard_mirror": ("convatlas.tracking.mirrors.tensorboard_mirror",),
    },
    "dashboard": {"convatlas.report.Dashboard": ("convatlas.report.panels.Dashboard",)},
    "panel": {"convatlas.report.Panel": ("convatlas.report.panels.Panel",)},
    "cluster": {"convatlas.run.Cluster": ("convatlas.run.slurm.Cluster",)},
    "resources": {"convatlas.run.Resources": ("convatlas.run.slurm.Resources",)},
    "parameter": {
        "convatlas.sweep.Choice": ("convatlas.sweep.space.Choice",),
        "convatlas.sweep.Float": ("convatlas.sweep.space.Float",),
        "convatlas.sweep.Int": ("convatlas.sweep.space.Int",),
    },
    "sampler": {
        # Not CmaEsSampler: it unpickles what it finds in the journal.
        "convatlas.sweep.Grid": ("convatlas.sweep.grid.Grid",),
        "optuna.samplers.BruteForceSampler": ("optuna.samplers.BruteForceSampler",),
        "optuna.samplers.GPSampler": ("optuna.samplers.GPSampler",),
        "optuna.samplers.NSGAIIISampler": ("optuna.samplers.NSGAIIISampler",),
        "optuna.samplers.NSGAIISampler": ("optuna.samplers.NSGAIISampler",),
        "optuna.samplers.QMCSampler": ("optuna.samplers.QMCSampler",),
        "optuna.samplers.RandomSampler": ("optuna.samplers.RandomSampler",),
        "optuna.samplers.TPESampler": ("optuna.samplers.TPESampler",),
    },
    "pruner": {
        "optuna.pruners.HyperbandPruner": ("optuna.pruners.HyperbandPruner",),
        "optuna.pruners.MedianPruner": ("optuna.pruners.MedianPruner",),
        "optuna.pruners.NopPruner": ("optuna.pruners.NopPruner",),
        "optuna.pruners.PatientPruner": ("optuna.pruners.PatientPruner",),
        "optuna.pruners.PercentilePruner": ("optuna.pruners.PercentilePruner",),
        "optuna.pruners.SuccessiveHalvingPruner": ("optuna.pruners.SuccessiveHalvingPruner",),
        "optuna.pruners.ThresholdPruner": ("optuna.pruners.ThresholdPruner",),
        "optuna.pruners.WilcoxonPruner": ("optuna.pruners.WilcoxonPruner",),
    },
}
"""By kind and public name: where the object is now, then where it was before."""

_KINDS = {name: kind for kind, entries in TABLE.items() for name in entries}
_LOCATIONS = {name: paths[0] for entries in TABLE.values() for name, paths in entries.items()}
_PUBLIC = {path: name for entries in TABLE.values() for name, paths in entries.items() for path in (*paths, name)}


def public_name(name: str) -> str | None:
    """The public name that a public name, a location or a former location stands for; None for any other text."""
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
    """Make the ``__getattr__`` of a package, which finds the package's public names when they are asked for.

    Args:
        package: The package, such as ``convatlas.models``.
    """

    def attribute(name: str) -> Any:
        public = f"{package}.{name}"
        if public not in _LOCATIONS:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return find_object(public)

    return attribute
