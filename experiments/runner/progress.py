"""What a person sees while a sweep runs."""

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

_LARGEST_FIRST_STEP = 10  # of a unit of the encoder's first layer
_MOST_AVERAGED = 1000  # images whose mean intensity stands for that of all


def announce(data: ImageData, runs: Sequence[Run]) -> None:
    """Says what is trained on, and warns of what a person should know of it."""
    CONSOLE.print(data.describe())
    doubts = [_doubt_of_warmup(runs), _doubt_of_learning_rate(data, runs)]
    for doubt in filter(None, [*data.notes, *doubts]):
        warn(doubt)


def _doubt_of_warmup(runs: Sequence[Run]) -> str:
    """Returns what a KL warm-up that outlasts the training does; '' where none does."""
    recipe = max(
        (run.settings.training for run in runs),
        key=lambda recipe: recipe.kl_warmup_epochs / recipe.num_epochs,
    )
    warmup, epochs = recipe.kl_warmup_epochs, recipe.num_epochs
    if warmup <= epochs:
        return ""
    weight = "the capacity" if recipe.capacity else "β"
    return (
        f"training.kl_warmup_epochs is {warmup} of num_epochs {epochs}: {weight} "
        f"ends at {epochs / warmup:.2g} of its value; set it to at most {epochs}."
    )


def _doubt_of_learning_rate(data: ImageData, runs: Sequence[Run]) -> str:
    """Returns what a learning rate too large for so many pixels does; '' if none is.

    A step of Adam changes each weight by up to the learning rate, so the first one
    moves a unit of a dense encoder's first layer by up to the learning rate times the
    sum of the intensities of an image. Of crops of photographs with 3072 to 49,152
    values, models trained where that was at most 6.4. Where it was 12 or more, all but
    one went through posterior means far from the prior, a KL of thousands of nats, and
    most ended worse than a constant output.
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
    """Epochs per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2g} epochs/s" if task.speed else "")


class Progress:
    """A progress bar over all epochs of a sweep, and a line per finished group."""

    def __init__(self, groups: Sequence[Group], *, shown: bool = True):
        self._shown = shown
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
        """Expects further groups."""
        self._num_groups += len(groups)
        self._num_all_epochs += sum(g.widest.training.num_epochs for g in groups)
        self._bar.update(self._task, total=self._num_all_epochs)

    def drop(self, group: Group) -> None:
        """Expects a group no longer: another command trains it."""
        self._num_groups -= 1
        self._num_all_epochs -= group.widest.training.num_epochs
        self._bar.update(self._task, total=self._num_all_epochs)

    def start_group(self, group: Group, num_epochs: int) -> None:
        """Names the group that trains now."""
        self._epoch, self._num_epochs = 0, num_epochs
        self._name = group.runs[0].settings.model.likelihood
        self._bar.update(self._task, bound="")

    def show(self, doing: str) -> None:
        """Says what is done of the group that trains now."""
        name = f"{self._finished + 1}/{self._num_groups} {self._name}"
        self._bar.update(self._task, description=f"{name}: {doing}")

    def advance(self, epoch: int, best_bounds: np.ndarray) -> None:
        """Reports the epochs finished and the best validation bounds so far, nats."""
        text = f"best bound {np.max(best_bounds):.2f} nats"
        self._bar.update(self._task, advance=epoch - self._epoch, bound=text)
        self._epoch = epoch

    def finish_group(self, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Prints a line on a finished group; epochs it did not need count as done.

        Args:
            rows: of the models that finished; none where all failed and are begun
                anew.
            seconds: that the group took.
        """
        self._bar.update(self._task, advance=self._num_epochs - self._epoch)
        self._finished += 1
        begin = f"[{self._finished}/{self._num_groups}] {self._name}:"
        if not rows:
            CONSOLE.print(
                f"{begin} no model finished, {seconds:.1f} s; all that failed are "
                "begun anew"
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
