"""Draws the chart of the report: the time of each peer over ours."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.report.style import COLORS, FAINT, MATPLOTLIB, rendered


class Bar(NamedTuple):
    """The time of one peer on one workload."""

    workload: str  # a panel
    series: str  # a colour
    peer: str  # a row
    ratios: Sequence[float]  # its time over ours, one per round


def draw(bars: Sequence[Bar]) -> Figure:
    """Draws a panel for each workload, a row for each peer, a colour by series."""
    workloads, colors = _unique(bar.workload for bar in bars), {}
    for i, name in enumerate(_unique(bar.series for bar in bars)):
        colors[name] = COLORS[i]
    panels = [[bar for bar in bars if bar.workload == name] for name in workloads]
    heights = [1 + len(_unique(bar.peer for bar in panel)) for panel in panels]
    with matplotlib.rc_context(MATPLOTLIB):
        figure = Figure(figsize=(7.5, 0.9 + 0.3 * sum(heights)), layout="constrained")
        column = figure.subplots(
            len(panels), squeeze=False, sharex=True, height_ratios=heights
        )[:, 0]
        for axes, workload, panel in zip(column, workloads, panels, strict=True):
            axes.set_title(workload)
            _draw_panel(axes, panel, colors)
        column[-1].set_xlabel("time, as a multiple of ours (median; least to most)")
        if len(colors) > 1:
            handles = [Patch(color=color, label=name) for name, color in colors.items()]
            figure.legend(handles=handles, loc="outside upper right", ncols=len(colors))
    return figure


def _draw_panel(axes: Axes, bars: Sequence[Bar], colors: dict[str, str]) -> None:
    series, peers = _unique(b.series for b in bars), _unique(b.peer for b in bars)
    thick = 0.8 / len(series)
    for bar in bars:
        beside = series.index(bar.series) - (len(series) - 1) / 2
        row, middle = peers.index(bar.peer) + thick * beside, median(bar.ratios)
        reach = [[middle - min(bar.ratios)], [max(bar.ratios) - middle]]
        axes.barh(row, middle, thick, color=colors[bar.series])
        axes.errorbar(middle, row, xerr=reach, fmt="none", ecolor=FAINT)
    axes.axvline(1, color=FAINT, linewidth=1)
    axes.set_yticks(range(len(peers)), peers)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def _unique(names: Iterable[str]) -> list[str]:
    """Returns the different values in the order of their first appearance."""
    return list(dict.fromkeys(names))


def write(path: Path, bars: Sequence[Bar]) -> None:
    """Writes the chart as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(rendered(draw(bars)))
