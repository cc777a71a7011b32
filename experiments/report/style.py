"""How charts look: colours, markers, legends, ranges of axes, and SVG.

A likelihood has the same colour and marker in every chart of a group
(`styles_of`). Colours are those of Okabe and Ito and of Tol, which people with
colour-blindness tell apart; the marker tells apart what looks alike.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#882255",
    "#332288",
    "#999933",
    "#666666",
    "#661100",
    "#117733",
    "#AA4499",
)
# 7 markers and 13 colours share no factor: 91 likelihoods differ in one or the other.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#26262b"
FAINT = "#8a8a94"
GRID = "#e3e3e8"

MATPLOTLIB: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "vae_jax",
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}


class Style(NamedTuple):
    """How a likelihood looks in every chart.

    Attributes:
        label: its name for a reader.
        color: '#rrggbb'.
        marker: marker of matplotlib.
    """

    label: str
    color: str
    marker: str


class HasLikelihood(Protocol):
    """Anything that belongs to a likelihood."""

    @property
    def likelihood(self) -> str:
        """Name of the likelihood."""


def styles_of(labels: Mapping[str, str]) -> dict[str, Style]:
    """Returns the style of each likelihood, from its label.

    Args:
        labels: by name of the likelihood; the order decides the colours.
    """
    return {
        name: Style(label, COLORS[i % len(COLORS)], _MARKERS[i % len(_MARKERS)])
        for i, (name, label) in enumerate(labels.items())
    }


def present(styles: Mapping[str, Style], items: Iterable[HasLikelihood]) -> list[str]:
    """Returns the likelihoods that occur in the items, in the order of the styles."""
    occurring = {item.likelihood for item in items}
    return [name for name in styles if name in occurring]


def likelihood_handles(
    names: Sequence[str], styles: Mapping[str, Style], ls: str = "-"
) -> list[Line2D]:
    """Returns one handle of a legend for each likelihood; none if there is only one."""
    return [
        Line2D(
            [],
            [],
            color=styles[name].color,
            marker=styles[name].marker,
            markersize=6,
            ls=ls,
            label=styles[name].label,
        )
        for name in names
        if len(names) > 1
    ]


def robust_range(names: Sequence[str], values: Sequence[float]) -> tuple[float, float]:
    """Returns the least value, and the largest that a chart should make room for.

    Likelihoods whose least value is far above those of the others are left out, and so
    are single values far above the rest. The 75% quantile is what both are judged by:
    unlike the median, it cannot coincide with the least of three.

    Args:
        names: [N] likelihood of each value.
        values: [N] values, of which those that are not finite are ignored.
    """
    by_name: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        if math.isfinite(value):
            by_name.setdefault(name, []).append(value)
    if not by_name:
        return 0.0, 1.0
    least = {name: min(of_name) for name, of_name in by_name.items()}
    low = min(least.values())
    limit = _far_above(low, list(least.values()), reach=2)
    near = [
        value for name in by_name for value in by_name[name] if least[name] <= limit
    ]
    limit = _far_above(low, near, reach=6)
    return low, max(value for value in near if value <= limit)


def _far_above(low: float, values: Sequence[float], reach: float) -> float:
    """Returns what is above the 75% quantile by `reach` times its distance to `low`."""
    quantile = float(np.quantile(values, 0.75))
    return quantile + reach * (quantile - low)


def note_points_above(axes: Axes, values: Sequence[float]) -> None:
    """Writes into the upper right corner how many values lie above the axes, if any."""
    outside = sum(value > axes.get_ylim()[1] for value in values)
    if outside:
        axes.text(
            0.99,
            0.98,
            f"{outside} of {len(values)} points lie above",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=8,
            color=FAINT,
        )


def svg(figure: Figure) -> bytes:
    """Returns the figure as an SVG that is the same for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", dpi=140, metadata={"Date": None})
    return file.getvalue()
