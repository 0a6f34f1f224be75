"""From a checkpoint back to the network and the data it belongs to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from convatlas.config import compose, overridden_keys
from convatlas.errors import UserError
from convatlas.run.checkpoints import KEY, read_run_checkpoint

PREPROCESSING = ("in_channels", "image_size", "resize", "mean", "std")
"""Keys of ``data`` that travel with a network: other data are shown to it as its own were."""


def checkpoint_path(run: str | None, checkpoint: str | None) -> Path | None:
    """The checkpoint that ``run`` (its best one) or ``checkpoint`` (a file or a run directory) names.

    Raises:
        UserError: Both are given, or a run directory has no checkpoint.
    """
    if run is not None and checkpoint is not None:
        raise UserError("run and checkpoint are both given: give one")
    named = run if run is not None else checkpoint
    if named is None:
        return None
    path = Path(named)
    if run is None and not path.is_dir():
        return path
    best = path / "checkpoints" / "best.ckpt"
    if not best.is_file():
        raise UserError(f"{'run' if run is not None else 'checkpoint'}={path}: no checkpoints/best.ckpt there")
    return best


def restored_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of an evaluation around a checkpoint.

    The network is the checkpoint's. So are the data unless the command line selects others, which are then prepared
    as the checkpoint's were; every ``data.…`` key given on the command line counts.

    Raises:
        UserError: As ``compose`` and ``read_run_checkpoint``.
    """
    config = compose(name, [override for override in overrides if not override.startswith("data.")])
    path = checkpoint_path(config.run, config.checkpoint)
    if path is None:
        return compose(name, overrides)
    stored = read_run_checkpoint(path)[KEY]["config"]
    given = overridden_keys(overrides)
    if "model" in given or any(key.startswith("model.") for key in given):
        raise UserError(f"model={config.model.name}: the network comes from {path}; leave model out")
    selected = [] if "data" in given else [f"data={stored['data']['name']}"]
    config = compose(name, [*selected, *overrides])
    kept = set(PREPROCESSING) if "data" in given else set(stored["data"]) - {"seed", "augment"}
    kept -= {key.split(".")[1] for key in given if key.startswith("data.")}
    with open_dict(config):
        for key in kept:
            config.data[key] = stored["data"][key]
        config.model = OmegaConf.create(stored["model"])
        config.model.weights = None
    return config


def load_net(checkpoint: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint, its weights loaded, in evaluation mode."""
    net: nn.Module = instantiate(checkpoint[KEY]["config"]["model"]["net"])
    state = checkpoint["state_dict"]
    net.load_state_dict({name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")})
    return net.eval()
