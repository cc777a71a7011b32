"""The chart of the report: how many times longer than ours each peer takes."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from experiments.chart_style import COLORS, FAINT, MATPLOTLIB, svg


class Bar(NamedTuple):
    """One peer at one piece of work."""

    workload: str  # a panel
    series: str  # a colour
    peer: str  # a row
    ratios: Sequence[float]  # its time over ours, a round each


def draw(bars: Sequence[Bar]) -> Figure:
    """A panel for each workload, a row for each peer, a colour for each series."""
    workloads = list(dict.fromkeys(bar.workload for bar in bars))
    series = list(dict.fromkeys(bar.series for bar in bars))
    with matplotlib.rc_context(MATPLOTLIB):
        peers = [
            list(dict.fromkeys(bar.peer for bar in bars if bar.workload == workload))
            for workload in workloads
        ]
        thick = 0.8 / len(series)
        figure = Figure(
            figsize=(7.5, 0.9 + sum(0.7 + 0.3 * len(names) for names in peers)),
            layout="constrained",
        )
        panels = figure.subplots(
            len(workloads),
            squeeze=False,
            sharex=True,
            height_ratios=[len(names) + 1 for names in peers],
        )[:, 0]
        for axes, workload, names in zip(panels, workloads, peers, strict=True):
            axes.set_title(workload)
            axes.axvline(1, color=FAINT, linewidth=1)
            for i, name in enumerate(series):
                own = [b for b in bars if (b.workload, b.series) == (workload, name)]
                middle = [median(bar.ratios) for bar in own]
                rows = [
                    names.index(bar.peer) + (i - (len(series) - 1) / 2) * thick
                    for bar in own
                ]
                spreads = [
                    [m - min(bar.ratios), max(bar.ratios) - m]
                    for m, bar in zip(middle, own, strict=True)
                ]
                axes.barh(rows, middle, thick, color=COLORS[i], label=name)
                if own:
                    low_high = list(zip(*spreads, strict=True))
                    axes.errorbar(middle, rows, xerr=low_high, fmt="none", ecolor=FAINT)
            axes.set_yticks(range(len(names)), names)
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)
        panels[-1].set_xlabel("time, as a multiple of ours (median; least to most)")
        if len(series) > 1:
            panels[0].legend(loc="best")
    return figure


def write(path: Path, bars: Sequence[Bar]) -> None:
    """Writes the chart as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(svg(draw(bars)))
