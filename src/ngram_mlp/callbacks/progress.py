"""Shows the progress of a run on the console."""

import datetime
import sys
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from multistep import Calls
from ngram_mlp.callbacks.losses import Losses
from ngram_mlp.callbacks.recorder import among
from ngram_mlp.models.metrics import VAL_LOSS
from runlab import updates_of

LONGEST_SILENCE = 30  # seconds


class _UpdatesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} updates/s" if speed else "", style="progress.data.speed")


class UpdateProgress(ProgressBar):
    """Shows a bar with updates done, updates per second, time left, and the training and last validation loss.

    Every `print_every` updates it prints a permanent line: the mean training loss since the previous line, the last
    validation loss, the speed, and the time left. If the output is not a terminal, there is no bar, and a line appears
    at least every half minute. Needs the callback `Losses`.

    Args:
        console: where to print; by default standard output.
        print_every: the updates between two lines.
    """

    update_calls = Calls()  # requests no calls; shows progress at the updates where it is called

    def __init__(self, console: Console | None = None, print_every: int = 10_000) -> None:
        super().__init__()
        self._console = console or Console()
        self._print_every = print_every
        self._progress: Progress | None = None

    def disable(self) -> None:
        """Silences the console; Lightning calls this on every rank but the first."""
        self._console.quiet = True

    def enable(self) -> None:
        """Unsilences the console; Lightning calls this after a callback that trained before the first update."""
        self._console.quiet = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._losses = among(trainer, Losses)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        updates = updates_of(trainer)
        self._updates = updates if updates < sys.maxsize else None
        self._progress = progress = Progress(
            TextColumn("{task.completed:,.0f}" + (f"/{updates:,} updates" if self._updates else " updates")),
            BarColumn(bar_width=None),
            _UpdatesPerSecond(),
            TimeRemainingColumn(),
            TextColumn("train {task.fields[train]}  val {task.fields[val]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = progress.add_task("", total=self._updates, completed=trainer.global_step, train="-", val="-")
        self._shown = self._printed = self._timed = trainer.global_step
        self._shown_at = self._timed_at = time.monotonic()
        self._early = 2
        progress.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._print_if_due(trainer)  # any validation after the last update is done by now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._progress is not None
        end = trainer.global_step
        losses = self._losses.between(self._shown, end)
        if len(losses) and not self._progress.disable:
            self._progress.update(self._task, completed=end, train=f"{losses.mean().item():.4f}")
        self._shown, self._shown_at = end, time.monotonic()
        if self._early:  # the first two calls cover one update, then compilation
            self._early -= 1
            if end // self._print_every == self._printed // self._print_every:  # else a line with a speed is due
                self._timed, self._timed_at = self._shown, self._shown_at

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None and VAL_LOSS in trainer.callback_metrics:
            self._progress.update(self._task, val=f"{trainer.callback_metrics[VAL_LOSS].item():.4f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None:
            self._print_if_due(trainer)
            self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _print_if_due(self, trainer: Trainer) -> None:
        """Prints the line if its interval is over."""
        done, every = self._shown, self._print_every
        seconds = self._shown_at - self._timed_at  # excludes other callbacks' work at the end
        late = seconds > LONGEST_SILENCE and not self._console.is_terminal
        if done == self._printed or not (done // every > self._printed // every or late):
            return
        losses, speed = self._losses.between(self._printed, done), (done - self._timed) / seconds
        total = f"{self._updates:,}" if self._updates else ""
        words = [f"{done:>{len(total)},}/{total}".removesuffix("/"), f"train {losses.mean().item():.4f}"]
        if VAL_LOSS in trainer.callback_metrics:
            words.append(f"val {trainer.callback_metrics[VAL_LOSS].item():.4f}")
        words.append(f"{speed:,.0f} updates/s" if speed >= 1 else f"{1 / speed:,.1f} s/update")
        if self._updates and done < self._updates:
            words.append(f"{datetime.timedelta(seconds=round((self._updates - done) / speed))} left")
        self._console.print("   ".join(words))
        self._printed = self._timed = done
        self._timed_at = self._shown_at
