"""A picture of a latent space with two latents."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patches, ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from PIL import Image

from experiments.messages.wording import printable
from experiments.report.style import COLORS, FAINT, MATPLOTLIB

SCATTER_SCALE = 2  # pixels of a scatter for each pixel at which it should be shown
_MAX_SCATTER_POINTS = 4000
_MAX_SCATTER_LABELS = 20
_LONGEST_CLASS_NAME = 16


@matplotlib.rc_context(MATPLOTLIB)
def latent_scatter(
    means: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str] = ()
) -> Image.Image:
    """Draws posterior means, with circles at 1 and 2 sigma of the prior.

    At most 4,000 images are drawn, evenly spaced in the given order. If there are more
    than 20 labels, they are not shown.

    Args:
        means: [N, 2] posterior means of two latent variables.
        labels: [N] label of each image, or None.
        class_names: names of the labels 0, 1, ...; others are shown as they are.
    """
    stride = math.ceil(len(means) / _MAX_SCATTER_POINTS) or 1
    means = means[::stride]
    kinds, kind_of = np.array([]), np.zeros(len(means), int)
    if labels is not None and len(np.unique(labels)) <= _MAX_SCATTER_LABELS:
        kinds, kind_of = np.unique(labels[::stride], return_inverse=True)
    shown = [_legend_text(kind, class_names) for kind in kinds]
    # A legend with names is wider; the axes keep their size.
    width = 3.2 + 0.08 * max(0, max(map(len, shown), default=0) - 3)
    figure = Figure(figsize=(width, 2.75), dpi=96 * SCATTER_SCALE)
    place = (0.15 * 3.2 / width, 0.14, 0.71 * 3.2 / width, 0.84)
    axes = figure.add_axes(place, aspect="equal", anchor="W")
    for radius in (1, 2):
        axes.add_patch(
            patches.Circle((0, 0), radius, fill=False, color=FAINT, lw=0.8, alpha=0.6)
        )
    colors = np.array([to_rgb(COLORS[i % len(COLORS)]) for i in range(len(kinds) or 1)])
    axes.scatter(
        means[:, 0],
        means[:, 1],
        s=float(np.clip(4000 / max(len(means), 1), 2, 14)),
        c=colors[kind_of],
        alpha=0.75,
        linewidths=0,
    )
    # Half the side of the square that shows the prior and all means.
    extent = 1.08 * max(2.0, float(np.abs(means[np.isfinite(means)]).max(initial=0)))
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent))
    axes.set_xlabel("first latent", fontsize=8, labelpad=2)
    axes.set_ylabel("second latent", fontsize=8, labelpad=0)
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(5, integer=True, symmetric=True))
    axes.tick_params(labelsize=7.5, pad=2)
    if shown:
        look: dict[str, Any] = {"ls": "", "marker": "o", "ms": 5, "mew": 0}
        figure.legend(
            [Line2D([], [], color=color, **look) for color in colors],
            [text.replace("$", r"\$") for text in shown],
            loc="center right",
            fontsize=8.5 if len(kinds) <= 12 else 6,
            handletextpad=0,
            borderpad=0,
        )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A palette halves the file, and with it a report of many members.
    return (
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128)
    )


def _legend_text(kind: Any, class_names: Sequence[str]) -> str:
    """Returns the name of a class, or its number if the font lacks a character."""
    if not (isinstance(kind, np.integer) and 0 <= kind < len(class_names)):
        return str(kind)
    name = printable(class_names[int(kind)])
    if len(name) > _LONGEST_CLASS_NAME:
        name = name[: _LONGEST_CLASS_NAME - 1] + "…"
    font = get_font(findfont(FontProperties()))
    if not all(font.get_char_index(ord(character)) for character in name):
        return f"class {kind}"  # A number alone may be the name of another.
    # matplotlib ignores labels that begin with an underscore.
    return f" {name}" if name.startswith("_") else name
