"""Charts of a group of models: numbers in, figures out.

Nothing here reads or writes a file, and matplotlib's global state is left as it was.
The background is white, so that a chart can be shown on a page of any colour. Each
function takes a ``look`` (``style.with_look``).
"""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import matplotlib
import numpy as np
from matplotlib import patches, rcParams, ticker
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.report.groups import Axis, Cell, Group
from experiments.report.members import LATENT_SIZE, LIKELIHOOD
from experiments.report.style import (
    MATPLOTLIB,
    Look,
    Style,
    colors,
    note_points_above,
    robust_range,
    styles_of,
    with_look,
)

# Parameters of the look: colours of text, of what is less important, and of lines
# behind.
_INK: Final = "text.color"
_FAINT: Final = "axes.edgecolor"
_GRID: Final = "grid.color"
_BEST = "#D55E00"  # outlines the best score of a table
_CELL = 1.02, 0.46  # width and height of a cell of a table of scores, inches
_MOST_MARKED = 3  # points of a learning curve that has markers
_MOST_TICKS = 10
_LOGARITHMIC = 8  # ratio of numbers from which on their scale is logarithmic
# Axes that change the bound: its values on two sides of them cannot be compared.
_OF_THE_BOUND = {
    *(LIKELIHOOD, "β", "objective", "num samples", "free bits", "capacity"),
    *("num groups", "mixing", "alpha", "partitions", "mmd weight"),
}

# Epoch and bound in nats per image, [T, 2], by split: 'train' and 'validation'.
Bounds = Mapping[str, np.ndarray]


class Chart(NamedTuple):
    """A picture of a group; ``charts.html.jinja`` has its words.

    Attributes:
        name: part of the name of its file.
        figure: the picture, which ``style.rendered`` makes a file.
        along: the axis that its lines run along, if any.
    """

    name: str
    figure: Figure
    along: Axis | None = None


def draw(
    group: Group, bounds: Mapping[str, Bounds], look: Look = MATPLOTLIB
) -> list[Chart]:
    """Returns those charts of a group that show more than one number.

    Args:
        group: the members.
        bounds: the learning curves of each member by run.
        look: parameters of matplotlib.
    """
    drawn = []
    scored = [cell for cell in group.ranking if math.isfinite(cell.mean)]
    rows, columns, _ = group.layout
    # A line says as much as a table of a single row of numbers.
    if len(scored) > 1 and (rows.varies or not columns.is_number):
        drawn.append(score_table(group, look=look))
    drawn += [
        score_lines(group, axis, look=look)
        for axis in group.telling
        if axis.is_number and _joins(group, axis, scored)
    ]
    if sum(len(_points(cell)) for cell in group.ranking) > 1:
        drawn.append(rate_distortion(group, look=look))
    if any(map(len, (part for own in bounds.values() for part in own.values()))):
        drawn.append(learning_curves(group, bounds, look=look))
    return drawn


def _joins(group: Group, along: Axis, cells: Sequence[Cell]) -> bool:
    """Returns whether some cells differ on an axis and on no other."""
    return any(len(line) > 1 for line in group.panels(cells, along).values())


@with_look
def score_table(group: Group) -> Chart:
    """Draws a table of scores by the two axes of a group's layout.

    Each combination of the other axes has a panel. All panels share one scale of
    colours, which ends at scores far worse than most. The lowest mean of all is
    outlined, if no seed is missing in it. A cell with fewer seeds than others shows
    their number in parentheses, or how many failed or diverged.
    """
    rows, columns, _ = group.layout
    panels = group.panels(group.ranking, rows, columns)
    heads = [textwrap.fill(text, 13) for text in group.labels(columns).values()]
    styles = _styles(group, rows)
    scale = _range(group.ranking, rows)

    # Inches, estimated from the longest texts, so that all cells have one size.
    longest = max(map(len, [rows.name, *group.labels(rows).values()]))
    left = 0.45 + 0.083 * longest
    pitch = 0.3 + max(
        _CELL[0] * len(heads), 0.085 * max(map(len, "\n".join(panels).split("\n")))
    )
    top = 0.55 + 0.14 * max(text.count("\n") for text in heads)
    top += 0.17 * max(len(title.splitlines()) for title in panels)
    across = max(1, min(len(panels), int((12 - left) / pitch)))
    down = math.ceil(len(panels) / across)
    size = left + pitch * across, (top + _CELL[1] * len(styles)) * down
    figure, grid = _grid(len(panels), across, size)
    for i, (axes, title) in enumerate(zip(grid[:, 0], panels, strict=True)):
        axes.set(xlim=(0, len(heads)), ylim=(len(styles), 0), title=title)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=4)
        axes.tick_params(axis="y", pad=24, labelsize=9.5)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set_xlabel(columns.name, fontsize=8.5)
        axes.set_xticks(np.arange(len(heads)) + 0.5, heads)
        axes.set_yticks([])
        if i % across == 0:
            axes.set_yticks(np.arange(len(styles)) + 0.5, group.labels(rows).values())
            if rows.varies:
                look = {"ha": "right", "va": "center", "fontsize": 8.5}
                axes.text(-0.28, 0, f"{rows.name}\n", **look)
            for y, style in enumerate(styles.values()):
                axes.plot(
                    -0.14, y + 0.5, style.marker, color=style.color, clip_on=False
                )
        for cell in panels[title]:
            x = columns.values.index(cell.point[columns.name])
            y = rows.values.index(cell.point[rows.name])
            _draw_cell(axes, x, y, cell, group, scale)
    return Chart("scores", figure)


def _draw_cell(
    axes: Axes, x: int, y: int, cell: Cell, group: Group, scale: tuple[float, float]
) -> None:
    """Draws a cell of a table of scores.

    Args:
        axes: the panel.
        x: its column.
        y: its row.
        cell: the score.
        group: the group, whose best cell is outlined.
        scale: scores of the strongest and of the faintest colour.
    """

    def box(**look: Any) -> None:
        axes.add_patch(patches.Rectangle((x + 0.015, y + 0.03), 0.97, 0.94, **look))

    def write(below: float, text: str, **look: Any) -> None:
        axes.text(x + 0.5, y + below, text, ha="center", va="center", **look)

    if not math.isfinite(cell.mean):
        box(facecolor="none", edgecolor=rcParams[_GRID])
        write(0.5, cell.losses or "no score", fontsize=8, color=rcParams[_FAINT])
        return
    # The root spreads the colours of the best scores, which are often close.
    quality = 1 - float(PowerNorm(0.5, *scale, clip=True)(cell.mean))
    ink = "white" if quality > 0.72 else rcParams[_INK]
    box(facecolor=matplotlib.colormaps["Blues"](0.06 + 0.79 * quality))
    note = f"± {cell.spread:.{group.decimals}f}" if math.isfinite(cell.spread) else ""
    if cell.losses:
        note = f"({cell.losses})"
    elif not cell.is_whole:
        note = f"{note} ({cell.num_seeds})".strip()
    write(0.73, note, color=ink, fontsize=7.5)
    weight = "bold" if cell is group.best else "normal"
    write(0.37, f"{cell.mean:.{group.decimals}f}", color=ink, size=10, weight=weight)
    if cell is group.best:
        box(fill=False, edgecolor=_BEST, lw=2.2, zorder=3)


@with_look
def score_lines(group: Group, along: Axis) -> Chart:
    """Draws the score and the active units against an axis of numbers.

    One more axis has a line for each value, the others have panels. Scores far worse
    than most lie above the panel, and their number is printed.

    Args:
        group: the members.
        along: the axis.
    """
    by = group.colored(along)
    styles = _styles(group, by)
    scores, active_units = (
        group.panels(group.cells(field), by, along) for field in ("", "active_units")
    )
    low, high = _range(group.ranking, by)
    within = [cell.spread for cell in group.ranking if cell.mean <= high]
    margin = max(0.1 * (high - low), 1.05 * np.nan_to_num(within).max(initial=0))
    across = _across(len(scores))
    down = math.ceil(len(scores) / across)
    size = 3.6 * across + 2 * by.varies, (5.2 + _extra(scores)) * down
    figure, grid = _grid(len(scores), across, size, stacked=2)
    for i, (title, (upper, lower)) in enumerate(zip(scores, grid, strict=True)):
        for axes, panel in ((upper, scores[title]), (lower, active_units[title])):
            for value, style in styles.items():
                line = sorted(
                    (cell for cell in panel if cell.point[by.name] == value),
                    key=lambda cell: cell.point[along.name],
                )
                places = [cell.point[along.name] for cell in line]
                means = np.array([cell.mean for cell in line])
                spreads = np.nan_to_num([cell.spread for cell in line])
                # A count is not below 0, nor is its error bar.
                below = np.minimum(spreads, means) if axes is lower else spreads
                look = {"color": style.color, "marker": style.marker, "elinewidth": 1}
                axes.errorbar(places, means, [below, spreads], **look)
            _set_scale(axes, along)
        upper.set_title(title)
        if high > low:
            upper.set_ylim(low - margin, high + margin)
        note_points_above(upper, [cell.mean for cell in scores[title]])
        if along.name == LATENT_SIZE:
            lower.plot(
                along.values, along.values, color=rcParams[_FAINT], lw=0.9, ls=":"
            )
        most = group.axes[LATENT_SIZE].values[-1]
        lower.set_ylim(-0.05 * most, 1.1 * most)
        lower.yaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        lower.set_xlabel(along.name)
        if i % across == 0:
            unit = f"({group.unit}, smaller is better)"
            upper.set_ylabel(f"{group.words}\n{unit}")
            lower.set_ylabel("active units")
    _add_legend(figure, by, styles)
    file = "along_" + along.name.replace("β", "beta").replace(" ", "_")
    name = "latent_sizes" if along.name == LATENT_SIZE else file
    return Chart(name, figure, along)


def _set_scale(axes: Axes, axis: Axis) -> None:
    """Sets the scale of the horizontal axis: logarithmic if it is wide."""
    values = [float(value) for value in axis.values]
    positive = [value for value in values if value > 0]
    if axis.name == LATENT_SIZE:
        axes.set_xscale("log", base=2)
    elif min(values) >= 0 and positive and positive[-1] >= _LOGARITHMIC * positive[0]:
        # Linear between 0 and the smallest of the others, if 0 is a value.
        options = {} if min(values) > 0 else {"linthresh": positive[0]}
        axes.set_xscale("symlog" if options else "log", **options)
    shown = values[:: math.ceil(len(values) / _MOST_TICKS)]
    axes.set_xticks(shown, [f"{value:g}" for value in shown])
    axes.minorticks_off()


def _points(cell: Cell) -> np.ndarray:
    """Returns rate and distortion of the members that have both, [N, 2]."""
    points = [(m.rate, m.distortion) for m in cell.members if not m.is_lost]
    points = [point for point in points if np.isfinite(point).all()]
    return np.array(points).reshape(-1, 2)


@with_look
def rate_distortion(group: Group) -> Chart:
    """Draws members in the plane of rate and distortion.

    Lines join the means over seeds of neighbours in β where β varies, else in latent
    size or another axis of numbers. All panels have one scale. Points that lie far
    above most are left out, and their number is printed.
    """
    cells = [cell for cell in group.cells() if len(_points(cell))]
    numbers = [a for a in group.telling if a.is_number and _joins(group, a, cells)]
    numbers.sort(key=lambda axis: axis.name != "β")
    along = numbers[0] if numbers else None
    by, size = group.colored(along), group.axes[LATENT_SIZE]
    styles = _styles(group, by)
    steps = np.linspace(3.5 if size.varies else 6, 8.5, len(size.values))
    sizes = dict(zip(size.values, steps, strict=True))
    panels = group.panels(cells, *filter(None, (by, size, along)))
    across = _across(len(panels))
    width = 2 + across * min(1.8 + len(styles), 10 / across)
    height = max(4.9, (3.6 + _extra(panels)) * math.ceil(len(panels) / across))
    figure, grid = _grid(len(panels), across, (width, height))
    points = np.concatenate([_points(cell) for cell in cells])
    names = [cell.point[by.name] for cell in cells for _ in _points(cell)]
    low, high = robust_range(names, points[:, 1].tolist())
    margin = 0.07 * (high - low) or 1.0
    right = 1.06 * points[:, 0].max() or 1.0
    for axes, (title, own) in zip(grid[:, 0], panels.items(), strict=True):
        # The margin shows whole what has collapsed, at a rate of 0.
        axes.set(xlim=(-0.03 * right, right), ylim=(low - margin, high + margin))
        axes.grid(visible=False)
        axes.set_title(title, pad=16)
        _draw_sums(axes)
        lines: dict[Any, list[tuple[Any, np.ndarray]]] = {}
        for cell in own:
            style, latents = styles[cell.point[by.name]], cell.point[LATENT_SIZE]
            look = {"color": style.color, "markersize": sizes[latents]}
            axes.plot(*_points(cell).T, style.marker, **look)
            if along:
                line = style.color, latents if along != size else None
                place = cell.point[along.name], _points(cell).mean(0)
                lines.setdefault(line, []).append(place)
        for number, ((color, _), places) in enumerate(lines.items()):
            places.sort(key=lambda place: place[0])
            means = np.array([mean for _, mean in places])
            axes.plot(*means.T, color=color, lw=1, alpha=0.55, zorder=1)
            for value, mean in places if number == 0 and along != size else []:
                text = f"β {value:g}" if along and along.name == "β" else f"{value:g}"
                axes.annotate(
                    text, tuple(mean), (5, 5), textcoords="offset points", fontsize=7
                )
        note_points_above(axes, [y for cell in own for _, y in _points(cell)])
    figure.supxlabel("rate (nats per image)")
    figure.supylabel("distortion (nats per image)")
    by_size = [
        Line2D(
            [],
            [],
            ls="",
            marker="o",
            ms=ms,
            color=rcParams[_FAINT],
            label=f"{n} latents",
        )
        for n, ms in sizes.items()
        if size.varies and by != size
    ]
    _add_legend(figure, by, styles, by_size, ls="")
    return Chart("rate_distortion", figure, along)


def _draw_sums(axes: Axes) -> None:
    """Draws diagonals of equal rate + distortion = -ELBO, with that value."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for level in ticker.MaxNLocator(9).tick_values(left + bottom, right + top):
        if not left + bottom < level < right + top:
            continue
        axes.plot(
            [left, right],
            [level - left, level - right],
            color=rcParams[_GRID],
            lw=1.2,
            zorder=0,
        )
        # A diagonal leaves the panel through its upper or its left edge.
        above = level - top >= left
        place = (level - top, top) if above else (left, level - left)
        look: dict[str, Any] = {"ha": "center" if above else "left", "va": "bottom"}
        look |= {"xytext": (0, 3) if above else (4, 1), "textcoords": "offset points"}
        axes.annotate(f"{level:g}", place, fontsize=7.5, color=rcParams[_FAINT], **look)


@with_look
def learning_curves(group: Group, bounds: Mapping[str, Bounds]) -> Chart:
    """Draws bounds against the epoch.

    One axis has a colour for each value if the bounds in a panel can then be compared,
    the others have panels. Validation is drawn strong, training faint. The first fifth
    of training is shown as far as it lies in the range of the rest.

    Args:
        group: the members.
        bounds: the learning curves of each member by run.
    """
    rows, columns, others = group.layout
    size = group.axes[LATENT_SIZE]
    free = [axis for axis in (size, columns, rows, *others) if axis.varies]
    inside = [axis for axis in free if _shares_bounds(group, axis)][:1]
    by = inside[0] if inside else size
    styles = _styles(group, by)
    panels = group.panels(group.cells(), *inside)
    # As vectors, hundreds of noisy lines would be most of a report.
    rasterized = len(group.members) > 20
    across = min(len(panels), 4)
    down = math.ceil(len(panels) / across)
    measures = 2.7 * across + 1.5, (2.1 + _extra(panels)) * down + 0.5
    figure, grid = _grid(len(panels), across, measures)
    for axes, (title, cells) in zip(grid[:, 0], panels.items(), strict=True):
        late = []
        for member in (member for cell in cells for member in cell.members):
            for split, width, alpha in (("train", 0.7, 0.3), ("validation", 1.0, 0.8)):
                part = bounds[member.run][split]
                axes.plot(
                    *part.T,
                    color=styles[member.point[by.name]].color,
                    lw=width,
                    alpha=alpha,
                    # A line through a single point would not be seen.
                    marker="o" if len(part) <= _MOST_MARKED else "",
                    rasterized=rasterized,
                )
                late.append(part[part[:, 0] >= 0.2 * part[:, 0].max(initial=0), 1])
        values = np.concatenate(late)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = np.quantile(values, [0.01, 1])
            margin = 0.08 * (high - low) or 1.0
            axes.set_ylim(low - margin, high + margin)
        axes.set_title(title, fontsize=9)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
    figure.supxlabel("epoch")
    figure.supylabel("bound (nats)")
    splits = [
        Line2D([], [], color=rcParams[_INK], lw=1, label="validation"),
        Line2D([], [], color=rcParams[_INK], lw=0.8, alpha=0.35, label="training"),
    ]
    _add_legend(figure, by, styles, splits, marker="")
    return Chart("learning_curves", figure)


def _shares_bounds(group: Group, along: Axis) -> bool:
    """Returns whether models that an axis alone tells apart have the same bound.

    The axis does not change it, and nor does any that follows from this one.
    """
    bounds = [axis.name for axis in group.varying if axis.name in _OF_THE_BOUND]
    return along.name not in bounds and all(
        len({tuple(cell.point[name] for name in bounds) for cell in cells}) == 1
        for cells in group.panels(group.cells(), along).values()
    )


def _styles(group: Group, axis: Axis) -> dict[Any, Style]:
    labels = group.labels(axis)
    return styles_of(labels, is_number=axis.is_number, cycle=colors())


def _range(cells: Sequence[Cell], by: Axis) -> tuple[float, float]:
    """Returns the lowest mean, and the highest that a chart should show."""
    names = [cell.point[by.name] for cell in cells]
    return robust_range(names, [cell.mean for cell in cells])


def _across(count: int) -> int:
    """Returns how many of so many panels stand side by side."""
    return 2 if count == 4 else min(count, 3)


def _extra(titles: Iterable[str]) -> float:
    """Returns the height of the longest title beyond two lines, inches."""
    return 0.17 * max([0, *(title.count("\n") - 1 for title in titles)])


def _grid(
    count: int, across: int, size: tuple[float, float], stacked: int = 1
) -> tuple[Figure, np.ndarray]:
    """Returns a figure and its axes, [count, stacked].

    Args:
        count: number of panels.
        across: number of panels side by side.
        size: width and height of the figure, inches.
        stacked: number of axes, one above the other, in a panel.
    """
    figure = Figure(figsize=size, layout="constrained")
    down = math.ceil(count / across)
    axes = figure.subplots(down * stacked, across, squeeze=False)
    panels = axes.reshape(down, stacked, across).swapaxes(1, 2).reshape(-1, stacked)
    for unused in panels[count:].flat:
        unused.remove()
    return figure, panels[:count]


def _add_legend(
    figure: Figure,
    by: Axis,
    styles: Mapping[Any, Style],
    others: Sequence[Line2D] = (),
    **look: Any,
) -> None:
    """Adds a legend on the values of an axis, if it varies, and on other things.

    Args:
        figure: the figure.
        by: the axis.
        styles: the look of its values.
        others: further handles.
        **look: further look of the handles of the axis.
    """
    handles = list(others)
    if by.varies:
        own = [style.handle(**look) for style in styles.values()]
        gap = [Line2D([], [], ls="", label="")] * bool(others)
        handles = [Line2D([], [], ls="", label=by.name), *own, *gap, *others]
    if handles:
        figure.legend(handles=handles, loc="outside right center")
