"""What a person sees while a sweep runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
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
from rich.table import Table
from rich.text import Text

from experiments.data import ImageData
from experiments.grid import Group, Run, setting
from experiments.status import LOST
from experiments.wording import counted, listed, printable
from vae_jax.networks import NETWORKS, Conv, ResNet

_WIDEST = 1000  # characters of a line
_LARGEST_FIRST_STEP = 10  # of a unit of the encoder's first layer
_MOST_AVERAGED = 1000  # images whose mean intensity stands for that of all


class _PlainConsole(Console):
    """Writes text as it is, but for what a terminal would obey: names are anybody's."""

    def render_str(self, text: str, *args: Any, **kwargs: Any) -> Text:
        lines = map(printable, text.split("\n"))
        return super().render_str("\n".join(lines), *args, **kwargs)


CONSOLE = _PlainConsole(soft_wrap=True, highlight=False, markup=False, emoji=False)


def warn(line: str) -> None:
    """Prints a line that a person should not overlook."""
    CONSOLE.print(f"warning: {line}", style="yellow")


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
        words = [f"{len(runs)} {word}" for word, runs in _lost(rows).items()]
        if sound := [row for row in rows if row["status"] not in LOST]:
            lowest = min(sound, key=lambda row: row["score"])
            words.append(
                f"lowest score {lowest['score']:.3f} {lowest['unit']} ({lowest['run']})"
            )
        CONSOLE.print(
            f"{begin} {counted(len(rows), 'model')}, {span}, {seconds:.1f} s; "
            f"{', '.join(words)}"
        )


def _lost(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The names of the runs that failed or diverged, by which of these."""
    by_status = {
        status: [row["run"] for row in rows if row["status"] == status]
        for status in LOST
    }
    return {status: runs for status, runs in by_status.items() if runs}


def print_results(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints likelihood x latent size, one table per unit: units are never mixed."""
    for status, runs in _lost(rows).items():
        warn(
            f"{len(runs)} of {counted(len(rows), 'model')} {status} ({LOST[status]}): "
            f"{listed(runs, ' ')}"
        )
    for unit in sorted({row["unit"] for row in rows}):
        table = _score_table(unit, [row for row in rows if row["unit"] == unit])
        # As wide as it is: a narrow terminal wraps lines, but no digit is cut off.
        wide = CONSOLE.options.update(max_width=_WIDEST)
        table.width = CONSOLE.measure(table, options=wide).maximum
        CONSOLE.print(table)


def _score_table(unit: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    sizes = sorted({row["latent_dim"] for row in rows})
    column = {size: i for i, size in enumerate(sizes)}
    cells: dict[str, list[list[Mapping[str, Any]]]] = {}
    for row in rows:
        own = cells.setdefault(_label(row), [[] for _ in sizes])
        own[column[row["latent_dim"]]].append(row)
    has_spread = any(len(_scores(seeds)) > 1 for own in cells.values() for seeds in own)
    notes = [
        *["mean over seeds ± their standard deviation"] * has_spread,
        *["† upper bound, from a density"] * any("†" in name for name in cells),
        *["means leave out what failed or diverged"] * bool(_lost(rows)),
    ]
    table = Table(
        title=f"-log p(x) of {counted(rows[0]['num_test_images'], 'test image')} of "
        f"{rows[0]['dataset']}, {unit}, smaller is better",
        title_justify="left",
        caption="; ".join(notes) or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("likelihood", no_wrap=True)
    for size in sizes:
        table.add_column(f"latent {size}", justify="right", no_wrap=True)
    for name in sorted(cells, key=lambda name: (*_lowest(cells[name]), name)):
        table.add_row(name, *map(_cell, cells[name]))
    return table


def _label(row: Mapping[str, Any]) -> str:
    """What a row's model is, besides latent size and seed: 'laplace † beta=4.0'."""
    others = (f"{axis}={value}" for axis, value in setting(row["run"]).items())
    marks = ["†"] * (row["view"] == "continuous")
    return " ".join([row["likelihood"], *marks, *others])


def _cell(seeds: Sequence[Mapping[str, Any]]) -> str:
    """What stands of some runs in a table: as in the report, a mean leaves out lost."""
    scores, lost = _scores(seeds), _lost(seeds)
    if not scores:
        return " ".join(lost)
    spread = f" ±{np.std(scores, ddof=1):.3f}" if len(scores) > 1 else ""
    marks = [f" ({len(runs)} {status})" for status, runs in lost.items()]
    return "".join([f"{np.mean(scores):.3f}{spread}", *marks])


def _lowest(cells: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[bool, float]:
    """What sorts a line of a table: its lowest mean that no seed is missing in."""
    return min(
        (
            (len(scores) < len(seeds), float(np.mean(scores)))
            for seeds in cells
            if (scores := _scores(seeds))
        ),
        default=(True, math.inf),
    )


def _scores(seeds: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["score"] for row in seeds if row["status"] not in LOST]


def print_sandwich(row: Mapping[str, Any]) -> None:
    """Prints where a run's ELBO loses log p(x), and how tight the bounds are."""
    table = Table(
        title=f"{row['run']}, nats per image ({row['view']} view)",
        title_justify="left",
        caption=f"{row['num_images']} images each; HMC acceptance "
        f"{row['acceptance']:.2f}, effective chains "
        f"{row['annealed_effective_sample_size']:.1f} (median)",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("s.e.", justify="right", no_wrap=True)
    for name, label in _SANDWICH_LINES.items():
        if math.isnan(row[name]):
            continue
        table.add_row(label, f"{row[name]:.3f}", f"{row[f'{name}_se']:.3f}")
    CONSOLE.print(table)


_SANDWICH_LINES = {
    "elbo": "ELBO",
    "amortization_gap": "+ amortization: the encoder's loss",
    "approximation_gap": "+ approximation: the family's",
    "annealed_log_px": "= log p(x), annealed from below",
    "importance_log_px": "  log p(x), importance-weighted",
    "last_rise": "best q's ELBO still rose by",
    "simulated_lower": "generated images: from below",
    "simulated_upper": "generated images: from above",
    "simulated_gap": "generated images: above - below",
}
