"""Pairs of runs from two selections, A and B.

An axis is compared if A has one value on it, and B another one. Two runs are a pair if
they are equal on every other axis.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.messages.errors import SettingsError
from experiments.messages.wording import counted, listed
from experiments.runs import loading
from experiments.runs.folder import RunFolder
from experiments.settings import grid
from experiments.settings.grid import Run


class Side(NamedTuple):
    """The runs on one side.

    Attributes:
        name: A or B.
        only: the selection, as ``grid.choose`` takes it.
        folder: where they are.
        runs: at least one.
    """

    name: str
    only: str
    folder: RunFolder
    runs: Sequence[Run]

    @property
    def words(self) -> str:
        """The selection; of one run, its name."""
        if len(self.runs) == 1:
            return self.runs[0].name
        return self.only or "all runs"

    def refusal(self, why: str, remedy: str) -> SettingsError:
        """Returns the refusal of the selection."""
        return SettingsError.of(self.name, self.only, why, remedy)

    @classmethod
    def open(cls, name: str, only: str, path: Path) -> "Side":
        """Returns the runs of a folder that a selection names.

        Raises:
            FolderError: there is no run folder.
            SettingsError: the selection fits no run.
        """
        folder = RunFolder.open(path)
        runs = grid.choose(loading.runs_without_images(folder), only, name)
        return cls(name, only, folder, runs)


class Pair(NamedTuple):
    """Two runs that differ only in what is compared.

    Attributes:
        setting: its values on the other axes that vary among the pairs, without the
            seed, such as ``latent_dim=8``; '' if none varies.
        seed: of both; '' if seeds are compared.
        runs: that of A and that of B.
    """

    setting: str
    seed: str
    runs: tuple[Run, Run]


def pairs(sides: tuple[Side, Side], report: Callable[[str], object]) -> list[Pair]:
    """Returns the pairs of A and B, in the order of A.

    Args:
        sides: A and B.
        report: gets a line on the runs of a side that have no partner.

    Raises:
        SettingsError: A and B have a run in common, different units, or no pair.
    """
    first, second = sides
    _refuse_other_units(sides)
    common = {run.name for run in first.runs} & {run.name for run in second.runs}
    if common and first.folder.path.resolve() == second.folder.path.resolve():
        why = f"its run {min(common)} is in A too"
        raise second.refusal(why, "Choose selections without a common run")
    points = [{run: grid.point(run.settings) for run in side.runs} for side in sides]
    values = [
        {axis: {point[axis] for point in own.values()} for axis in grid.AXES}
        for own in points
    ]
    equal = [
        axis
        for axis in grid.AXES
        if values[0][axis] == values[1][axis] or max(len(v[axis]) for v in values) > 1
    ]
    by_place = [
        {tuple(point[axis] for axis in equal): run for run, point in own.items()}
        for own in points
    ]
    places = [place for place in by_place[0] if place in by_place[1]]
    if not places:
        example = next(
            (a, b)
            for a, b in itertools.product(first.runs, second.runs)
            if _unit(a) == _unit(b)
        )
        raise second.refusal(
            "no run of it has a partner in A: on an axis that is compared, A has one"
            " value and B another one, and on all others the runs of a pair are equal",
            f"Compare single runs, as in {' '.join(run.name for run in example)}",
        )
    for side, other, own in zip(sides, "BA", by_place, strict=True):
        alone = own.keys() - set(places)
        if names := [own[place].name for place in own if place in alone]:
            some = f"{counted(len(names), 'run')} of {side.name} left out"
            report(f"{some}, without a partner in {other}: {listed(names, ' ')}.")
    varying = [
        axis
        for axis, *found in zip(equal, *places, strict=True)
        if axis != "seed" and len(set(found)) > 1
    ]
    found = []
    for place in places:
        at = dict(zip(equal, place, strict=True))
        setting = ",".join(f"{axis}={at[axis]}" for axis in varying)
        runs = by_place[0][place], by_place[1][place]
        found.append(Pair(setting, at.get("seed", ""), runs))
    return found


def _unit(run: Run) -> str:
    """Returns the unit in which a run is scored, and given what, in words."""
    model = run.settings.model
    is_binary = model.example.likelihood.view == "binary"
    unit = "nats per binary image" if is_binary else "bits/dim of the integers"
    return f"{unit}, given the {model.condition_on}" if model.condition_on else unit


def _refuse_other_units(sides: tuple[Side, Side]) -> None:
    """Refuses sides of different random variables, such as p(x) and p(x|y)."""
    first, second = ({_unit(run): 0 for run in side.runs} for side in sides)
    if not first.keys() & second.keys():
        raise sides[1].refusal(
            f"its scores are in {next(iter(second))} and those of A in"
            f" {next(iter(first))}, which are different random variables",
            "Choose two likelihoods of one unit (docs/likelihoods.md lists them), with"
            " one condition_on",
        )
