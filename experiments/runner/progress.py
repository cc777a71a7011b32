"""The terminal while a sweep runs: its start, a progress bar, a line per group."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
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
    doubts = [_doubt_of_warmup(runs), _doubt_of_learning_rate(data, runs)]
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
        f"ends at {epochs / warmup:.2g} of its value; set it to at most {epochs}."
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
        f"{total:,.0f}, so that the first step of Adam can move a unit of the "
        f"encoder's first layer by {rate * total:.0f}; where it could by 12 or more, "
        f"most models ended worse than a constant output. Set it to at most {remedy:g}."
    )


class _Rate(ProgressColumn):
    """A column with the epochs per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2g} epochs/s" if task.speed else "")


class Progress:
    """Shows a bar over all epochs of a sweep, and prints a line per finished group.

    Args:
        groups: the groups of the sweep.
        shown: whether the bar is shown.
    """

    def __init__(self, groups: Sequence[Group], *, shown: bool = True):
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[bound]}"),
            console=CONSOLE,
            transient=True,
            disable=not shown,
        )
        self._num_groups = self._num_all_epochs = self._finished = 0
        self._task = self._bar.add_task("compiling", total=0, bound="")
        self.add(groups)
        self._name = ""
        self._epoch = self._num_epochs = 0

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def add(self, groups: Sequence[Group]) -> None:
        """Adds groups to those that the bar counts."""
        self._num_groups += len(groups)
        self._num_all_epochs += sum(g.widest.training.num_epochs for g in groups)
        self._bar.update(self._task, total=self._num_all_epochs)

    def drop(self, group: Group) -> None:
        """Removes a group from those that the bar counts: another command trains it."""
        self._num_groups -= 1
        self._num_all_epochs -= group.widest.training.num_epochs
        self._bar.update(self._task, total=self._num_all_epochs)

    def start_group(self, group: Group, num_epochs: int) -> None:
        """Shows the name of the group that trains next."""
        self._epoch, self._num_epochs = 0, num_epochs
        self._name = group.runs[0].settings.model.likelihood
        self._bar.update(self._task, bound="")

    def show(self, doing: str) -> None:
        """Shows the present work on the group, as in 'training'."""
        name = f"{self._finished + 1}/{self._num_groups} {self._name}"
        self._bar.update(self._task, description=f"{name}: {doing}")

    def advance(self, epoch: int, best_bounds: Any) -> None:
        """Shows the epochs finished and the highest best bound of a member, nats."""
        text = f"best bound {np.max(best_bounds):.2f} nats"
        self._bar.update(self._task, advance=epoch - self._epoch, bound=text)
        self._epoch = epoch

    def finish_group(self, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Prints a line on a finished group; epochs that it did not need count as done.

        Args:
            rows: results of the models that finished; none if all failed and start
                again.
            seconds: duration of the group.
        """
        self._bar.update(self._task, advance=self._num_epochs - self._epoch)
        self._finished += 1
        begin = f"[{self._finished}/{self._num_groups}] {self._name}:"
        if not rows:
            CONSOLE.print(
                f"{begin} no model finished, {seconds:.1f} s; all failed, and start "
                "again with other keys"
            )
            return
        epochs = [row["epochs"] for row in rows]
        least, most = min(epochs), max(epochs)
        span = f"{least}-{most} epochs" if least < most else counted(most, "epoch")
        words = [f"{len(runs)} {word}" for word, runs in by_status(rows).items()]
        if sound := [row for row in rows if row["status"] not in LOST]:
            lowest = min(sound, key=lambda row: row["score"])
            words.append(
                f"lowest score {lowest['score']:.3f} {lowest['unit']} ({lowest['run']})"
            )
        CONSOLE.print(
            f"{begin} {counted(len(rows), 'model')}, {span}, {seconds:.1f} s; "
            f"{', '.join(words)}"
        )
