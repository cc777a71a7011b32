"""What a table of results says: groups, averages over seeds, and plain sentences.

Members that describe the same random variable form a group: the binary images, scored
in nats, or the integers, scored in bits/dim. Scores are compared within a group only.
"""

import collections
import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from experiments.evaluation.status import LOST
from experiments.messages.wording import counted, listed
from experiments.report import leads
from experiments.settings import grid

_MIN_EFFECTIVE_SAMPLE_SIZE = 10
_MAX_LARGEST_WEIGHT = 0.5
_MAX_DENSITY_ERROR = 0.1
_MAX_NAMED = 3
# By field of a cell, what cells that differ in it are called.
_RIVALS = {
    "likelihood": "likelihood",
    "setting": "setting",
    "latent_dim": "latent size",
}
_LACKING = "a seed failed, diverged or was not trained"
_PROPER_NOUNS = {"bernoulli", "gaussian", "laplace"}


@dataclasses.dataclass(frozen=True)
class Member:
    """A row of results; a number that is missing there is NaN here."""

    run: str
    dataset: str
    likelihood: str
    latent_dim: int
    beta: float
    seed: int
    view: str
    score: float
    score_se: float
    rate: float
    distortion: float
    num_importance_samples: float
    effective_sample_size: float
    largest_weight: float
    importance_bias: float
    log_px_se: float
    mean_squared_error: float
    active_units: float
    mutual_information: float
    marginal_kl: float
    density_error: float
    latents: str
    linear_probe: float
    best_epoch: float
    epochs: float
    status: str
    num_parameters: float
    num_test_images: float
    binarization: str
    binarization_seed: str
    seconds: float

    @functools.cached_property
    def axes(self) -> dict[str, str]:
        """Value by axis of its sweep besides likelihood, latent size and seed."""
        return {
            "β" if axis == "beta" else axis.replace("_", " "): value.replace("_", " ")
            for axis, value in grid.setting(self.run).items()
        }

    @functools.cached_property
    def setting(self) -> str:
        """What the sweep sets besides, in words; '' where it has no other axes."""
        return described(self.axes)

    @property
    def kind(self) -> str:
        """Everything but the seed in words."""
        latents = counted(self.latent_dim, "latent")
        kind = f"{likelihood_label(self.likelihood)} with {latents}"
        return ", ".join(filter(None, [kind, self.setting]))

    @property
    def is_lost(self) -> bool:
        """Whether it diverged or failed: it enters no mean, and leads nothing."""
        return self.status in LOST

    @property
    def is_weak(self) -> bool:
        """Whether the estimate of its log-likelihood rests on few weights."""
        return rests_on_few_weights(vars(self))

    @property
    def doubts(self) -> list[str]:
        """What should make a reader doubt its score, in a few words each."""
        doubts = [self.status] if self.is_lost else []
        return doubts + ["few importance weights"] * self.is_weak


class Cell(NamedTuple):
    """One number for members that differ in their seed only.

    Attributes:
        likelihood: name of the likelihood.
        latent_dim: number of latent variables.
        setting: what else the members share, in words.
        members: at least one, by seed.
        mean: mean over the members with a finite value that did not fail; NaN if there
            is none.
        spread: half-width of the error bar, in the unit of mean; NaN if unknown.
        num_seeds: number of members that it is a mean over.
        all_seeds: number of seeds in its group.
    """

    likelihood: str
    latent_dim: int
    setting: str
    members: Sequence[Member]
    mean: float
    spread: float
    num_seeds: int
    all_seeds: int

    @property
    def is_whole(self) -> bool:
        """Whether no seed is missing in the mean: else it is one of some seeds."""
        return self.num_seeds >= self.all_seeds

    @property
    def losses(self) -> str:
        """How many of its members failed or diverged, in words; '' where none did."""
        counts = collections.Counter(m.status for m in self.members if m.is_lost)
        if len(self.members) == 1:
            return "".join(counts)
        return ", ".join(f"{count} {status}" for status, count in counts.items())


@dataclasses.dataclass(frozen=True)
class Group:
    """Members whose scores can be ranked against each other.

    Attributes:
        key: part of file names and links.
        title: what is modelled.
        unit: unit of the score.
        decimals: number of decimals that a score is printed with.
        members: at least one.
    """

    key: str
    title: str
    unit: str
    decimals: int
    members: Sequence[Member]

    @property
    def settings(self) -> list[str]:
        """The settings that occur, in the order of the sweep."""
        return list(dict.fromkeys(member.setting for member in self.members))

    @property
    def likelihoods(self) -> list[str]:
        """The likelihoods that occur, that of the best cell first."""
        return list(dict.fromkeys(cell.likelihood for cell in self.ranking()))

    @property
    def latent_dims(self) -> list[int]:
        """The latent sizes that occur, sorted."""
        return sorted({member.latent_dim for member in self.members})

    @functools.cached_property
    def num_seeds(self) -> int:
        """Number of seeds that occur."""
        return len({member.seed for member in self.members})

    @functools.cached_property
    def _by_setting(self) -> dict[str, dict[tuple[str, int], list[Member]]]:
        """Members by setting, by likelihood and latent size, in the order of seeds."""
        found: dict[str, dict[tuple[str, int], list[Member]]] = {}
        for member in sorted(self.members, key=lambda member: member.seed):
            kinds = found.setdefault(member.setting, {})
            kinds.setdefault((member.likelihood, member.latent_dim), []).append(member)
        return found

    @property
    def upper_bounds(self) -> set[str]:
        """Likelihoods whose score is an upper bound, from a density."""
        return {m.likelihood for m in self.members if m.view == "continuous"}

    def label(self, likelihood: str) -> str:
        """Returns the name of a likelihood; † marks those that give upper bounds."""
        mark = " †" if likelihood in self.upper_bounds else ""
        return likelihood_label(likelihood) + mark

    @property
    def has_losses(self) -> bool:
        """Whether some members diverged or failed."""
        return any(member.is_lost for member in self.members)

    @property
    def has_gaps(self) -> bool:
        """Whether some cells lack a seed."""
        return not all(cell.is_whole for cell in self.ranking())

    @property
    def spread(self) -> str:
        """What stands behind the ± of scores; '' where there is none."""
        if self.num_seeds > 1:
            up_to = "up to " if self.has_gaps else ""
            return f"standard deviation over {up_to}{self.num_seeds} seeds"
        num_images = self.members[0].num_test_images
        if num_images == 1:
            return ""
        return f"standard error over {num_images:,.0f} test images, one seed"

    def spread_of(self, cell: Cell) -> str:
        """Returns what stands behind the ± of a cell's score; '' where none stands."""
        if math.isnan(cell.spread):
            return ""
        if self.num_seeds > 1:
            return f"standard deviation over {cell.num_seeds} seeds"
        return self.spread

    def cells(self, setting: str, field: str = "score") -> list[Cell]:
        """Returns mean and spread of a field by likelihood and latent size.

        The spread is the standard deviation over seeds. If the group has one seed, that
        of the score is the standard error over test images.
        """
        cells = []
        for (likelihood, latent_dim), members in self._by_setting[setting].items():
            values = [getattr(m, field) for m in members if not m.is_lost]
            finite = [value for value in values if math.isfinite(value)]
            mean = statistics.fmean(finite) if finite else math.nan
            spread = math.nan
            if len(finite) > 1:
                spread = statistics.stdev(finite)
            elif finite and self.num_seeds == 1 and field == "score":
                spread = members[0].score_se
            cells.append(
                Cell(
                    likelihood,
                    latent_dim,
                    setting,
                    members,
                    mean,
                    spread,
                    len(finite),
                    self.num_seeds,
                )
            )
        return cells

    def ranking(self) -> list[Cell]:
        """Returns the scores of all settings, lowest first.

        Cells of which a seed is missing come after those of which none is, and cells
        without a score last.
        """
        return sorted(
            (cell for setting in self.settings for cell in self.cells(setting)),
            key=lambda cell: (math.isnan(cell.mean), not cell.is_whole, cell.mean),
        )

    def number(self, cell: Cell) -> str:
        """Returns the score of a cell with its spread, without the unit."""
        if math.isnan(cell.mean):
            return cell.losses or "–"
        values = [cell.mean] if math.isnan(cell.spread) else [cell.mean, cell.spread]
        number = " ± ".join(f"{value:.{self.decimals}f}" for value in values)
        untrained = cell.all_seeds - len(cell.members)
        notes = [cell.losses, f"{untrained} not trained" if untrained else ""]
        return f"{number} ({', '.join(filter(None, notes))})" if any(notes) else number

    def contest(self) -> "Contest":
        """Returns what is compared first: likelihoods, else settings, else sizes."""
        ranking = self.ranking()
        field = next(
            (f for f in _RIVALS if len({getattr(cell, f) for cell in ranking}) > 1),
            "likelihood",
        )
        by_rival = collections.defaultdict(list)
        for cell in ranking:
            by_rival[getattr(cell, field)].append(cell)
        best = [cells[0] for cells in by_rival.values()]
        return Contest(
            _RIVALS[field],
            [cell for cell in best if cell.is_whole],
            max(map(len, by_rival.values())),
        )


class Contest(NamedTuple):
    """What is compared with each other.

    Attributes:
        noun: what the rivals are.
        rivals: the lowest cell of each, lowest first, where no seed is missing in it.
        choices: of so many cells each is the lowest, at most.
    """

    noun: str
    rivals: Sequence[Cell]
    choices: int


def members_of(
    rows: Iterable[Mapping[str, Any]], report: Callable[[str], object]
) -> list[Member]:
    """Returns the members that rows of results describe.

    Args:
        rows: results of runs. A number that is missing is NaN, a text is empty.
        report: is given a line on every row with a field of another type, which is
            left out.
    """
    missing = {str: "", int: None, float: math.nan}
    members = []
    for row in rows:
        fields: dict[str, Any] = {}
        try:
            for name, kind in get_type_hints(Member).items():
                fields[name] = kind(row.get(name, missing[kind]))
        except (OverflowError, TypeError, ValueError):
            report(
                f"{row.get('run')!r} is left out of the report: its {name!r} is "
                f"{row.get(name)!r}, where {kind.__name__} is expected; delete its "
                "folder in members/ and repeat the command that trained it."
            )
        else:
            members.append(Member(**fields))
    return members


def rests_on_few_weights(row: Mapping[str, Any]) -> bool:
    """Whether importance weights are too uneven for their estimate to be trusted.

    So it is where the bias that they show exceeds the standard error over images, and
    where so few of them count that they cannot show it.

    Args:
        row: a row of results; those of earlier versions have no bias.
    """
    return (
        row["effective_sample_size"] < _MIN_EFFECTIVE_SAMPLE_SIZE
        or row["largest_weight"] > _MAX_LARGEST_WEIGHT
        or row.get("importance_bias", math.nan) > row["log_px_se"]
    )


def group_members(members: Iterable[Member]) -> list[Group]:
    """Returns the groups that have members."""
    by_key = collections.defaultdict(list)
    for member in members:
        by_key["binary" if member.view == "binary" else "integers"].append(member)
    return [
        Group(key, title, unit, decimals, by_key[key])
        for key, title, unit, decimals in (
            ("integers", "Integer images", "bits/dim", 3),
            ("binary", "Binary images", "nats", 2),
        )
        if key in by_key
    ]


def likelihood_label(name: str) -> str:
    """Returns the name of a likelihood for a reader."""
    return " ".join(
        word.capitalize() if word in _PROPER_NOUNS else word for word in name.split("_")
    )


def described(axes: Mapping[str, str]) -> str:
    """Returns values by axis in words."""
    return ", ".join(f"{axis} = {value}" for axis, value in axes.items())


def axes_of(members: Iterable[Member]) -> list[str]:
    """Returns the axes that occur, besides likelihood, latent size and seed."""
    return list(dict.fromkeys(axis for member in members for axis in member.axes))


def overview(members: Sequence[Member]) -> list[str]:
    """Returns sentences on what was trained and how training ended."""
    if len(members) == 1:
        member = members[0]
        return [
            f"One model: {member.kind}, seed {member.seed},"
            f" {counted(round(member.epochs), 'epoch')}."
        ]
    likelihoods = {member.likelihood for member in members}
    axes, size = [counted(len(likelihoods), "likelihood")], len(likelihoods)
    swept = {
        axis: dict.fromkeys(m.axes[axis] for m in members if axis in m.axes)
        for axis in axes_of(members)
    }
    for noun, values in (
        ("latent size", sorted({member.latent_dim for member in members})),
        *((f"{axis} value", values) for axis, values in swept.items()),
        ("seed", sorted({member.seed for member in members})),
    ):
        text = ", ".join(map(str, values))
        axes.append(f"{counted(len(values), noun)} ({text})")
        size *= len(values)
    # Grids of different axes, united, are no product.
    is_grid = all(member.axes.keys() == swept.keys() for member in members)
    counts = collections.Counter(member.status for member in members)
    endings = ", ".join(f"{status} ({count})" for status, count in counts.most_common())
    of_size = f" of {size}" if is_grid and size > len(members) else ""
    sentences = [
        f"{len(members)}{of_size} models: {(' × ' if is_grid else '; ').join(axes)}.",
        f"How training ended: {endings}.",
    ]
    if "num epochs" not in swept:
        sentences.append(
            "Whether more epochs would gain anything cannot be told from a run that has"
            " ended: sweep num_epochs with one likelihood and several seeds, and see"
            " which leads."
        )
    return sentences


# Scores of test images by member, smaller is better; None where they cannot be read.
Scores = Callable[[Member], np.ndarray | None]


def find(group: Group, scores: Scores, tests: int = 1) -> list[str]:
    """Returns sentences on what models images best, and on whether chance did it.

    Args:
        group: the members.
        scores: gives those of the test images, in their order.
        tests: in so many groups of the report a lead is looked for.
    """
    ranking = [cell for cell in group.ranking() if math.isfinite(cell.mean)]
    whole = [cell for cell in ranking if cell.is_whole]
    if not whole:
        return [f"No lead: of every kind of model, {_LACKING}."]
    sentences = []
    leader = whole[0]
    if len(group.members) > 1 and any(member.is_weak for member in leader.members):
        sentences.append("Its estimate rests on few importance weights.")
    contest = group.contest()
    if len(contest.rivals) > 1:
        sentences.append(_lead(group, contest, scores, tests))
    if lower := [cell for cell in ranking if cell.mean < leader.mean]:
        names = [f"{cell.members[0].kind} ({group.number(cell)})" for cell in lower]
        sentences.append(
            f"Lower means do not lead where {_LACKING}: {listed(names, '; ')}."
        )
    if clauses := _described(group, whole):
        sentences.append(f"Not tested, and part of it chance: {'; '.join(clauses)}.")
    return sentences


def _described(group: Group, cells: Sequence[Cell]) -> list[str]:
    """Clauses on cells, lowest mean first, that claim no lead."""
    by_line, by_likelihood = (collections.defaultdict(list) for _ in range(2))
    for cell in cells:
        by_line[cell.likelihood, cell.setting].append(cell)
        by_likelihood[cell.likelihood].append(cell)
    clauses = []
    lines = [cells for cells in by_line.values() if cells[0].mean < cells[-1].mean]
    if lines:
        favourites = collections.Counter(cells[0].latent_dim for cells in lines)
        favourite, count = favourites.most_common(1)[0]
        fall = statistics.median(cells[-1].mean - cells[0].mean for cells in lines)
        falls = f"{fall:.{group.decimals}f} {group.unit}"
        lines_are = "likelihoods" if len(group.settings) == 1 else "rows of the tables"
        clauses.append(
            f"latent size {favourite} has the lowest mean for {count} of {len(lines)}"
            f" {lines_are}, {falls} below the highest (median)"
            if len(lines) > 1
            else f"the mean falls by {falls} from latent size {lines[0][-1].latent_dim}"
            f" to {favourite}"
        )
    if len(by_likelihood) > 2:
        lowest, *_, highest = (cells[0] for cells in by_likelihood.values())
        clauses.append(
            f"each at its lowest, the likelihoods' means differ by"
            f" {highest.mean - lowest.mean:.{group.decimals}f} {group.unit} from"
            f" {likelihood_label(lowest.likelihood)} to"
            f" {likelihood_label(highest.likelihood)}"
        )
    return clauses


def _lead(group: Group, contest: Contest, scores: Scores, tests: int) -> str:
    """A sentence on how far the best is ahead of the next one, and on the doubt."""
    leader, other = contest.rivals[:2]
    next_one = (
        f"The next {contest.noun} is {other.members[0].kind}, at"
        f" {group.number(other)} {group.unit}"
    )
    pairs = _paired(leader, other, scores)
    if pairs is None:
        return (
            f"{next_one}; whether they differ is not known, as their scores of the same"
            " test images and seeds cannot be read."
        )
    num_seeds, num_images = pairs[0].shape
    if num_images == 1:
        return (
            f"{next_one}; one test image does not tell whether they differ on others."
        )
    if np.array_equal(*pairs):
        return f"{next_one}: the scores of every test image are equal."
    found = leads.compare(*pairs, choices=contest.choices, tests=tests)
    decimals = group.decimals
    if found.error > 0:  # Two digits of the error.
        decimals = max(decimals, 1 - math.floor(math.log10(found.error)))
    difference, error, detectable = (
        f"{value:.{decimals}f}"
        for value in (found.difference, found.error, found.detectable)
    )
    behind = (
        f"{difference} ± {error} {group.unit} (standard error, paired over"
        f" {counted(num_images, 'test image')} and {counted(num_seeds, 'seed')})"
    )
    if num_seeds == 1:
        return (
            f"{next_one}: these two trained models differ by {behind}, which says"
            f" nothing of the {contest.noun}s: another seed may change their order."
        )
    verdict = "no clear lead"
    if found.is_clear:
        verdict = f"a lead (at most {leads.LEVEL:.0%} of reports call a false one)"
        if doubts := _doubts_of_rival(group, other):
            verdict += f", though the score of the next one {' and '.join(doubts)}"
    return (
        f"{next_one}, behind by {behind}: {verdict}. A true difference of"
        f" {detectable} {group.unit} would be called in {leads.POWER:.0%} of such"
        " sweeps."
    )


def _doubts_of_rival(group: Group, cell: Cell) -> list[str]:
    """What may make a score larger than it should be, besides chance."""
    doubts = []
    if cell.likelihood in group.upper_bounds:
        doubts.append("is an upper bound")
    if any(member.is_weak for member in cell.members):
        doubts.append("rests on few importance weights")
    return doubts


def _paired(
    leader: Cell, other: Cell, scores: Scores
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores of two cells, ``[seeds, images]``, of the seeds that both have."""
    by_seed = [{m.seed: m for m in cell.members} for cell in (leader, other)]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    pair = []
    for members in by_seed:
        rows = [row for seed in seeds if (row := scores(members[seed])) is not None]
        if len(rows) < len(seeds):
            return None
        pair.append(rows)
    sizes = {len(row) for rows in pair for row in rows}
    if len(sizes) != 1:
        return None
    return np.stack(pair[0]), np.stack(pair[1])


def lost(members: Sequence[Member]) -> list[str]:
    """Returns sentences on models whose training came to nothing."""
    return _told(
        {
            f"{status} ({meaning})": [m for m in members if m.status == status]
            for status, meaning in LOST.items()
        },
        len(members),
    )


def warn(members: Sequence[Member]) -> list[str]:
    """Returns sentences on what should make a reader doubt some of the numbers."""
    doubts = {
        "collapsed (less than one bit about an image in the latents)": [
            member for member in members if member.latents == "collapsed"
        ],
        "got a score that rests on few importance weights (effective sample size"
        f" below {_MIN_EFFECTIVE_SAMPLE_SIZE}, a weight above {_MAX_LARGEST_WEIGHT} or"
        " a bias above the standard error) and may be better than it says": [
            member for member in members if member.is_weak
        ],
        "got a posterior so far from the identity that rounding loses its density by"
        f" more than {_MAX_DENSITY_ERROR} nats: information and marginal KL, though not"
        " the score, are wrong by as much": [
            member for member in members if member.density_error > _MAX_DENSITY_ERROR
        ],
    }
    return _told(doubts, len(members))


def _told(doubts: Mapping[str, Sequence[Member]], total: int) -> list[str]:
    """Sentences on what happened to some of the members."""
    return [
        f"The model {happened}."
        if total == 1
        else f"{len(some)} of {total} models {happened}: {_which(some)}."
        for happened, some in doubts.items()
        if some
    ]


def _which(members: Sequence[Member]) -> str:
    """Returns what members are, in few words: a few kinds, or counts by latent size."""
    kinds = dict.fromkeys(member.kind for member in members)
    if len(kinds) <= _MAX_NAMED:
        return "; ".join(kinds)
    sizes = collections.Counter(member.latent_dim for member in members)
    if len(sizes) == 1:
        return listed(list(kinds), "; ")
    return ", ".join(
        f"{count} with {counted(size, 'latent')}"
        for size, count in sorted(sizes.items())
    )
