"""Tables of results in the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from experiments.evaluation.status import LOST, by_status
from experiments.messages.console import CONSOLE, warn
from experiments.messages.wording import counted, listed
from experiments.settings.grid import setting

_WIDEST = 1000  # characters of a line


def print_results(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints likelihood x latent size, one table per unit: units are never mixed."""
    for status, runs in by_status(rows).items():
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
        *["means leave out what failed or diverged"] * bool(by_status(rows)),
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
    scores, lost = _scores(seeds), by_status(seeds)
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
