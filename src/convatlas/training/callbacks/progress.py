"""Progress of a training on the terminal, and its throughput."""

import sys
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar

from convatlas.utils.clock import STARTUP


class Throughput(Callback):
    """Logs ``train/images_per_second`` of all ranks and ``train/data_wait``, the share of time spent waiting for data.

    Both cover the steps since the last log line. The first step is left out because it includes the start-up.
    """

    def __init__(self) -> None:
        self._started = False
        self._waiting_since = 0.0
        self._waited = 0.0
        self._window_start = 0.0
        self._steps = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a window: the time between epochs does not count."""
        self._restart()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Add the time since the end of the previous step to the waiting time."""
        self._waited += time.perf_counter() - self._waiting_since

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log the window if it is full."""
        if not self._started:
            self._started = True
            STARTUP.mark("first_step")
            self._restart()
            return
        self._steps += 1
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            seconds = time.perf_counter() - self._window_start
            images = self._steps * len(batch.labels) * trainer.world_size
            pl_module.log("train/images_per_second", images / seconds)
            pl_module.log("train/data_wait", min(1.0, self._waited / seconds))
            self._restart()
        self._waiting_since = time.perf_counter()

    def _restart(self) -> None:
        self._window_start = self._waiting_since = time.perf_counter()
        self._waited = 0.0
        self._steps = 0


class PlainProgress(ProgressBar):
    """Prints progress as lines of text, for logs and pipes: one every ``seconds`` and one for each epoch."""

    def __init__(self, seconds: float = 10.0) -> None:
        super().__init__()
        self.seconds = seconds
        self._shown = True
        self._start = self._printed = time.monotonic()
        self._start_step = 0

    def disable(self) -> None:
        """Print nothing; Lightning calls this on ranks other than zero."""
        self._shown = False

    def enable(self) -> None:
        """Print again."""
        self._shown = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = self._printed = time.monotonic()
        self._start_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Print a line if ``seconds`` have passed."""
        if time.monotonic() - self._printed >= self.seconds:
            self._print(trainer, f"loss {float(trainer.callback_metrics.get('train/loss', float('nan'))):.4f}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's metrics."""
        metrics = trainer.callback_metrics
        names = ("train/loss", "val/loss", str(pl_module.monitor))
        shown = [f"{name} {float(metrics[name]):.4f}" for name in names if name in metrics]
        self._print(trainer, "  ".join(shown))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Print the progress of the validation if ``seconds`` have passed."""
        self._print_evaluation("val", kwargs.get("batch_idx", args[2]), trainer.num_val_batches)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Print the progress of the evaluation if ``seconds`` have passed."""
        self._print_evaluation("evaluation", kwargs.get("batch_idx", args[2]), trainer.num_test_batches)

    def _print_evaluation(self, name: str, batch: int, totals: list[int | float]) -> None:
        if self._shown and time.monotonic() - self._printed >= self.seconds:
            self._printed = time.monotonic()
            sys.stderr.write(f"{name}  batch {batch + 1}/{int(totals[0])}\n")
            sys.stderr.flush()

    def _print(self, trainer: Trainer, text: str) -> None:
        self._printed = time.monotonic()
        total = int(trainer.estimated_stepping_batches)
        done = trainer.global_step - self._start_step
        rate = done / max(1e-9, self._printed - self._start)
        left = (total - trainer.global_step) / max(1e-9, rate)
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        if self._shown:
            sys.stderr.write(
                f"{epoch}  step {trainer.global_step}/{total}  {text}  {rate:.1f} steps/s  "
                f"{int(left // 60)}:{int(left % 60):02d} left\n"
            )
            sys.stderr.flush()


def progress() -> ProgressBar:
    """Return a rich progress bar on a terminal, and plain lines elsewhere."""
    return RichProgressBar() if sys.stderr.isatty() else PlainProgress()
