"""Rows of results as members of a sweep: numbers, place in the sweep, and doubts."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from experiments.evaluation.columns import RESULTS
from experiments.evaluation.status import LOST
from experiments.messages.wording import counted
from experiments.settings import grid
from experiments.settings.options import KINDS

MIN_EFFECTIVE_SAMPLE_SIZE = 10
MAX_LARGEST_WEIGHT = 0.5
LIKELIHOOD, LATENT_SIZE = "likelihood", "latent size"
_ALWAYS_TOLD = LIKELIHOOD, LATENT_SIZE
_PARTS = [*(kind for kind in KINDS if kind not in _ALWAYS_TOLD), "denoiser"]
_PROPER_NOUNS = {"bernoulli", "gaussian", "laplace"}

# A value on an axis of a sweep: a text, a number, or None where it is not known.
Value = Any


def density(condition_on: str) -> str:
    """Returns the probability that a score is of: p(x), or p(x|y) of a label y."""
    return "p(x|y)" if condition_on else "p(x)"


def quantity(density: str, *, is_bound: bool) -> str:
    """Returns the name of a score: minus log p(x), or the -ELBO in its place."""
    if not is_bound:
        return f"-log {density}"
    return "-ELBO" if density == "p(x)" else f"-ELBO of {density}"


@dataclasses.dataclass(frozen=True)
class Member:
    """A row of results, whose columns are attributes too.

    Attributes:
        row: value by column of ``results.csv``; a number that is missing is NaN, a text
            that is missing is ''.
        point: value by axis: the likelihood, the latent size, and each other axis of
            the sweep but the seed. Members with the same point differ in their seed.
    """

    row: Mapping[str, Any]
    point: Mapping[str, Value]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.row:
            raise AttributeError(name)
        return self.row[name]

    def content(self, column: str) -> Any:
        """Returns its value in a column of the report, or on an axis; '' for none."""
        value = self.point.get(column, self.row.get(column))
        return "" if value is None else value

    @property
    def setting(self) -> str:
        """Its values on the axes besides likelihood and latent size, in words."""
        return _setting(self.point, self.point)

    @property
    def kind(self) -> str:
        """Everything but the seed in words."""
        return named(self.point, self.point)

    @property
    def density(self) -> str:
        """The probability that its score is of."""
        return density(self.condition_on)

    @property
    def is_lost(self) -> bool:
        """Whether it diverged or failed: no mean contains it."""
        return self.status in LOST

    @property
    def is_weak(self) -> bool:
        """Whether its score rests on few importance weights.

        Then the bias that the weights show exceeds the standard error over images, or
        too few of them count to show a bias. Results of early versions have no bias.
        """
        return bool(
            self.effective_sample_size < MIN_EFFECTIVE_SAMPLE_SIZE
            or self.largest_weight > MAX_LARGEST_WEIGHT
            or self.importance_bias > self.log_px_se
        )

    @property
    def doubts(self) -> list[str]:
        """Reasons to doubt its score, in a few words each."""
        doubts = [self.status] if self.is_lost else []
        return doubts + ["few importance weights"] * self.is_weak


def members_of(
    rows: Iterable[Mapping[str, Any]],
    report: Callable[[str], object],
    config: Mapping[str, Any] | None = None,
) -> list[Member]:
    """Returns the members that rows of results describe.

    Args:
        rows: results of runs; a missing number is NaN, a missing text ''.
        report: takes a line on each row that is left out, because a value has the wrong
            type.
        config: the sweep's configuration, where runs find their value on an axis that
            their own grid does not have; None if it is not known.
    """
    read = []
    for row in rows:
        values = {}
        try:
            for column in RESULTS:
                values[column.name] = column.read(row)
        except (OverflowError, TypeError, ValueError):
            report(
                f"{row.get('run')!r} is left out of the report: its {column.name!r} is "
                f"{row.get(column.name)!r}, which is no {column.kind.__name__}; delete "
                "its folder in members/ and repeat the command that trained it."
            )
        else:
            read.append(values)
    configured: dict[str, Any] = {}
    for section in ("model", "training"):
        if isinstance(fields := (config or {}).get(section), Mapping):
            configured |= fields
    settings = [grid.setting(row["run"]) for row in read]
    axes = dict.fromkeys(axis for setting in settings for axis in setting)
    members = []
    for row, setting in zip(read, settings, strict=True):
        known = configured | row | setting
        own = {a: known.get(a) if grid.has_effect(a, known) else None for a in axes}
        point = {_words(axis): _value(value) for axis, value in own.items()}
        first = {LIKELIHOOD: row["likelihood"], LATENT_SIZE: row["latent_dim"]}
        members.append(Member(row, first | point))
    return members


def _words(axis: str) -> str:
    return "β" if axis == "beta" else axis.replace("_", " ")


def _value(value: Any) -> Value:
    """Returns a value on an axis as a number, or else in words; None if not known."""
    if value is None or value != value:
        return None
    parts = value if isinstance(value, list | tuple) else [value]
    text = "x".join(map(str, parts)).replace("_", " ")
    for kind in (int, float):
        try:
            number: int | float = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    return text


def value_label(axis: str, value: Value) -> str:
    """Returns a value on an axis for a reader."""
    if value is None:
        return "–"
    if axis == "noise steps" and value == 0:
        return "∞"
    return str(value) or "none"


def likelihood_label(name: str) -> str:
    """Returns the name of a likelihood for a reader."""
    return " ".join(
        word.capitalize() if word in _PROPER_NOUNS else word for word in name.split("_")
    )


def named(point: Mapping[str, Value], axes: Collection[str]) -> str:
    """Returns what a model is, in words.

    Args:
        point: its value on each axis.
        axes: those to mention. If none is to be mentioned, all are.
    """
    axes = axes or point
    words = []
    if LIKELIHOOD in axes:
        words.append(likelihood_label(str(point[LIKELIHOOD])))
    if LATENT_SIZE in axes:
        words.append(counted(point[LATENT_SIZE], "latent"))
    return ", ".join(filter(None, [" with ".join(words), _setting(point, axes)]))


def _setting(point: Mapping[str, Value], axes: Collection[str]) -> str:
    """Returns the known values on axes in words, without likelihood and latent size."""
    return ", ".join(
        f"{axis} = {value_label(axis, value)}"
        for axis, value in point.items()
        if axis in axes and axis not in (LIKELIHOOD, LATENT_SIZE) and value is not None
    )


def varying(members: Iterable[Member]) -> list[str]:
    """Returns the axes on which members differ."""
    values: dict[str, set[Value]] = {}
    for member in members:
        for axis, value in member.point.items():
            values.setdefault(axis, set()).add(value)
    return [axis for axis, found in values.items() if len(found) > 1]


def telling(members: Sequence[Member]) -> list[str]:
    """Returns axes that tell all settings of members apart.

    The grids of a sweep often change several axes at once, and some of them then follow
    from others. They are left out: first options, the last one first, then parts.
    Likelihood and latent size stay where they vary, and each member has a value on one
    of the axes, which names it.
    """
    found = varying(members)
    parts = [name for name in _PARTS if name in found]
    options = [name for name in found if name not in (*_PARTS, *_ALWAYS_TOLD)]
    count = len({tuple(member.point.values()) for member in members})
    for axis in reversed([*parts, *options]):
        rest = [other for other in found if other != axis]
        points = {tuple(member.point[name] for name in rest) for member in members}
        if len(points) == count and (None,) * len(rest) not in points:
            found = rest
    return found
