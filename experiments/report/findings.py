"""Sentences on the results of a sweep, in plain words."""

import collections
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.evaluation.status import LOST
from experiments.messages.wording import counted, listed
from experiments.report import comparison
from experiments.report.comparison import Comparison
from experiments.report.groups import Axis, Cell, Group
from experiments.report.members import (
    LATENT_SIZE,
    LIKELIHOOD,
    MAX_LARGEST_WEIGHT,
    MIN_EFFECTIVE_SAMPLE_SIZE,
    Member,
    named,
    telling,
    value_label,
    varying,
)
from experiments.report.scores import Scores, paired
from experiments.settings import grid

_MAX_DENSITY_ERROR = 0.1
_MAX_NAMED = 3
_MOST_DISTANCES = 10
_LACKING = "a seed failed, diverged or was not trained"


class Contest(NamedTuple):
    """The models that are compared first.

    Attributes:
        noun: the axis or axes on which the rivals differ, in words.
        rivals: the lowest cell of each, lowest first, if no seed is missing in it.
        choices: each rival is the lowest of at most so many cells.
    """

    noun: str
    rivals: Sequence[Cell]
    choices: int


def contest(group: Group) -> Contest:
    """Returns the comparison of a group's likelihoods.

    If there is one likelihood, models are compared that differ on the sweep's other
    axes, and if there are none, the latent sizes.
    """
    axes = [axis.name for axis in group.telling if axis.name != LATENT_SIZE]
    if LIKELIHOOD in axes:
        axes = [LIKELIHOOD]
    axes = axes or [LATENT_SIZE]
    noun = axes[0] if len(axes) == 1 else "setting"
    by_rival = collections.defaultdict(list)
    for cell in group.ranking:
        by_rival[tuple(cell.point[axis] for axis in axes)].append(cell)
    best = [cells[0] for cells in by_rival.values()]
    return Contest(
        noun,
        [cell for cell in best if cell.is_whole],
        max(map(len, by_rival.values())),
    )


def overview(members: Sequence[Member]) -> list[str]:
    """Returns sentences on what was trained and how training ended."""
    first = members[0]
    if len(members) == 1:
        epochs = counted(round(first.epochs), "epoch")
        return [f"One model: {first.kind}, seed {first.seed}, {epochs}."]
    differ = varying(members)
    same = [axis for axis in first.point if axis not in differ]
    counts, size = [], 1
    for axis in (*differ, "seed"):
        found = [m.seed if axis == "seed" else m.point[axis] for m in members]
        values = [value for value in dict.fromkeys(found) if value is not None]
        if not any(isinstance(value, str) for value in values):
            values.sort()
        labels = ", ".join(value_label(axis, value) for value in values)
        names = f" ({labels})" if axis != LIKELIHOOD else ""
        counts.append(_counted(len(values), axis) + names)
        size *= len(values)
    # A union of grids with different axes is no product.
    is_grid = len({tuple(grid.setting(member.run)) for member in members}) == 1
    of_size = f" of {size}" if is_grid and size > len(members) else ""
    product = (" × " if is_grid else "; ").join(counts)
    sentences = [f"{len(members)}{of_size} models: {product}."]
    if same:
        verb = "are" if LIKELIHOOD in same else "have"
        sentences.append(f"All {verb} {named(first.point, same)}.")
    endings = collections.Counter(member.status for member in members).most_common()
    words = ", ".join(f"{status} ({count})" for status, count in endings)
    sentences.append(f"How training ended: {words}.")
    if "num epochs" not in differ:
        sentences.append(
            "A finished run cannot tell whether more epochs would improve it: sweep"
            " num_epochs with one likelihood and several seeds, and compare."
        )
    return sentences


def _counted(count: int, axis: str) -> str:
    """Returns a number of values on an axis, in words."""
    if axis in (LIKELIHOOD, LATENT_SIZE, "seed"):
        return counted(count, axis)
    return f"{counted(count, 'value')} of {axis}"


def find(group: Group, scores: Scores, tests: int = 1) -> list[str]:
    """Returns sentences on the best model, and on whether chance made it the best.

    Args:
        group: the members.
        scores: gives those of the test images, in their order.
        tests: number of groups in the report in which the best is compared.
    """
    best = group.best
    if best is None:
        return [f"No model is called best: of every kind of model, {_LACKING}."]
    sentences = []
    weak = group.measure == "score" and any(m.is_weak for m in best.members)
    if len(group.members) > 1 and weak:
        sentences.append("The best score rests on few importance weights.")
    rivals = contest(group)
    if len(rivals.rivals) > 1:
        sentences.append(_comparison(group, rivals, scores, tests))
    ranking = [cell for cell in group.ranking if math.isfinite(cell.mean)]
    if lower := [cell for cell in ranking if cell.mean < best.mean]:
        names = [f"{group.name(cell)} ({group.number(cell)})" for cell in lower]
        sentences.append(
            f"Lower means are not called best where {_LACKING}: {listed(names, '; ')}."
        )
    whole = [cell for cell in ranking if cell.is_whole]
    clauses = [
        _best_number(group, axis, whole)
        if axis.is_number
        else _range_of_texts(group, axis, whole, rivals.noun)
        for axis in group.telling
    ]
    if told := "; ".join(filter(None, clauses)):
        sentences.append(f"Not tested, and partly due to chance: {told}.")
    if group.implied and (told or len(rivals.rivals) > 1):
        implied = ", ".join(axis.name for axis in group.implied)
        sentences.append(f"Other axes change with these: {implied}.")
    return sentences


def _best_number(group: Group, axis: Axis, ranking: Sequence[Cell]) -> str:
    """Returns a clause on the number that has the lowest means; '' if all are equal."""
    others = [other for other in group.telling if other != axis]
    by_line = collections.defaultdict(list)
    for cell in ranking:
        by_line[tuple(cell.point[other.name] for other in others)].append(cell)
    lines = [cells for cells in by_line.values() if cells[0].mean < cells[-1].mean]
    if not lines:
        return ""
    favourites = collections.Counter(cells[0].point[axis.name] for cells in lines)
    favourite, count = favourites.most_common(1)[0]
    fall = statistics.median(cells[-1].mean - cells[0].mean for cells in lines)
    falls = f"{fall:.{group.decimals}f} {group.unit}"
    if len(lines) == 1:
        highest = lines[0][-1].point[axis.name]
        return f"the mean falls by {falls} from {axis.name} {highest} to {favourite}"
    cases = f"{len(lines)} combinations of the other axes"
    if len(others) == 1:
        cases = _counted(len(lines), others[0].name)
    return (
        f"{axis.name} {favourite} has the lowest mean for {count} of {cases},"
        f" {falls} below the highest mean (median)"
    )


def _range_of_texts(
    group: Group, axis: Axis, ranking: Sequence[Cell], compared: str
) -> str:
    """Returns a clause on the lowest means of an axis; '' if all were compared."""
    lowest: dict[object, Cell] = {}
    for cell in ranking:
        if (value := cell.point[axis.name]) is not None:
            lowest.setdefault(value, cell)
    if len(lowest) < (3 if axis.name == compared else 2):
        return ""
    first, *_, last = lowest.values()
    names = [group.label(axis, cell.point[axis.name]) for cell in (first, last)]
    return (
        f"the lowest means of {_counted(len(lowest), axis.name)} differ by"
        f" {last.mean - first.mean:.{group.decimals}f} {group.unit},"
        f" from {names[0]} to {names[1]}"
    )


def _comparison(group: Group, rivals: Contest, scores: Scores, tests: int) -> str:
    """Returns a sentence on the difference of the best two, and on its certainty."""
    best, other = rivals.rivals[:2]
    name = group.name(other)
    if rivals.noun in group.axes and rivals.noun != LIKELIHOOD:
        name = group.label(group.axes[rivals.noun], other.point[rivals.noun])
        rest = [axis.name for axis in group.telling if axis.name != rivals.noun]
        name += f" ({named(other.point, rest)})" if rest else ""
    next_one = (
        f"The next {rivals.noun} is {name}, at {group.number(other)} {group.unit}"
    )
    pairs = paired(best.members, other.members, scores)
    if pairs is None:
        return (
            f"{next_one}; whether they differ is not known, because their scores of the"
            " same test images and seeds cannot be read."
        )
    found = comparison.compare(*pairs, choices=rivals.choices, tests=tests)
    if found.num_images == 1:
        return f"{next_one}; one test image cannot tell whether they differ on others."
    if np.array_equal(*pairs):
        return f"{next_one}: the scores of every test image are equal."
    larger = found.size(group.unit, group.decimals)
    if found.num_seeds == 1:
        return (
            f"{next_one}: these two trained models differ by {larger}. With one seed,"
            f" this says nothing about the {rivals.noun}: another seed may change their"
            " order."
        )
    verdict = "no clear difference"
    if found.is_clear:
        verdict = (
            f"a clear difference (at most {comparison.LEVEL:.0%} of reports call one"
            " clear that is due to chance)"
        )
        if doubts := score_doubts(other.members, weighted=group.measure == "score"):
            verdict += f", but the score of the next one {' and '.join(doubts)}"
    power = found.power(group.unit, group.decimals, "sweeps")
    return f"{next_one}, which is larger by {larger}: {verdict}. {power}"


def distances(group: Group, scores: Scores) -> list[tuple[Cell, Comparison]]:
    """Returns the lowest means after the best, with their paired difference to it.

    They are descriptions: of cells that were chosen by their scores, the best and the
    next rival alone are tested, by ``find``.

    Args:
        group: the members.
        scores: gives those of the test images, in their order.

    Returns:
        Cells in which no seed is missing and whose scores can be read, lowest first.
    """
    if (best := group.best) is None:
        return []
    found: list[tuple[Cell, Comparison]] = []
    for cell in group.ranking[1:]:
        if len(found) < _MOST_DISTANCES and cell.is_whole and math.isfinite(cell.mean):
            pairs = paired(best.members, cell.members, scores)
            if pairs is not None:
                found.append((cell, comparison.compare(*pairs)))
    return found


def score_doubts(members: Sequence[Member], *, weighted: bool = True) -> list[str]:
    """Returns reasons, besides chance, why scores may be larger than they should be.

    Args:
        members: whose scores they are.
        weighted: whether the scores are importance-weighted.
    """
    doubts = []
    if any(member.view == "continuous" for member in members):
        doubts.append("is an upper bound")
    if weighted and any(member.is_weak for member in members):
        doubts.append("rests on few importance weights")
    return doubts


def lost(members: Sequence[Member]) -> list[str]:
    """Returns sentences on models whose training failed or diverged."""
    return _sentences(
        {
            f"{status} ({meaning})": [m for m in members if m.status == status]
            for status, meaning in LOST.items()
        },
        members,
    )


def warn(members: Sequence[Member]) -> list[str]:
    """Returns sentences on reasons to doubt some of the numbers."""
    doubts = {
        "collapsed (less than one bit about an image in the latents)": [
            member for member in members if member.latents == "collapsed"
        ],
        "got a score that rests on few importance weights (effective sample size"
        f" below {MIN_EFFECTIVE_SAMPLE_SIZE}, a weight above {MAX_LARGEST_WEIGHT} or"
        " a bias above the standard error): they may be better than their score": [
            member for member in members if member.is_weak
        ],
        "got a posterior so far from the identity that rounding changes its density by"
        f" more than {_MAX_DENSITY_ERROR} nats: mutual information and marginal KL are"
        " wrong by as much, the score is not": [
            member for member in members if member.density_error > _MAX_DENSITY_ERROR
        ],
    }
    return _sentences(doubts, members)


def _sentences(
    doubts: Mapping[str, Sequence[Member]], members: Sequence[Member]
) -> list[str]:
    """Returns a sentence on each thing that is true of some of the members."""
    if len(members) == 1:
        return [f"The model {doubt}." for doubt, some in doubts.items() if some]
    return [
        f"{len(some)} of {len(members)} models {doubt}: {_which(some, members)}."
        for doubt, some in doubts.items()
        if some
    ]


def _which(some: Sequence[Member], members: Sequence[Member]) -> str:
    """Returns which of the members some are: kinds, or numbers by latent size."""
    differ = telling(members)
    kinds = dict.fromkeys(named(member.point, differ) for member in some)
    sizes = collections.Counter(member.latent_dim for member in some)
    if len(kinds) <= _MAX_NAMED or len(sizes) == 1:
        return listed(list(kinds), "; ")
    return ", ".join(
        f"{count} with {counted(size, 'latent')}"
        for size, count in sorted(sizes.items())
    )
