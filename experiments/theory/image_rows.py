"""Rows of small images in one figure, each row with its name."""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.style import MATPLOTLIB

# In inches.
_TILE = 0.5
_LABEL = 1.7
_TITLE = 0.3
_GAP = 0.2


@matplotlib.rc_context(MATPLOTLIB)
def image_rows(
    rows: Mapping[str, np.ndarray],
    shape: tuple[int, int, int],
    columns: Mapping[str, int] | None = None,
) -> Figure:
    """Draws grey images, a row for each name.

    Args:
        rows: intensities ``[n, D]`` by name, the same n for all, clipped to [0, 1].
        shape: height, width and channels (1) of an image.
        columns: titles of groups of columns with their widths, which sum to n; wider
            gaps separate the groups.
    """
    groups = columns or {"": len(next(iter(rows.values())))}
    widths = [_TILE * count for count in groups.values()]
    lefts = _LABEL + np.cumsum([0.0, *(width + _GAP for width in widths)])
    width, height = lefts[-1], _TITLE + (_TILE + _GAP / 2) * len(rows)
    figure = Figure(figsize=(width, height))
    for line, (name, images) in enumerate(rows.items()):
        bottom = height - _TITLE - (_TILE + _GAP / 2) * line - _TILE
        parts = np.split(images, np.cumsum(list(groups.values()))[:-1])
        for i, (title, part) in enumerate(zip(groups, parts, strict=True)):
            axes = figure.add_axes(
                (
                    lefts[i] / width,
                    bottom / height,
                    widths[i] / width,
                    _TILE / height,
                )
            )
            show_images(axes, part, shape)
            if line == 0:
                axes.set_title(title)
            if i == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def show_images(axes: Axes, images: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Shows grey images ``[n, D]`` side by side, black for 0 and white for 1."""
    height, width, _ = shape
    tiles = images.reshape(-1, height, width)
    # Grey lines of a third of a pixel would be lost: images are enlarged threefold.
    tiles = tiles.repeat(3, axis=1).repeat(3, axis=2)
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 2)), constant_values=1)
    row = np.concatenate(list(tiles), axis=1)[:, :-2]
    axes.imshow(row, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(False)
