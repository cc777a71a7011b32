"""Figures of the theory, in the style of the report."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.report.style import MATPLOTLIB

P = ParamSpec("P")


def drawing(
    width: float, height: float
) -> Callable[[Callable[Concatenate[Any, P], None]], Callable[P, Figure]]:
    """Makes a function that draws on a figure return a figure of this size, inches."""

    def decorate(draw: Callable[Concatenate[Any, P], None]) -> Callable[P, Figure]:
        @functools.wraps(draw)
        @matplotlib.rc_context(MATPLOTLIB)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
            figure = Figure(figsize=(width, height), layout="constrained")
            draw(figure, *args, **kwargs)
            return figure

        return drawn

    return decorate


def draw_images(
    figure: Any,
    rows: Mapping[str, np.ndarray],
    shape: tuple[int, int, int],
    columns: Mapping[str, int] | None = None,
) -> None:
    """Draws grey images, black for 0 and white for 1, a row for each name.

    Args:
        figure: a figure or a part of one.
        rows: intensities ``[n, D]`` by name, the same n for all, clipped to [0, 1].
        shape: height, width and channels (1) of an image.
        columns: titles of groups of columns with their widths, which sum to n; wider
            gaps separate the groups.
    """
    groups = columns or {"": len(next(iter(rows.values())))}
    widths = list(groups.values())
    panels = figure.subplots(len(rows), len(groups), squeeze=False, width_ratios=widths)
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        parts = np.split(images.reshape(-1, *shape[:2]), np.cumsum(widths)[:-1])
        for axes, part in zip(line, parts, strict=True):
            # A third of a pixel of white lies between images: enlarged, it is drawn.
            tiles = part.repeat(3, axis=1).repeat(3, axis=2)
            tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 2)), constant_values=1)
            row = np.concatenate(list(tiles), axis=1)[:, :-2]
            axes.imshow(row, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.grid(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, title in zip(panels[0], groups, strict=True):
        axes.set_title(title)
