"""Groups of members whose scores may be compared, and means over their seeds.

Members that describe the same random variable form a group: the binary images, scored
in nats, or the integers, scored in bits/dim; and either of them given their labels.
Scores are compared within a group only.
"""

import collections
import dataclasses
import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from experiments.report.members import (
    LATENT_SIZE,
    LIKELIHOOD,
    Member,
    Value,
    likelihood_label,
    named,
    quantity,
    telling,
    value_label,
)
from experiments.settings.grid import Run


class Axis(NamedTuple):
    """An axis of a sweep besides the seed.

    Attributes:
        name: its name in words.
        values: those that occur: numbers sorted, texts in the order of their best cell.
    """

    name: str
    values: tuple[Value, ...]

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return all(isinstance(value, int | float) for value in self.values)

    @property
    def varies(self) -> bool:
        """Whether it has more than one value."""
        return len(self.values) > 1


class Layout(NamedTuple):
    """The axes of a table: of its rows, of its columns, and the other varying axes."""

    rows: Axis
    columns: Axis
    others: tuple[Axis, ...]


class Cell(NamedTuple):
    """One number for members that differ in their seed only.

    Attributes:
        members: at least one, by seed.
        mean: mean over the members with a finite value that did not fail; NaN if there
            is none.
        spread: half-width of the error bar, in the unit of mean; NaN if unknown.
        num_seeds: number of members in the mean.
        all_seeds: number of seeds in the group.
    """

    members: Sequence[Member]
    mean: float
    spread: float
    num_seeds: int
    all_seeds: int

    @property
    def point(self) -> Mapping[str, Value]:
        """The value of its members on each axis."""
        return self.members[0].point

    @property
    def is_whole(self) -> bool:
        """Whether the mean contains every seed."""
        return self.num_seeds >= self.all_seeds

    @property
    def losses(self) -> str:
        """How many of its members failed or diverged, in words; '' if none did."""
        counts = collections.Counter(m.status for m in self.members if m.is_lost)
        if len(self.members) == 1:
            return "".join(counts)
        return ", ".join(f"{count} {status}" for status, count in counts.items())


def over_seeds(members: Iterable[Member], field: str) -> tuple[float, float, int]:
    """Returns mean and standard deviation of a column, and how many values they have.

    Runs that failed or diverged are left out, and so are values that are not finite.
    Without values the mean is NaN, with one the standard deviation is.
    """
    values = [getattr(member, field) for member in members if not member.is_lost]
    finite = [value for value in values if math.isfinite(value)]
    return (
        statistics.fmean(finite) if finite else math.nan,
        statistics.stdev(finite) if len(finite) > 1 else math.nan,
        len(finite),
    )


@dataclasses.dataclass(frozen=True)
class Group:
    """Members whose scores can be ranked against each other.

    Attributes:
        key: part of file names and links.
        title: the random variable that is modelled.
        unit: unit of the score.
        decimals: number of decimals of a printed score.
        members: at least one.
    """

    key: str
    title: str
    unit: str
    decimals: int
    members: Sequence[Member]

    # --- numbers over seeds -----------------------------------------------------------

    @functools.cached_property
    def num_seeds(self) -> int:
        """Number of seeds that occur."""
        return len({member.seed for member in self.members})

    @functools.cached_property
    def measure(self) -> str:
        """The column that ranks the members: the score, or −ELBO.

        A chain of latents has an ELBO alone. Beside one, all members are ranked by it.
        """
        is_bound = any(member.estimator == "bound" for member in self.members)
        return "bound" if is_bound else "score"

    def score(self, member: Member) -> float:
        """Returns the number that ranks a member, smaller is better."""
        return float(getattr(member, self.measure))

    def cells(self, field: str = "") -> list[Cell]:
        """Returns mean and spread of a column over seeds, by point.

        The spread is the standard deviation over seeds. If the group has one seed, that
        of the score is the standard error over test images.

        Args:
            field: the column; '' for the one that ranks the members.
        """
        field = field or self.measure
        by_point = collections.defaultdict(list)
        for member in sorted(self.members, key=lambda member: int(member.seed)):
            by_point[tuple(member.point.values())].append(member)
        cells = []
        for members in by_point.values():
            mean, spread, count = over_seeds(members, field)
            if count and self.num_seeds == 1 and field == self.measure:
                spread = getattr(members[0], f"{field}_se")
            cells.append(Cell(members, mean, spread, count, self.num_seeds))
        return cells

    @functools.cached_property
    def ranking(self) -> list[Cell]:
        """The scores, lowest first.

        Cells without a score are last. Before them are those in which a seed is
        missing.
        """
        return sorted(
            self.cells(),
            key=lambda cell: (math.isnan(cell.mean), not cell.is_whole, cell.mean),
        )

    def scored(self, cell: Cell) -> list[Member]:
        """Returns the members of a cell that have a score, the best one first.

        Runs that failed or diverged do not count.
        """
        own = [member for member in cell.members if not member.is_lost]
        finite = [member for member in own if math.isfinite(self.score(member))]
        return sorted(finite, key=self.score)

    @property
    def best(self) -> Cell | None:
        """The cell with the lowest mean of all seeds; None if each lacks a seed."""
        first = self.ranking[0]
        return first if first.is_whole and math.isfinite(first.mean) else None

    # --- axes -------------------------------------------------------------------------

    @functools.cached_property
    def axes(self) -> dict[str, Axis]:
        """The axes by name: likelihood and latent size, then those of the sweep."""
        axes = {}
        for name in self.members[0].point:
            values = list(dict.fromkeys(cell.point[name] for cell in self.ranking))
            axis = Axis(name, tuple(values))
            if axis.is_number:
                axis = Axis(name, tuple(sorted(values)))
            axes[name] = axis
        return axes

    @functools.cached_property
    def varying(self) -> list[Axis]:
        """The axes on which the members differ."""
        return [axis for axis in self.axes.values() if axis.varies]

    @functools.cached_property
    def telling(self) -> list[Axis]:
        """The axes that tell all settings apart; others follow from these."""
        return [self.axes[name] for name in telling(self.members)]

    @property
    def implied(self) -> list[Axis]:
        """The axes on which the members differ that follow from the telling ones."""
        return [axis for axis in self.varying if axis not in self.telling]

    @functools.cached_property
    def layout(self) -> Layout:
        """The axes of a table of scores.

        The likelihood makes the rows and the latent size the columns, if they vary.
        Where one does not, the axis with the most values takes its place. Of two such
        axes, numbers make the columns.
        """
        likelihood, size = self.axes[LIKELIHOOD], self.axes[LATENT_SIZE]
        order = sorted(  # Axes with as many values stay in the order of the sweep.
            self.telling,
            key=lambda axis: (axis not in (likelihood, size), -len(axis.values)),
        )
        shown, rest = order[:2], order[2:]
        for axis in (size, likelihood):  # A single axis is crossed by one of them.
            if len(shown) < 2 and axis.is_number not in [a.is_number for a in shown]:
                shown.append(axis)
        rows, columns = sorted(shown, key=lambda axis: (axis.is_number, axis == size))
        return Layout(rows, columns, tuple(rest))

    def colored(self, along: Axis | None = None) -> Axis:
        """Returns the axis whose values have a colour each.

        Args:
            along: another axis, which lines run along.
        """
        rows, columns, others = self.layout
        free = [axis for axis in (rows, columns, *others) if axis != along]
        return next((axis for axis in free if axis.varies), free[0])

    def panels(self, cells: Iterable[Cell], *inside: Axis) -> dict[str, list[Cell]]:
        """Returns cells by their values on all telling axes but some, a line for each.

        An axis that a cell does not have has no line.

        Args:
            cells: the cells.
            inside: axes whose values are in one panel.
        """
        outside = [axis for axis in self.telling if axis not in inside]
        panels: dict[tuple[int, ...], list[Cell]] = {}
        for cell in cells:
            place = tuple(axis.values.index(cell.point[axis.name]) for axis in outside)
            panels.setdefault(place, []).append(cell)
        return {
            "\n".join(
                self.named_label(axis, axis.values[i])
                for axis, i in zip(outside, place, strict=True)
                if axis.values[i] is not None
            ): panels[place]
            for place in sorted(panels)
        }

    # --- words ------------------------------------------------------------------------

    @property
    def quantity(self) -> str:
        """The name of what is ranked."""
        return quantity(self.members[0].density, is_bound=self.measure == "bound")

    @property
    def ranked(self) -> str:
        """The name of what ranks the members, in a sentence."""
        return "score" if self.measure == "score" else "-ELBO"

    @property
    def words(self) -> str:
        """What is ranked, in words."""
        return "negative log-likelihood" if self.measure == "score" else "minus ELBO"

    @property
    def upper_bounds(self) -> set[str]:
        """Likelihoods whose score is an upper bound, from a density."""
        return {m.likelihood for m in self.members if m.view == "continuous"}

    def label(self, axis: Axis, value: Value) -> str:
        """Returns a value on an axis for a reader; † marks upper bounds."""
        if axis.name != LIKELIHOOD:
            return value_label(axis.name, value)
        mark = " †" if value in self.upper_bounds else ""
        return likelihood_label(str(value)) + mark

    def labels(self, axis: Axis) -> dict[Value, str]:
        """Returns the label of each value of an axis."""
        return {value: self.label(axis, value) for value in axis.values}

    def named_label(self, axis: Axis, value: Value) -> str:
        """Returns the label with the name of its axis, which likelihoods need not."""
        label = self.label(axis, value)
        return label if axis.name == LIKELIHOOD else f"{axis.name} = {label}"

    def name(self, cell: Cell) -> str:
        """Returns a cell's model in words: the axes that tell the members apart."""
        return named(cell.point, [axis.name for axis in self.telling])

    def full_name(self, cell: Cell) -> str:
        """Returns the same with likelihood and latent size, even if all share them."""
        axes = {LIKELIHOOD, LATENT_SIZE, *(axis.name for axis in self.telling)}
        return named(cell.point, axes)

    @property
    def has_losses(self) -> bool:
        """Whether some members diverged or failed."""
        return any(member.is_lost for member in self.members)

    @property
    def has_gaps(self) -> bool:
        """Whether some cells lack a seed."""
        return not all(cell.is_whole for cell in self.ranking)

    @property
    def spread(self) -> str:
        """The meaning of the ± of scores; '' where there is none."""
        if all(math.isnan(cell.spread) for cell in self.ranking):
            return ""
        if self.num_seeds > 1:
            up_to = "up to " if self.has_gaps else ""
            return f"standard deviation over {up_to}{self.num_seeds} seeds"
        num_images = self.members[0].num_test_images
        if num_images == 1:
            return ""
        return f"standard error over {num_images:,.0f} test images, one seed"

    def spread_of(self, cell: Cell) -> str:
        """Returns the meaning of the ± of a cell's score; '' if it has none."""
        if math.isnan(cell.spread):
            return ""
        if self.num_seeds > 1:
            return f"standard deviation over {cell.num_seeds} seeds"
        return self.spread

    def number(self, cell: Cell) -> str:
        """Returns the score of a cell with its spread, without the unit."""
        if math.isnan(cell.mean):
            return cell.losses or "–"
        values = [cell.mean] if math.isnan(cell.spread) else [cell.mean, cell.spread]
        number = " ± ".join(f"{value:.{self.decimals}f}" for value in values)
        untrained = cell.all_seeds - len(cell.members)
        notes = [cell.losses, f"{untrained} not trained" if untrained else ""]
        return f"{number} ({', '.join(filter(None, notes))})" if any(notes) else number


def group_members(members: Iterable[Member]) -> list[Group]:
    """Returns the groups that have members."""
    by_key = collections.defaultdict(list)
    for member in members:
        view = "binary" if member.view == "binary" else "integers"
        by_key[view, member.condition_on].append(member)
    return [
        Group(
            f"{view}_by_{given}" if given else view,
            f"{title}, given the {given}" if given else title,
            unit,
            decimals,
            by_key[view, given],
        )
        for view, title, unit, decimals in (
            ("integers", "Integer images", "bits/dim", 3),
            ("binary", "Binary images", "nats", 2),
        )
        for given in ("", "label")
        if (view, given) in by_key
    ]


def best_of_each_likelihood(
    groups: Iterable[Group], runs: Sequence[Run]
) -> dict[Run, str]:
    """Returns the best run of each likelihood, and what it is in words.

    It is the run with the lowest score at the setting with the lowest mean. The
    likelihoods of a group come in the order of their scores.

    Args:
        groups: the groups, in the order of the report.
        runs: those of the configuration; others are not chosen.
    """
    by_name, found = {run.name: run for run in runs}, dict[Run, str]()
    for group in groups:
        known = set()
        for cell in group.ranking:
            own = [member for member in group.scored(cell) if member.run in by_name]
            if own and cell.point[LIKELIHOOD] not in known:
                known.add(cell.point[LIKELIHOOD])
                found[by_name[own[0].run]] = (
                    f"{group.full_name(cell)}, seed {own[0].seed}"
                )
    return found
