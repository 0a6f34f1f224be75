import datetime

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only

from convatlas.config.composition import check_config, compose
from convatlas.errors import UserError
from convatlas.training.cluster_environments import SrunEnvironment
from convatlas.training.trainer import build_trainer, is_lost_rank

STEP = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # the trainer sets it for good
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "")  # restored afterwards, whatever is set
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("step")
def test_the_tasks_of_a_job_step_are_the_ranks() -> None:
    config = compose("train", ["trainer.accelerator=cpu"]).trainer
    assert (config.devices, config.num_nodes) == (2, 2)
    trainer = build_trainer(config, logger=False)
    assert isinstance(trainer.strategy, DDPStrategy)
    assert trainer.strategy._timeout == datetime.timedelta(minutes=10)
    environment = trainer.strategy.cluster_environment
    assert isinstance(environment, SrunEnvironment)
    assert (environment.global_rank(), environment.local_rank(), environment.node_rank()) == (3, 1, 1)
    assert (environment.world_size(), environment.main_address) == (4, "gpu07")
    assert 15_000 <= environment.main_port < 32_000


@pytest.mark.usefixtures("step")
def test_another_number_of_ranks_than_was_started_is_refused() -> None:
    config = compose("train", ["trainer.accelerator=cpu", "trainer.devices=3"]).trainer
    with pytest.raises(UserError, match=r"trainer.devices=3 trainer.num_nodes=2: 2 ranks on each of 2 nodes"):
        build_trainer(config, logger=False)


@pytest.mark.usefixtures("step")
def test_synchronised_batch_normalisation_needs_gpus() -> None:
    config = compose("train", ["trainer.accelerator=cpu", "trainer.sync_batchnorm=true"]).trainer
    with pytest.raises(UserError, match=r"trainer.sync_batchnorm=true: PyTorch has it for GPUs only"):
        build_trainer(config, logger=False)


def test_a_timeout_that_is_no_time_is_refused() -> None:
    with pytest.raises(UserError, match=r"timeout_minutes=-1: expected a positive number"):
        check_config(compose("train", ["trainer.strategy.timeout_minutes=-1"]), {})


def test_exceptions_of_lost_ranks_are_recognised() -> None:
    gloo = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:545] Connection closed by peer [127.0.0.1]:1")
    assert is_lost_rank(gloo)
    assert is_lost_rank(torch.distributed.DistBackendError("NCCL communicator was aborted"))
    assert not is_lost_rank(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_disabled_signal_handlers_of_lightning_exist() -> None:
    """Under another name the handlers would come back unnoticed."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert callable(trainer._signal_connector.register_signal_handlers)
    assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)
