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

from experiments import grid
from experiments.wording import counted

_MIN_EFFECTIVE_SAMPLE_SIZE = 10
_MAX_LARGEST_WEIGHT = 0.5
_MAX_NAMED = 3
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
    def is_weak(self) -> bool:
        """Whether the estimate of its log-likelihood rests on few weights."""
        return rests_on_few_weights(vars(self))

    @property
    def doubts(self) -> list[str]:
        """What should make a reader doubt its score, in a few words each."""
        doubts = [] if self.status == "settled" else [self.status]
        return doubts + ["few importance weights"] * self.is_weak


class Cell(NamedTuple):
    """One number for members that differ in their seed only.

    Attributes:
        likelihood: name of the likelihood.
        latent_dim: number of latent variables.
        setting: what else the members share, in words.
        members: at least one, by seed.
        mean: mean over the members with a finite value; NaN if there is none.
        spread: half-width of the error bar, in the unit of mean; NaN if unknown.
        num_seeds: number of members with a finite value.
    """

    likelihood: str
    latent_dim: int
    setting: str
    members: Sequence[Member]
    mean: float
    spread: float
    num_seeds: int


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

    @property
    def num_seeds(self) -> int:
        """Number of seeds that occur."""
        return len({member.seed for member in self.members})

    @property
    def upper_bounds(self) -> set[str]:
        """Likelihoods whose score is an upper bound, from a density."""
        return {m.likelihood for m in self.members if m.view == "continuous"}

    @property
    def lacks_scores(self) -> bool:
        """Whether some members have no score."""
        return any(math.isnan(member.score) for member in self.members)

    @property
    def spread(self) -> str:
        """What stands behind the ± of a score."""
        if self.num_seeds > 1:
            return f"standard deviation over {self.num_seeds} seeds"
        num_images = self.members[0].num_test_images
        return f"standard error over {num_images:,.0f} test images, one seed"

    def cells(self, setting: str, field: str = "score") -> list[Cell]:
        """Returns mean and spread of a field by likelihood and latent size.

        The spread is the standard deviation over seeds. If the group has one seed, that
        of the score is the standard error over test images.
        """
        by_kind = collections.defaultdict(list)
        for member in sorted(self.members, key=lambda member: member.seed):
            if member.setting == setting:
                by_kind[member.likelihood, member.latent_dim].append(member)
        cells = []
        for (likelihood, latent_dim), members in by_kind.items():
            values = [getattr(member, field) for member in members]
            finite = [value for value in values if math.isfinite(value)]
            mean = statistics.fmean(finite) if finite else math.nan
            spread = math.nan
            if len(finite) > 1:
                spread = statistics.stdev(finite)
            elif finite and self.num_seeds == 1 and field == "score":
                spread = members[0].score_se
            cells.append(
                Cell(
                    likelihood, latent_dim, setting, members, mean, spread, len(finite)
                )
            )
        return cells

    def ranking(self) -> list[Cell]:
        """Returns the scores of all settings, best first, those without one last."""
        return sorted(
            (cell for setting in self.settings for cell in self.cells(setting)),
            key=lambda cell: (math.isnan(cell.mean), cell.mean),
        )

    def number(self, cell: Cell) -> str:
        """Returns the score of a cell with its spread, without the unit."""
        if math.isnan(cell.mean):
            return "–"
        values = [cell.mean] if math.isnan(cell.spread) else [cell.mean, cell.spread]
        return " ± ".join(f"{value:.{self.decimals}f}" for value in values)


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


def overview(members: Sequence[Member]) -> list[str]:
    """Returns sentences on what was trained and how many settled."""
    if len(members) == 1:
        member = members[0]
        return [
            f"One model: {member.kind}, seed {member.seed}, {member.epochs:.0f} epochs."
        ]
    axes = [counted(len({m.likelihood for m in members}), "likelihood")]
    for noun, values in (
        ("latent size", sorted({member.latent_dim for member in members})),
        *(
            (f"{axis} value", dict.fromkeys(member.axes[axis] for member in members))
            for axis in members[0].axes
        ),
        ("seed", sorted({member.seed for member in members})),
    ):
        text = ", ".join(map(str, values))
        axes.append(f"{counted(len(values), noun)} ({text})")
    total = len(members)
    settled = sum(member.status == "settled" for member in members)
    return [
        f"{total} models: {' × '.join(axes)}.",
        "Settled (in the last fifth of its epochs, the best validation bound rose by"
        " less than the standard error of the ELBO over test images; or patience ran"
        " out):"
        f" {settled} of {total}.",
    ]


def find(group: Group) -> list[str]:
    """Returns sentences on which likelihood and which latent size model images best."""
    ranking = [cell for cell in group.ranking() if math.isfinite(cell.mean)]
    if not ranking:
        return ["No model has a score."]
    by_likelihood: dict[str, Cell] = {}
    by_line = collections.defaultdict(list)
    for cell in ranking:
        by_likelihood.setdefault(cell.likelihood, cell)
        by_line[cell.likelihood, cell.setting].append(cell)
    leader, *others = by_likelihood.values()
    sentences = []
    if len(group.members) > 1 and any(member.is_weak for member in leader.members):
        sentences.append("Its estimate rests on few importance weights.")
    if others:
        sentences.append(
            f"The next likelihood is {others[0].members[0].kind}, at"
            f" {group.number(others[0])} {group.unit}"
            f"{_doubt_of_lead(group, leader, others[0])}."
        )
    lines = [cells for cells in by_line.values() if len(cells) > 1]
    if lines:
        favourites = collections.Counter(cells[0].latent_dim for cells in lines)
        favourite, count = favourites.most_common(1)[0]
        gain = statistics.median(cells[-1].mean - cells[0].mean for cells in lines)
        lines_are = "likelihoods" if len(group.settings) == 1 else "rows of the tables"
        sentences.append(
            f"Latent size {favourite} is the best for {count} of {len(lines)}"
            f" {lines_are}; from the worst to the best latent size, the score falls by"
            f" {gain:.{group.decimals}f} {group.unit} (median)."
            if len(lines) > 1
            else f"The score falls by {gain:.{group.decimals}f} {group.unit} from the"
            f" worst latent size ({lines[0][-1].latent_dim}) to the best ({favourite})."
        )
    if len(others) > 1:
        sentences.append(
            "Each at its best, the likelihoods differ by"
            f" {others[-1].mean - leader.mean:.{group.decimals}f} {group.unit} from"
            f" {likelihood_label(leader.likelihood)} to"
            f" {likelihood_label(others[-1].likelihood)}."
        )
    return sentences


def _doubt_of_lead(group: Group, leader: Cell, other: Cell) -> str:
    spread = math.hypot(leader.spread, other.spread)
    if math.isnan(spread):
        return "; without a spread over seeds, whether they differ is not known"
    if other.mean - leader.mean <= spread:
        return f": no clear difference, given the {group.spread}"
    return ""


def warn(members: Sequence[Member]) -> list[str]:
    """Returns sentences on what should make a reader doubt some of the numbers."""
    doubts = {
        "diverged; means over seeds leave out what has no score": [
            member for member in members if member.status == "diverged"
        ],
        "stopped at the epoch limit and may have improved further": [
            member for member in members if member.status == "epoch limit"
        ],
        "collapsed (less than one bit about an image in the latents)": [
            member for member in members if member.latents == "collapsed"
        ],
        "got a score that rests on few importance weights (effective sample size"
        f" below {_MIN_EFFECTIVE_SAMPLE_SIZE}, a weight above {_MAX_LARGEST_WEIGHT} or"
        " a bias above the standard error) and may be better than it says": [
            member for member in members if member.is_weak
        ],
    }
    return [
        f"The model {happened}."
        if len(members) == 1
        else f"{len(some)} of {len(members)} models {happened}: {_which(some)}."
        for happened, some in doubts.items()
        if some
    ]


def _which(members: Sequence[Member]) -> str:
    """Returns what members are, in few words: a few kinds, or counts by latent size."""
    kinds = dict.fromkeys(member.kind for member in members)
    if len(kinds) <= _MAX_NAMED:
        return "; ".join(kinds)
    sizes = collections.Counter(member.latent_dim for member in members)
    return ", ".join(
        f"{count} with {counted(size, 'latent')}"
        for size, count in sorted(sizes.items())
    )
