"""Compare the inputs of all ranks before the first step, and let them decide together at each step."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import Trainer

from convatlas.config.composition import plain
from convatlas.errors import UserError
from convatlas.record.provenance import code_digest, environment
from convatlas.training.lightning_internals import process_group_timeout
from convatlas.training.trainer import build_trainer, check_ranks, lost_rank_told
from convatlas.utils.distributed import ranks

MAY_DIFFER = (
    "data.dataset.download",
    "data.dataset.scan_cache",
    "data.prefetch",
    "data.root",
    "data.threads",
    "format",
    "model.backbone.weights",
    "model.weights",
    "output",
    "run.root",
    "tracking",
    "trainer.devices",
    "trainer.num_nodes",
)
"""Keys that may differ between machines: paths, whose content is compared instead, and settings of loading."""
SHOWN = 3
"""Number of differences that a message names."""


def agree(config: DictConfig, parts: Mapping[str, str]) -> None:
    """Connect the ranks that a launcher has started and compare their inputs.

    Args:
        config: The configuration of the verb.
        parts: What must be equal in addition to settings, code and packages, by its name in messages.

    Raises:
        UserError: On every rank: the inputs differ, or the Trainer expects another number of ranks.
        RankLostError: Another rank did not connect, or has ended.
    """
    check_ranks(config.trainer)
    if ranks().size == 1:
        return
    trainer = build_trainer(config.trainer, logger=False, enable_checkpointing=False)
    with lost_rank_told():
        trainer.strategy.setup_environment()
        here = environment()
        common = {"code": code_digest(), "python": here["python"], **here["packages"]}
        compare({**settings_to_compare(plain(config)), **parts, **common})


def compare(parts: Mapping[str, Any]) -> None:
    """Compare a digest of the parts between all ranks, and the parts themselves only if the digests differ.

    Raises:
        UserError: As ``agree``.
    """
    if not torch.distributed.is_initialized():
        return
    texts = {name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in parts.items()}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    if len(set(_gather(digest))) == 1:
        return
    found = _gather(texts)
    names = dict.fromkeys(name for texts in found for name in texts)
    differences = [text for name in names if (text := _difference(name, found))]
    more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    raise UserError(
        f"the ranks differ: {'; '.join(differences[:SHOWN])}{more}. Start every rank with the same command, code, "
        "packages and data"
    )


def settings_to_compare(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a resolved configuration by its dotted key, except those of ``MAY_DIFFER``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if key in MAY_DIFFER:
            continue
        found |= settings_to_compare(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return found


def _gather(value: Any) -> list[Any]:
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def _difference(name: str, found: list[dict[str, str]]) -> str | None:
    """Describe how the first differing rank differs from rank 0; None if all ranks are equal."""
    values = [" ".join(parts.get(name, "missing").split()) for parts in found]
    rank = next((rank for rank, value in enumerate(values) if value != values[0]), None)
    if rank is None:
        return None
    return f"{name} is {values[0][:60]} on rank 0 and {values[rank][:60]} on rank {rank}"


class RankVote:
    """Tells all ranks at the same step whether any rank wants something; with several ranks, one step later.

    The CPUs exchange the answer while the next step is computed. An exchange between the GPUs, as in Lightning's
    ``reduce_boolean_decision``, would make every step wait for the end of the previous one.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._answer: torch.Tensor | None = None
        self._work: torch.distributed.Work | None = None

    def open(self, trainer: Trainer) -> None:
        """Connect the CPUs of all ranks; every rank must call this."""
        if trainer.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=process_group_timeout(trainer))

    def reached(self, wanted: bool) -> bool:
        """Submit this rank's vote, and return whether any rank voted yes in the previous call."""
        if self._group is None:
            return wanted
        answer = self._hear()
        self._answer = torch.tensor(int(wanted))
        self._work = torch.distributed.all_reduce(
            self._answer, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return answer

    def forget(self) -> None:
        """Discard the last vote, whose request has been fulfilled."""
        self._hear()

    def _hear(self) -> bool:
        if self._work is None or self._answer is None:
            return False
        self._work.wait()
        self._work = None
        return bool(self._answer.item())
