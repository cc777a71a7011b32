"""The terminal while a sweep runs: its start, a progress bar, a line per group."""

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.progress
from rich.text import Text

from experiments.data.images import ImageData
from experiments.evaluation.status import LOST, by_status
from experiments.messages.console import CONSOLE, warn
from experiments.messages.wording import counted
from experiments.settings.grid import Group, Run
from vae_jax.networks import NETWORKS, Conv, ResNet

_LARGEST_FIRST_STEP = 10  # Of a unit in the encoder's first layer.
_MOST_AVERAGED = 1000  # The mean intensity of so many images stands for all.


def announce(data: ImageData, runs: Sequence[Run]) -> None:
    """Prints the data set, and warnings about it and about the settings."""
    CONSOLE.print(data.describe())
    doubts = [
        _doubt_of_warmup(runs),
        _doubt_of_learning_rate(data, runs),
        _doubt_of_average(data, runs),
    ]
    for doubt in filter(None, [*data.notes, *doubts]):
        warn(doubt)


def _doubt_of_warmup(runs: Sequence[Run]) -> str:
    """Returns a warning if a KL warm-up lasts longer than the training; else ''."""
    longest = max(
        (run.settings.training for run in runs),
        key=lambda training: training.kl_warmup_epochs / training.num_epochs,
    )
    warmup, epochs = longest.kl_warmup_epochs, longest.num_epochs
    if warmup <= epochs:
        return ""
    weight = "the capacity" if longest.capacity else "β"
    return (
        f"training.kl_warmup_epochs is {warmup} of num_epochs {epochs}: {weight} "
        f"ends at {epochs / warmup:.2g} of its value. Set it to at most {epochs}."
    )


def _doubt_of_learning_rate(data: ImageData, runs: Sequence[Run]) -> str:
    """Returns a warning if a learning rate is too large for so many pixels; else ''.

    A step of Adam changes each weight by up to the learning rate. So the first step
    moves a unit in the first layer of a dense encoder by up to the learning rate times
    the sum of the intensities of an image. On crops of photographs with 3072 to 49,152
    values, models trained well if this product was at most 6.4. If it was 12 or more,
    the posterior means of all models but one went far from the prior, with a KL of
    thousands of nats, and most models ended worse than a constant output.
    """
    rate = max(
        (
            run.settings.training.learning_rate
            for run in runs
            if NETWORKS[run.settings.model.network] not in (Conv, ResNet)
        ),
        default=0.0,
    )
    images = data.train.images
    some = images[:: math.ceil(len(images) / _MOST_AVERAGED)]
    total = float(some.mean()) / (data.levels - 1) * data.num_pixels
    if rate * total <= _LARGEST_FIRST_STEP:
        return ""
    remedy = float(f"{_LARGEST_FIRST_STEP / 2 / total:.0e}")
    return (
        f"training.learning_rate is {rate:g}: the intensities of an image sum to "
        f"{total:,.0f}, so the first step of Adam can move a unit of the "
        f"encoder's first layer by {rate * total:.0f}. At 12 or more, most models "
        f"ended worse than a constant output. Set it to at most {remedy:g}."
    )


def _doubt_of_average(data: ImageData, runs: Sequence[Run]) -> str:
    """Returns a warning if an average of parameters is one of all steps; else ''."""
    for training in dict.fromkeys(run.settings.training for run in runs):
        span = 1 / (1 - training.ema)
        steps = len(data.train.images) // training.batch_size * training.num_epochs
        if training.ema and span > steps:
            return (
                f"training.ema is {training.ema}: its average is over about the last "
                f"{span:,.0f} steps, and the training has {steps:,}: it is close to "
                "the mean over all of them. Set it to a smaller decay, or to 0."
            )
    return ""


class _Rate(rich.progress.ProgressColumn):
    """A column with the epochs per second."""

    def render(self, task: rich.progress.Task) -> Text:
        return Text(f"{task.speed:.2g} epochs/s" if task.speed else "")


class Progress:
    """Shows a bar over all epochs of a sweep, and prints a line per finished group.

    Args:
        groups: the groups of the sweep.
        shown: whether the bar is shown.
    """

    def __init__(self, groups: Sequence[Group], *, shown: bool = True):
        self._bar = rich.progress.Progress(
            "{task.description}",
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            _Rate(),
            "elapsed",
            rich.progress.TimeElapsedColumn(),
            "left",
            rich.progress.TimeRemainingColumn(),
            "{task.fields[bound]}",
            console=CONSOLE,
            transient=True,
            disable=not shown,
        )
        self._num_groups = self._num_epochs = self._finished = 0
        self._present: dict[str, str] = {}  # Names of groups: their present work.
        self._lock = threading.Lock()
        self._task = self._bar.add_task("compiling", total=0, bound="")
        self.add(groups)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def add(self, groups: Sequence[Group]) -> None:
        """Adds groups to those that the bar counts."""
        self._count(groups, 1)

    def drop(self, group: Group) -> None:
        """Removes a group from those that the bar counts: another command trains it."""
        self._count([group], -1)

    def _count(self, groups: Sequence[Group], sign: int) -> None:
        with self._lock:
            self._num_groups += sign * len(groups)
            self._num_epochs += sign * sum(g.widest.training.num_epochs for g in groups)
            self._bar.update(self._task, total=self._num_epochs)

    def show(self, group: Group, doing: str) -> None:
        """Shows the present work on a group, as in 'training'."""
        likelihood = group.widest.model.likelihood
        with self._lock:
            self._present[group.name] = f"{likelihood}: {doing}"
            number = f"{self._finished + len(self._present)}/{self._num_groups}"
            present = ", ".join(self._present.values())
            self._bar.update(self._task, description=f"{number} {present}")

    def advance(self, num_epochs: int, bound: str = "") -> None:
        """Counts epochs as done, and shows a bound."""
        self._bar.update(self._task, advance=num_epochs, bound=bound)

    def finish(self, group: Group, line: str) -> None:
        """Prints a line on a group that has ended."""
        with self._lock:
            self._finished += 1
            self._present.pop(group.name, None)
            CONSOLE.print(f"[{self._finished}/{self._num_groups}] {line}")


class GroupProgress:
    """Shows the progress of one group.

    Args:
        whole: the progress of all groups.
        group: the group.
    """

    def __init__(self, whole: Progress, group: Group):
        self._whole, self._group = whole, group
        self._settings, self._epoch = group.widest, 0

    def show(self, doing: str) -> None:
        """Shows the present work on the group, as in 'training'."""
        self._whole.show(self._group, doing)

    def advance(self, epoch: int, best_bounds: Any) -> None:
        """Shows the epochs finished and the highest best bound of a member, nats."""
        bound = f"best bound {np.max(best_bounds):.2f} nats"
        self._whole.advance(epoch - self._epoch, bound)
        self._epoch = epoch

    def finish(self, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Prints a line on the group; epochs that it did not need count as done.

        Args:
            rows: results of the models that finished; none if all failed and start
                again.
            seconds: duration of the group.
        """
        training, model = self._settings.training, self._settings.model
        self._whole.advance(training.num_epochs - self._epoch)
        trained = "no model finished"
        words = ["all failed, and start again with other keys"]
        if rows:
            words = [f"{len(runs)} {word}" for word, runs in by_status(rows).items()]
            epochs = [row["epochs"] for row in rows]
            least, most = min(epochs), max(epochs)
            span = f"{least}-{most} epochs" if least < most else counted(most, "epoch")
            trained = f"{counted(len(rows), 'model')}, {span}"
        if sound := [row for row in rows if row["status"] not in LOST]:
            best = min(sound, key=lambda row: row["score"])
            score = f"{best['score']:.3f} {best['unit']}"
            words.append(f"lowest score {score} ({best['run']})")
        line = f"{model.likelihood}: {trained}, {seconds:.1f} s; {', '.join(words)}"
        self._whole.finish(self._group, line)
