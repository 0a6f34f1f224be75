import pickle
from pathlib import Path

import pytest
import torch

from convatlas.errors import UserError
from convatlas.run.checkpoints import AtomicCheckpointIO, read_checkpoint, read_run_checkpoint


def test_a_checkpoint_round_trips_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(2)}, "epoch": 1}, path)
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.ones(2))
    assert [item.name for item in path.parent.iterdir()] == ["last.ckpt"]


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        AtomicCheckpointIO().save_checkpoint({"epoch": lambda: 1}, path)
    assert read_checkpoint(path) == {"epoch": 1}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint=.*x\.ckpt: truncated or not a file of tensors"):
        read_checkpoint(path)


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"w": torch.ones(10_000)}, path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match="truncated"):
        read_checkpoint(path)


def test_code_in_a_checkpoint_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "evil.ckpt")
    with pytest.raises(UserError):
        read_checkpoint(Path("evil.ckpt"))
    assert not Path("executed").exists()


def test_foreign_weights_are_told_from_our_checkpoints(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"model\.weights="):
        read_run_checkpoint(tmp_path / "w.pth")


def test_a_checkpoint_constructs_nothing_but_our_own(tmp_path: Path) -> None:
    net = {"_target_": "pathlib.Path.touch", "self": str(tmp_path / "executed")}
    content = {"convatlas": {"config": {"model": {"net": net}, "data": {}}, "class_list": []}, "state_dict": {}}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"it would construct pathlib\.Path\.touch"):
        read_run_checkpoint(tmp_path / "x.ckpt")
