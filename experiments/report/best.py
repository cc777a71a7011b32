"""The models of a sweep that a reader explores first: the best of each likelihood."""

import math
from collections.abc import Iterable, Sequence

from experiments.report.groups import Group
from experiments.report.members import LATENT_SIZE, LIKELIHOOD, named
from experiments.settings.grid import Run


def best_of_each_likelihood(
    groups: Iterable[Group], runs: Sequence[Run]
) -> dict[Run, str]:
    """Returns the best run of each likelihood, and what it is in words.

    It is the run with the lowest score at the setting with the lowest mean. The
    likelihoods of a group come in the order of their scores. Runs that failed or
    diverged do not count.

    Args:
        groups: the groups, in the order of the report.
        runs: those of the configuration.
    """
    by_name, found = {run.name: run for run in runs}, dict[Run, str]()
    for group in groups:
        known = set()
        axes = {LIKELIHOOD, LATENT_SIZE, *(axis.name for axis in group.varying)}
        for cell in group.ranking:
            own = [m for m in cell.members if not m.is_lost and m.run in by_name]
            own = [member for member in own if math.isfinite(group.score(member))]
            if own and cell.point[LIKELIHOOD] not in known:
                known.add(cell.point[LIKELIHOOD])
                best = min(own, key=group.score)
                words = named(cell.point, axes)
                found[by_name[best.run]] = f"{words}, seed {best.seed}"
    return found
