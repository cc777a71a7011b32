"""The look of charts: colours, markers, ranges of axes, and SVG.

``style.mplstyle`` holds what matplotlib's own parameters can say. A value, such as a
likelihood, has the same colour and marker in every chart of a group; values of similar
colours differ in their marker.
"""

import collections
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

MATPLOTLIB = matplotlib.rc_params_from_file(
    Path(__file__).with_suffix(".mplstyle"), use_default_template=False
)
COLORS: list[str] = MATPLOTLIB["axes.prop_cycle"].by_key()["color"]
INK, FAINT = MATPLOTLIB["text.color"], MATPLOTLIB["axes.edgecolor"]
GRID = MATPLOTLIB["grid.color"]
# 7 and 13 have no common factor: 91 values differ in marker or colour.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Style(NamedTuple):
    """The look of a value on an axis.

    Attributes:
        label: its name for a reader.
        color: '#rrggbb'.
        marker: marker of matplotlib.
    """

    label: str
    color: str
    marker: str

    def handle(self, **options: Any) -> Line2D:
        """Returns its handle for a legend."""
        look = {"color": self.color, "marker": self.marker, "label": self.label}
        return Line2D([], [], **look | options)


def styles_of(
    labels: Mapping[Any, str], *, is_number: bool = False
) -> dict[Any, Style]:
    """Returns the style of each value of an axis.

    Args:
        labels: by value; the order decides the colours.
        is_number: the values are numbers, whose colours go from dark to light.
    """
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(labels)))
    return {
        value: Style(
            label,
            to_hex(shades[i]) if is_number else COLORS[i % len(COLORS)],
            _MARKERS[i % len(_MARKERS)],
        )
        for i, (value, label) in enumerate(labels.items())
    }


def robust_range(names: Sequence[Any], values: Sequence[float]) -> tuple[float, float]:
    """Returns the smallest value, and the largest that a chart should show.

    Lines whose smallest value is far above those of the others are left out, and so are
    single values far above the rest. Both are compared with the 75% quantile: unlike
    the median, it cannot be the smallest of three.

    Args:
        names: [N] line that each value belongs to.
        values: [N] values; those that are not finite are ignored.
    """
    by_name = collections.defaultdict(list)
    for name, value in zip(names, values, strict=True):
        if math.isfinite(value):
            by_name[name].append(value)
    if not by_name:
        return 0.0, 1.0
    limit = _far_above([min(line) for line in by_name.values()], reach=2)
    near = np.concatenate([line for line in by_name.values() if min(line) <= limit])
    return near.min(), near[near <= _far_above(near, reach=6)].max()


def _far_above(values: Any, reach: float) -> float:
    """Returns the 75% quantile plus ``reach`` times its distance from the lowest."""
    lowest, quantile = np.quantile(values, [0, 0.75])
    return quantile + reach * (quantile - lowest)


def note_points_above(axes: Axes, values: Sequence[float]) -> None:
    """Notes in the upper right corner how many values lie above the axes, if any."""
    outside = sum(value > axes.get_ylim()[1] for value in values)
    if outside:
        text = f"{outside} of {len(values)} points lie above"
        look: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 8}
        axes.text(0.99, 0.98, text, transform=axes.transAxes, color=FAINT, **look)


def svg(figure: Figure) -> bytes:
    """Returns the figure as an SVG that is the same for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
