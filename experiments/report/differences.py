"""The differences of two selections of runs, A and B, and what they say.

The scores of each pair of runs are paired over test images and seeds (``comparison``),
at each setting of the axes that are not compared, and on average over these settings.
"""

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.messages.errors import SettingsError
from experiments.messages.wording import counted, listed
from experiments.report.comparison import LEVEL, Comparison, compare
from experiments.report.findings import score_doubts
from experiments.report.members import Member, members_of
from experiments.report.pairs import Pair, Side, pairs
from experiments.report.scores import read_scores
from experiments.settings.grid import Run

MEAN = "mean"


class Line(NamedTuple):
    """The difference of A and B at one setting, or on average over the settings.

    Attributes:
        setting: as in ``Pair``, or ``MEAN``.
        scores: of each image, smaller is better, ``[2, seeds, images]``.
        found: their comparison; the difference is B - A.
    """

    setting: str
    scores: np.ndarray
    found: Comparison


class Result(NamedTuple):
    """The differences of A and B in one quantity and unit.

    Attributes:
        unit: of the scores.
        measure: 'log_px' or 'elbo'.
        members: those of A and those of B, in pairs.
        lines: one for each setting; if there are several, the last one is their mean,
            over the seeds that all settings have, if there are any.
    """

    unit: str
    measure: str
    members: tuple[Sequence[Member], Sequence[Member]]
    lines: Sequence[Line]

    @property
    def density(self) -> str:
        """The probability that scores are of: p(x), or p(x|y) of a label y."""
        return self.members[0][0].density

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row for each line, in the columns that columns.toml explains."""
        return [
            {
                "setting": line.setting,
                "measure": self.measure,
                "unit": self.unit,
                "score_a": float(line.scores[0].mean()),
                "score_b": float(line.scores[1].mean()),
                "difference": float(line.found.difference),
                "difference_se": float(line.found.error),
                "is_clear": bool(line.found.is_clear),
                "detectable": float(line.found.detectable),
                "num_seeds": line.found.num_seeds,
                "num_images": line.found.num_images,
            }
            for line in self.lines
        ]

    def statement(self, decimals: int) -> str:
        """Returns what the last line says, in plain words.

        Args:
            decimals: the fewest of a number.
        """
        line = self.lines[-1]
        if len(self.lines) > 1 and line.setting != MEAN:
            return "No seed is common to all settings: there is no mean over them."
        found = line.found
        what = "The ELBO" if self.measure == "elbo" else f"log {self.density}"
        unit = "nats per image" if self.unit == "nats" else self.unit
        mean = " on average" if line.setting == MEAN else ""
        if np.array_equal(*line.scores):
            return f"{what} of every test image is the same in A and B{mean}."
        if found.num_images == 1:
            return "One test image cannot tell whether A and B differ on others."
        is_worse = bool(found.difference < 0)
        verdict = "no clear difference"
        if found.is_clear:
            verdict = (
                f"a clear difference (at most {LEVEL:.0%} of comparisons call one clear"
                f" that is due to chance){self._doubts(is_first_worse=is_worse)}"
            )
        if found.num_seeds == 1:
            verdict += (
                ". This is true of these trained models alone: with one seed, it says"
                " nothing about other seeds, which may change their order"
            )
        return (
            f"{what} of A is {'lower' if is_worse else 'higher'}{mean} by"
            f" {found.size(unit, decimals)}: {verdict}."
            f" {found.power(unit, decimals, 'comparisons')}"
        )

    def _doubts(self, *, is_first_worse: bool) -> str:
        """Returns a clause on why the worse one may be better than its score, or ''."""
        worse, better = self.members if is_first_worse else self.members[::-1]
        weighted = self.measure == "log_px"
        doubts = score_doubts(worse, weighted=weighted)
        samples = [
            min(m.num_importance_samples for m in side) for side in (worse, better)
        ]
        if weighted and samples[0] < samples[1]:
            doubts.append("is estimated with fewer importance samples")
        name = "A" if is_first_worse else "B"
        return f", but the score of {name} {' and '.join(doubts)}" if doubts else ""


def compare_sides(
    sides: tuple[Side, Side], measure: str, report: Callable[[str], object]
) -> list[Result]:
    """Returns the differences of A and B, for each quantity and unit of pairs.

    Args:
        sides: A and B.
        measure: 'log_px' or 'elbo'.
        report: gets a line on runs that are left out.

    Raises:
        FolderError: scores cannot be read.
        SettingsError: A and B have a run in common, other test images or other units,
            or no pair of runs with scores.
    """
    _refuse_other_images(sides, *(side.folder.images() for side in sides))
    left_out: list[str] = []
    paired = pairs(sides, left_out.append)
    members = [
        _with_scores(side, [pair.runs[i] for pair in paired], left_out.append)
        for i, side in enumerate(sides)
    ]
    by_quantity = collections.defaultdict(list)
    for pair in paired:
        a, b = (own.get(run.name) for own, run in zip(members, pair.runs, strict=True))
        if a is None or b is None:
            continue
        _refuse_other_images(sides, a.num_test_images, b.num_test_images)
        for side, member in zip(sides, (a, b), strict=True):
            if measure != "elbo" and member.estimator == "bound":
                raise side.refusal(
                    f"{member.run} is a chain of latents, whose score is its ELBO",
                    "Add --elbo, to compare ELBOs",
                )
        scores = [
            read_scores(side.folder, member, measure)
            for side, member in zip(sides, (a, b), strict=True)
        ]
        by_quantity[a.unit, a.density].append((pair, a, b, np.array(scores)))
    if not by_quantity:
        raise SettingsError(
            f"A and B have no pair of runs with scores: {left_out[-1]} Choose runs that"
            " are finished and did not fail; those that are finished are in"
            f" {sides[0].folder.path / 'members'}."
        )
    for line in left_out:
        report(line)
    results = []
    for (unit, _), found in by_quantity.items():
        own_pairs, a_members, b_members, scores = zip(*found, strict=True)
        lines = _lines(own_pairs, scores, tests=len(by_quantity))
        results.append(Result(unit, measure, (a_members, b_members), lines))
    return results


def _with_scores(
    side: Side, runs: Iterable[Run], report: Callable[[str], object]
) -> dict[str, Member]:
    """Returns the runs that have a score, by name; ``report`` gets a line on others."""
    found, missing = {}, collections.defaultdict(list)
    finished = side.folder.members.finished()
    for run in runs:
        if run.name not in finished:
            missing["not finished"].append(run.name)
            continue
        for member in members_of([side.folder.members.result(run.name)], report):
            if member.is_lost:
                missing[member.status].append(run.name)
            else:
                found[run.name] = member
    for status, names in missing.items():
        own = f"{counted(len(names), 'run')} of {side.name} left out with the partner"
        report(f"{own}, {status}: {listed(names, ' ')}.")
    return found


def _lines(
    paired: Sequence[Pair], scores: Sequence[np.ndarray], tests: int
) -> list[Line]:
    """Returns the difference at each setting, and their mean if there are several.

    Args:
        paired: the pairs.
        scores: of each pair, ``[2, images]``.
        tests: number of means that are tested.
    """
    settings: dict[str, dict[str, np.ndarray]] = {}
    for pair, own in zip(paired, scores, strict=True):
        settings.setdefault(pair.setting, {})[pair.seed] = own

    def line(setting: str, by_seed: Iterable[np.ndarray], tests: int) -> Line:
        both = np.stack(list(by_seed), axis=1)
        found = compare(*both, tests=tests, over_seeds=both.shape[1] > 1)
        return Line(setting, both, found)

    several = len(settings)
    lines = [
        line(setting, own.values(), several * tests)
        for setting, own in settings.items()
    ]
    common = [
        s
        for s in next(iter(settings.values()))
        if all(s in own for own in settings.values())
    ]
    if several > 1 and common:
        means = [
            np.mean([own[seed] for own in settings.values()], 0) for seed in common
        ]
        lines.append(line(MEAN, means, tests))
    return lines


def _refuse_other_images(
    sides: tuple[Side, Side], first: object, second: object
) -> None:
    """Refuses scores of other images: they cannot be paired."""
    if first != second:
        raise sides[1].refusal(
            "its test images are not those of A, so their scores make no pairs",
            "Choose runs that were trained and tested on the same images",
        )
