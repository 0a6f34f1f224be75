"""A configuration from a file constructs what the table allows at that place, and nothing else."""

import copy
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

import convatlas
import pipelines
from convatlas.analysis.networks import described_config
from convatlas.config.composition import compose, plain
from convatlas.config.public_names import TABLE, find_object, kind_of, public_name
from convatlas.config.stored import ARGUMENTS, SWEEP, TRAINING, check_paths, check_stored
from convatlas.errors import UserError
from convatlas.sweep.definition import FILE, open_sweep, write_sweep
from convatlas.training.checkpoint_io import KEY
from convatlas.training.restore import open_checkpoint, restored_config
from pipelines.evaluate import evaluate
from pipelines.predict import predict
from pipelines.reproduce import reproduce
from tests.fixtures import copy_run


def training(*overrides: str) -> dict[str, Any]:
    return plain(compose("train", overrides))


CONFIGURATIONS = {
    "classification": training("data.num_classes=10", "augment=trivial_augment"),
    "progressive": training("data.num_classes=10", "augment=progressive_resizing", "optimizer=lamb"),
    "segmentation": training("model=fcn_resnet50", "data=shapes_masks", "data.num_classes=4", "augment=masks_elastic"),
    "detection": training("model=mask_rcnn_resnet18_fpn", "data=shapes_objects", "augment=objects_multiscale"),
}


def nodes(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of everything that a configuration constructs."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield path
        for key, item in value.items():
            yield from nodes(item, (*path, key))


def at(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of a configuration with another value at a place."""
    changed = copy.deepcopy(config)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


PLACES = [(name, path) for name, config in CONFIGURATIONS.items() for path in nodes(config)]


def reachable() -> dict[str, Any]:
    """By dotted name, every callable that a module of ours holds, or that a module which it imports holds."""
    found: dict[str, Any] = {}
    modules = [
        importlib.import_module(info.name)
        for package in (convatlas, pipelines)
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not info.name.endswith("__main__")
    ]
    for module in modules:
        for name, value in vars(module).items():
            if inspect.ismodule(value):
                inside = {f"{module.__name__}.{name}.{inner}": item for inner, item in vars(value).items()}
                found |= {path: item for path, item in inside.items() if callable(item)}
            elif callable(value):
                found[f"{module.__name__}.{name}"] = value
    return found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_our_own_configurations_pass_and_stay_as_they_are(name: str) -> None:
    assert check_stored(CONFIGURATIONS[name], TRAINING, "x") == CONFIGURATIONS[name]


def test_no_callable_that_our_modules_reach_is_constructed_but_those_of_the_table() -> None:
    found = reachable()
    assert {"convatlas.models.weights.torch.load", "pipelines.train.nullcontext"} <= found.keys()
    named = {name for name in found if public_name(name) is not None}
    assert all(found[name] is find_object(str(public_name(name))) for name in named)
    once = {id(found[name]): name for name in found.keys() - named}  # one name for each object
    assert len(once) > 3000
    for number, name in enumerate(sorted(once.values())):
        configuration, path = PLACES[number % len(PLACES)]
        with pytest.raises(UserError, match="would construct"):
            check_stored(at(CONFIGURATIONS[configuration], path, {"_target_": name}), TRAINING, "x")


@pytest.mark.parametrize(("configuration", "path"), PLACES, ids=[f"{name}-{'.'.join(path)}" for name, path in PLACES])
def test_each_key_accepts_only_objects_of_its_kind(configuration: str, path: tuple[str, ...]) -> None:
    config = CONFIGURATIONS[configuration]
    node: Any = config
    for key in path:
        node = node[key]
    place = path[0] if len(path) == 1 else None
    for entries in TABLE.values():
        for name in entries:
            if kind_of(name) == kind_of(node["_target_"]) or (place and kind_of(name) in TRAINING.get(place, ())):
                continue
            with pytest.raises(UserError, match="would construct"):
                check_stored(at(config, path, {**node, "_target_": name}), TRAINING, "x")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "net"), None, r"model\.net=None: expected _target_"),
        (("model", "net"), {"depth": 20}, r"model\.net: expected _target_"),
        (("model", "net", "_args_"), ["x"], "takes no such argument"),
        (("model", "net", "_recursive_"), False, "takes no such argument"),
        (("model", "net", "_partial_"), True, "takes no such argument"),
        (("model", "net", "depth"), "${oc.env:HOME}", "no interpolations"),
        (("model", "net", "depth"), {"_target_": "os.system", "command": "true"}, "would construct os.system"),
        (("model", "net", "depth"), [[{"_target_": "os.system"}]], "would construct os.system"),
        (("model", "net", "depth"), "twenty", r"model\.net\.depth=twenty: expected"),
        (("model", "net", "width"), 3, "takes no such argument"),
        (("model", "name"), "a${model.net.depth}", "no interpolations"),
        (("model", "_target_"), ["os", "system"], "would construct"),
        (("data", "mean"), [{"_target_": "os.getcwd"}], "would construct os.getcwd"),
        (("data", "augment", "steps"), [{"_target_": "convatlas.data.HorizontalFlip"}], "would construct"),
        (("data", "augment", "steps", "_target_"), "os.system", "would construct"),
        (("data", "augment", "steps", "${x}"), None, "no key of a configuration"),
        (("tracking.x._target_",), "os.system", "no key of a configuration"),
        (("expected",), [{"value:1,_target_": "os.system"}], "no key of a configuration"),
        (("hydra.searchpath",), ["pkg://os"], "no key of a configuration"),
        ((5,), 1, "no key of a configuration"),
        (("model", "net"), {"_target_": "convatlas.models.CifarResNet"}, "depth is missing"),
        (("model", "name"), "../../x", "expected a name"),
        (("data", "name"), "../../x", "expected a name"),
        (("data", "name"), "/tmp/x", "expected a name"),  # noqa: S108
        (("data", "name"), ".x", "expected a name"),
        (("data", "name"), "x\x1b[31m", "expected a name"),
        (("data", "image_size"), 10**9, "expected an integer from 1 to 16384"),
        (("trainer", "callbacks"), [{"_target_": "os.system"}], "takes no such argument"),
        (("trainer", "default_root_dir"), "/", "takes no such argument"),
        (("optimizer", "algorithm", "params"), [1], "takes no such argument"),
        (("tracking",), {"x": {"_target_": "convatlas.models.ResNet", "depth": 18}}, "would construct"),
        (("other",), {"_target_": "convatlas.models.ResNet", "depth": 18}, "would construct"),
        (("run", "root"), torch.ones(1), "expected a plain value"),
    ],
)
def test_configurations_with_other_than_plain_values_are_refused(
    path: tuple[str, ...], value: Any, message: str
) -> None:
    config = at(CONFIGURATIONS["classification"], path, value)
    with pytest.raises(UserError, match=message) as caught:
        check_stored(config, TRAINING, "checkpoint=x")
    assert str(caught.value).startswith("checkpoint=x: ")
    assert "\n" not in str(caught.value)


def test_kinds_of_arguments_are_kinds_of_the_table() -> None:
    kinds = {*ARGUMENTS, *(kind for places in ARGUMENTS.values() for found in places.values() for kind in found)}
    assert kinds <= TABLE.keys()
    assert {kind for places in (TRAINING, SWEEP) for found in places.values() for kind in found} <= TABLE.keys()


@pytest.mark.parametrize(
    "dataset",
    [
        {"_target_": "convatlas.data.mask_folders", "masks": "../../secrets"},
        {"_target_": "convatlas.data.mask_folders", "images": "/etc"},
        {"_target_": "convatlas.data.coco_objects", "masks": True, "train": "a/../../b"},
    ],
)
def test_a_stored_data_set_stays_in_its_folder(dataset: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"leads out of data\.root"):
        check_paths({"dataset": dataset, "root": "images"}, "checkpoint=x")


def test_a_stored_data_set_is_not_downloaded_and_keeps_no_list_elsewhere() -> None:
    dataset = {"_target_": "convatlas.data.imagenette", "download": True, "scan_cache": "/somewhere"}
    assert check_paths({"dataset": dataset}, "x")["dataset"] == dataset | {"download": False, "scan_cache": "user"}


@pytest.fixture
def hostile(trained: dict[str, Any], tmp_path: Path) -> Callable[[tuple[str, ...]], Path]:
    """Make a copy of a finished run whose checkpoint and configuration would create a file when they are used."""

    def make(path: tuple[str, ...]) -> Path:
        run = copy_run(Path(trained["run"]), tmp_path / "runs")
        payload = {"_target_": "convatlas.jobs.rerun.subprocess.getoutput", "cmd": f"touch {tmp_path / 'executed'}"}
        file = run / "checkpoints" / "best.ckpt"
        checkpoint = torch.load(file, weights_only=True)
        checkpoint[KEY]["config"] = at(checkpoint[KEY]["config"], path, payload)
        torch.save(checkpoint, file)
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        (run / "config.yaml").write_text(yaml.safe_dump(at(config, path, payload)), encoding="utf-8")
        return run

    return make


@pytest.mark.parametrize(
    "path", [("model",), ("model", "net"), ("data",), ("data", "dataset"), ("data", "augment", "crop")]
)
def test_every_verb_that_builds_from_a_file_refuses_a_hostile_one(
    path: tuple[str, ...], hostile: Callable[[tuple[str, ...]], Path], tmp_path: Path
) -> None:
    run = hostile(path)
    images = tmp_path / "x.png"
    images.touch()
    verbs: list[Callable[[], Any]] = [
        lambda: restored_config("evaluate", [f"run={run}"]),
        lambda: predict(compose("predict", [f"checkpoint={run}", f"images={images}"])),
        lambda: described_config("describe", [f"run={run}"]),
        lambda: reproduce(OmegaConf.create({"run": str(run), "code": "current", "tolerance": 0.1, "train": []})),
    ]
    for verb in verbs:
        with pytest.raises(UserError, match=r"would construct convatlas\.jobs\.rerun\.subprocess\.getoutput"):
            verb()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("class_list", ["a"], "10 classes, its class_list 1"),
        ("class_list", ["a"] * 10, "incomplete"),
        ("depth", 20 + 6 * 10**8, "does not fit into a file"),
        ("net", {"missing": True}, "missing: conv1.weight"),
        ("net", torch.ones(1), "misshapen: conv1.weight"),
        ("net", torch.full((16, 1, 3, 3), torch.nan), "not finite"),
        ("net", torch.ones(16, 1, 3, 3, dtype=torch.int64), "of another type: conv1.weight"),
        ("net", torch.ones(16, 1, 3, 3).to_sparse(), "of another type: conv1.weight"),
        ("net", torch.ones(16, 1, 3, 3, device="meta"), "of another type: conv1.weight"),
        ("data", "convatlas.data.SegmentationDataModule", "takes no such argument|is missing"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_one_line(
    key: str, value: Any, message: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = torch.load(Path(trained["run"]) / "checkpoints" / "best.ckpt", weights_only=True)
    config = checkpoint[KEY]["config"]
    if key == "class_list":
        checkpoint[KEY][key] = value
    elif key == "depth":
        config["model"]["net"]["depth"] = value
    elif key == "data":
        config["data"]["_target_"] = value
    elif isinstance(value, torch.Tensor):
        checkpoint["state_dict"]["net.conv1.weight"] = value
    else:
        del checkpoint["state_dict"]["net.conv1.weight"]
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message) as caught:
        open_checkpoint(tmp_path / "x.ckpt")
    assert "\n" not in str(caught.value)


def test_model_and_data_of_different_problems_are_refused(trained: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = torch.load(Path(trained["run"]) / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint[KEY]["config"]["data"] = CONFIGURATIONS["segmentation"]["data"]
    torch.save(checkpoint, tmp_path / "x.ckpt")
    message = r"x\.ckpt: its model is for classification and its data are for segmentation; expected the same$"
    with pytest.raises(UserError, match=message):
        open_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("root", [".", "no_such_folder"])
def test_a_stored_folder_of_data_without_one_is_named(root: str, trained: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = torch.load(Path(trained["run"]) / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint[KEY]["config"]["data"]["root"] = root
    torch.save(checkpoint, tmp_path / "x.ckpt")
    config = restored_config("evaluate", [f"checkpoint={tmp_path / 'x.ckpt'}", f"output={tmp_path / 'evaluation'}"])
    with pytest.raises(InstantiationException) as caught:
        evaluate(config)
    assert isinstance(caught.value.__cause__, UserError)  # which the command line prints
    assert str(caught.value.__cause__) == (
        f"data.root={root}, data.dataset: fashion_mnist_sample cannot be opened with these "
        "(got an unexpected keyword argument 'root')"
    )
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "devices",
            10**6,
            r"trainer\.devices=1000000 trainer\.num_nodes=1: expected at most \d+ ranks, 16 for each core",
        ),
        ("num_nodes", 10**6, r"trainer\.devices=1 trainer\.num_nodes=1000000: expected at most"),
        ("devices", -1, r"trainer\.devices=-1: expected a positive integer"),
        ("devices", "x", r"trainer\.devices=x: expected a positive integer"),
        ("devices", True, r"trainer\.devices=True: expected a positive integer"),
        ("num_nodes", 1.0, r"trainer\.num_nodes=1\.0: expected a positive integer"),
    ],
)
def test_a_recorded_number_of_ranks_is_one_that_this_machine_can_start(
    key: str, value: Any, message: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    run = copy_run(Path(trained["run"]), tmp_path / "runs")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["trainer"] |= {"devices": 1, "num_nodes": 1, key: value}
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        reproduce(OmegaConf.create({"run": str(run), "code": "current", "tolerance": 0.1, "train": []}))


@pytest.mark.parametrize(
    "line",
    [
        "model._target_=os.system",
        "+augment.steps.x={_target_: 'os.system', command: 'true'}",
        "++data.mean=[{_target_: os.system}]",
        "+tracking.x._target_=${oc.env:HOME}",
    ],
)
def test_overrides_of_a_hostile_sweep_are_refused_before_they_are_composed(line: str, tmp_path: Path) -> None:
    config = plain(compose("sweep", ["sweep=learning_rate"]))
    settings = {key: config[key] for key in ("space", "sampler", "pruner", "objective")}
    write_sweep(tmp_path, settings | {"train": ["seed=1", "~tracking", line]}, None)
    with pytest.raises(UserError, match=r"sweep\.yaml: train: .* would construct"):
        open_sweep(tmp_path)


@pytest.mark.parametrize("path", [("sampler",), ("pruner",), ("space", "learning_rate"), ("sampler", "seed")])
def test_a_hostile_sweep_is_refused(path: tuple[str, ...], tmp_path: Path) -> None:
    config = plain(compose("sweep", ["sweep=learning_rate"]))
    settings = {key: config[key] for key in ("space", "sampler", "pruner", "objective")} | {"train": []}
    write_sweep(tmp_path, settings, None)
    assert open_sweep(tmp_path).space.parameters.keys() == {"learning_rate", "weight_decay"}
    written = yaml.safe_load((tmp_path / FILE).read_text(encoding="utf-8"))
    payload = {"_target_": "convatlas.sweep.local.subprocess.getoutput", "cmd": f"touch {tmp_path / 'executed'}"}
    (tmp_path / FILE).write_text(yaml.safe_dump(at(written, path, payload)), encoding="utf-8")
    with pytest.raises(UserError, match="would construct"):
        open_sweep(tmp_path)
    assert not (tmp_path / "executed").exists()
