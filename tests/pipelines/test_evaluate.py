from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from convatlas.data.classification.module import ClassificationDataModule
from convatlas.errors import UserError
from convatlas.training.checkpoint_io import KEY, AtomicCheckpointIO, read_checkpoint
from convatlas.training.restore import load_net, restored_config
from pipelines.evaluate import evaluate
from tests.conftest import FolderRun, read_json
from tests.fixtures import write_image_folder


def run(*overrides: str) -> dict[str, Any]:
    return evaluate(restored_config("evaluate", overrides))


def test_only_an_evaluation_of_the_runs_own_images_enters_its_record(
    folder_run: FolderRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = run(f"run={folder_run.run}")
    assert own["evaluation"] == f"{folder_run.run}/evaluation/test.json"
    before = (folder_run.run / "evaluation" / "test.json").read_text(encoding="utf-8")
    other = write_image_folder(tmp_path / "other", folder_run.classes, per_class=2, size=32)
    for overrides in ([f"data.root={other}"], ["trainer.limit_test_batches=1"], ["data.image_size=40"]):
        assert run(f"run={folder_run.run}", *overrides)["evaluation"] == "evaluation/test.json"
    assert (folder_run.run / "evaluation" / "test.json").read_text(encoding="utf-8") == before


def test_what_is_counted_is_what_was_evaluated(trained: dict[str, Any], tmp_path: Path) -> None:
    result = run(f"run={trained['run']}", f"output={tmp_path}", "trainer.limit_test_batches=2")
    assert result["num_samples"] == 2 * 16


def test_an_output_that_cannot_be_written_is_named_before_the_work(trained: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="output=/dev/null/x: cannot be written"):
        run(f"run={trained['run']}", "output=/dev/null/x")


def test_a_run_evaluates_as_it_did_at_its_end(trained: dict[str, Any], tmp_path: Path) -> None:
    result = run(f"run={trained['run']}", f"output={tmp_path}", "trainer.limit_test_batches=3")
    assert result["metrics"] == pytest.approx(trained["test"])
    assert read_json(tmp_path / "test.json")["metrics"] == result["metrics"]


def test_every_sample_counts_once(trained: dict[str, Any], tmp_path: Path) -> None:
    result = run(f"checkpoint={trained['run']}/checkpoints/last.ckpt", f"output={tmp_path}", "data.split=val")
    assert result["split"] == "val"
    details = read_json(tmp_path / "val.json")
    data: ClassificationDataModule = instantiate(restored_config("evaluate", [f"run={trained['run']}"]).data)
    assert details["num_samples"] == data.num_samples("val")
    # The same figure by hand, without Lightning or torchmetrics.
    net = load_net(read_checkpoint(Path(trained["run"]) / "checkpoints" / "last.ckpt"))
    correct = 0
    for batch in data.val_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        with torch.inference_mode():
            correct += int((net(batch.images).argmax(dim=1) == batch.labels).sum())
    assert result["metrics"]["val/top1"] == pytest.approx(correct / data.num_samples("val"))


def test_other_images_are_prepared_as_the_checkpoints_own(folder_run: FolderRun, tmp_path: Path) -> None:
    other = write_image_folder(tmp_path / "other", folder_run.classes, per_class=4, size=50)
    config = restored_config("evaluate", [f"run={folder_run.run}", "data=imagefolder", f"data.root={other}"])
    assert (config.data.image_size, config.data.resize) == (32, None)
    assert run(f"run={folder_run.run}", f"data.root={other}", f"output={tmp_path}/out")["num_samples"] == 12
    given = restored_config("evaluate", [f"run={folder_run.run}", f"data.root={other}", "data.image_size=48"])
    assert given.data.image_size == 48


def test_the_background_travels_with_the_network(folder_run: FolderRun, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(folder_run.run / "checkpoints" / "best.ckpt")
    stored = checkpoint[KEY]["config"]["data"]
    del stored["background"]  # as in checkpoints of before
    AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / "old.ckpt")
    old = f"checkpoint={tmp_path / 'old.ckpt'}"
    assert restored_config("evaluate", [old]).data.get("background") is None
    assert restored_config("evaluate", [old, "data=imagefolder", "data.root=x"]).data.background is None
    assert restored_config("evaluate", [old, "data.background=[9,9,9]"]).data.background == [9, 9, 9]
    stored["background"] = [255, 255, 255]
    AtomicCheckpointIO().save_checkpoint(checkpoint, tmp_path / "white.ckpt")
    white = f"checkpoint={tmp_path / 'white.ckpt'}"
    assert restored_config("evaluate", [white]).data.background == [255, 255, 255]
    assert restored_config("evaluate", [white, "data=imagefolder", "data.root=x"]).data.background == [255, 255, 255]
    assert restored_config("evaluate", [white, "data.background=null"]).data.background is None


def test_means_for_pixels_up_to_255_are_refused(folder_run: FolderRun, tmp_path: Path) -> None:
    overrides = [f"run={folder_run.run}", f"output={tmp_path}", "data.mean=[124,116,104]"]
    with pytest.raises(InstantiationException, match=r"data\.mean=\[124, 116, 104\].*divide by 255: \[0\.4863"):
        run(*overrides)


def test_other_classes_are_refused_with_both_lists(folder_run: FolderRun, tmp_path: Path) -> None:
    swapped = write_image_folder(tmp_path / "other", folder_run.classes, per_class=4, size=32)
    (swapped / "classes.txt").write_text(
        "".join(f"{name}\n" for name in reversed(folder_run.classes)), encoding="utf-8"
    )
    with pytest.raises(UserError) as caught:
        run(f"run={folder_run.run}", f"data.root={swapped}", f"output={tmp_path}/out")
    assert str(folder_run.run) in str(caught.value)
    assert "data=imagefolder" in str(caught.value)
    fewer = write_image_folder(tmp_path / "fewer", folder_run.classes[:2], per_class=4, size=32)
    with pytest.raises(UserError, match="class"):
        run(f"run={folder_run.run}", f"data.root={fewer}", "data.num_classes=2", f"output={tmp_path}/out")


def test_weights_of_a_network_are_evaluated(trained: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = f"{trained['run']}/checkpoints/best.ckpt"
    result = run("model=resnet20_cifar", f"model.weights={checkpoint}", f"output={tmp_path}")
    assert 0 <= result["metrics"]["test/top1"] <= 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing to evaluate"),
        (["run=/nowhere"], "run=/nowhere: no checkpoints/best.ckpt"),
        (["checkpoint=/nowhere.ckpt"], "checkpoint=/nowhere.ckpt: no such file"),
        (["run=a", "checkpoint=b"], "give one"),
        (["model=vgg11", "model.weights=/nowhere.pth"], "model.weights=/nowhere.pth: no such file"),
    ],
)
def test_what_cannot_be_evaluated_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises((UserError, InstantiationException)) as caught:
        run(*overrides)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    assert message in str(error)


def test_weights_of_another_architecture_are_listed(trained: dict[str, Any]) -> None:
    with pytest.raises(InstantiationException, match=r"does not fit CifarResNet: missing: layer1\.3.* and 50 more"):
        run("model=resnet32_cifar", f"model.weights={trained['run']}/checkpoints/best.ckpt")


def test_a_model_beside_a_checkpoint_is_refused(trained: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="leave model out"):
        run(f"run={trained['run']}", "model=vgg11")


def by_hand(folder_run: FolderRun, checkpoints: list[str], **data: int | None) -> tuple[Tensor, Tensor]:
    """Images of the test split as the network is shown them, their labels, and each network's probabilities."""
    overrides = [f"data.{key}={value}" for key, value in data.items()]
    module: ClassificationDataModule = instantiate(
        restored_config("evaluate", [f"run={folder_run.run}", *overrides]).data
    )
    nets = [load_net(read_checkpoint(folder_run.run / "checkpoints" / f"{name}.ckpt")) for name in checkpoints]
    batches = [module.on_after_batch_transfer(batch, 0) for batch in module.test_dataloader()]
    with torch.inference_mode():
        probabilities = [torch.stack([net(batch.images).softmax(dim=1) for net in nets]) for batch in batches]
    return torch.cat(probabilities, dim=1), torch.cat([batch.labels for batch in batches])


def test_an_ensemble_of_checkpoints(folder_run: FolderRun, tmp_path: Path) -> None:
    # One run has two checkpoints that may be the same; one whose logits have the opposite sign never agrees with it.
    other = read_checkpoint(folder_run.run / "checkpoints" / "best.ckpt")
    state = other["state_dict"]
    for name in ("net.fc.weight", "net.fc.bias"):
        state[name] = -2 * state[name]
    torch.save(other, folder_run.run / "checkpoints" / "other.ckpt")
    probabilities, labels = by_hand(folder_run, ["best", "other"])
    assert not torch.equal(probabilities[0].argmax(dim=1), probabilities[1].argmax(dim=1))
    files = ",".join(str(folder_run.run / "checkpoints" / f"{name}.ckpt") for name in ("best", "other"))
    result = run(f"checkpoint=[{files}]", f"output={tmp_path}")
    mean = probabilities.mean(dim=0)
    assert result["metrics"]["test/top1"] == pytest.approx(float((mean.argmax(dim=1) == labels).float().mean()))
    assert result["metrics"]["test/loss"] == pytest.approx(float(F.nll_loss(mean.log(), labels)), rel=1e-4)
    assert read_json(tmp_path / "test.json")["checkpoint"] == result["checkpoint"] == files.split(",")


def test_an_ensemble_whose_members_see_images_differently_is_refused(folder_run: FolderRun, tmp_path: Path) -> None:
    other = read_checkpoint(folder_run.run / "checkpoints" / "best.ckpt")
    other[KEY]["config"]["data"]["image_size"] = 48
    torch.save(other, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt: trained with data\.image_size=48, .* with 32; the members"):
        run(f"checkpoint=[{folder_run.run},{tmp_path}/other.ckpt]", f"output={tmp_path}")


def test_a_protocol_of_the_papers(folder_run: FolderRun, tmp_path: Path) -> None:
    """The whole image and its mirror image, by a network that ends in a global pool: it takes any size as it is."""
    result = run(f"run={folder_run.run}", "protocol=dense", "protocol.views.sizes=[32]", f"output={tmp_path}")
    assert result["protocol"] == "dense"
    assert result["evaluation"] == f"{tmp_path}/test-dense.json"
    module: ClassificationDataModule = instantiate(restored_config("evaluate", [f"run={folder_run.run}"]).data)
    net = load_net(read_checkpoint(folder_run.run / "checkpoints" / "best.ckpt"))
    losses = []
    for index in range(module.num_samples("test")):
        image = TF.resize(module.load("test", index), [32], antialias=True)
        view = TF.normalize(image.float() / 255, module.mean, module.std)
        with torch.inference_mode():
            mean = net(torch.stack([view, view.flip(-1)])).softmax(dim=1).mean(dim=0)
        losses.append(-mean[module.sources["test"].labels[index]].log())
    assert result["metrics"]["test/loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    assert read_json(tmp_path / "test-dense.json")["protocol"]["views"]["sizes"] == [32]


@pytest.mark.parametrize(
    ("protocol", "overrides"),
    [
        ("ten_crop", ["data.resize=36"]),
        ("dense_resnet", ["protocol.views.sizes=[32,40,48]"]),
        ("crops_144", ["protocol.views.sizes=[36,40,44,48]"]),
    ],
)
def test_every_protocol_counts_every_image_once(
    folder_run: FolderRun, tmp_path: Path, protocol: str, overrides: list[str]
) -> None:
    result = run(f"run={folder_run.run}", f"protocol={protocol}", *overrides, f"output={tmp_path}")
    details = read_json(tmp_path / f"test-{protocol}.json")
    assert details["num_samples"] == sum(row["count"] for row in details["per_class"]) == result["num_samples"] > 0
    assert 0 <= result["metrics"]["test/top1"] <= 1


def test_a_protocol_on_the_runs_own_images_enters_its_record(folder_run: FolderRun) -> None:
    result = run(f"run={folder_run.run}", "protocol=dense", "protocol.views.sizes=[32]")
    assert result["evaluation"] == f"{folder_run.run}/evaluation/test-dense.json"
    Path(result["evaluation"]).unlink()


def test_a_protocol_that_images_are_too_small_for_is_refused(folder_run: FolderRun, tmp_path: Path) -> None:
    with pytest.raises(InstantiationException, match=r"data\.resize=None: ten crops of 32 pixels"):
        run(f"run={folder_run.run}", "protocol=ten_crop", f"output={tmp_path}")
