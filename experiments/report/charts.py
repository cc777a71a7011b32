"""Charts of a group of models: numbers in, SVG out.

Nothing here reads or writes a file, and matplotlib's global state is left as it was.
The background is white, so that a chart can be shown on a page of any colour.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import patches, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.report.groups import Axis, Cell, Group
from experiments.report.members import LATENT_SIZE, LIKELIHOOD, Value
from experiments.report.style import (
    FAINT,
    GRID,
    INK,
    MATPLOTLIB,
    note_points_above,
    robust_range,
    styles_of,
    svg,
)

_BEST = "#D55E00"
_MOST_MARKED = 3  # points of a learning curve that has markers
_MOST_TICKS = 10
_LOGARITHMIC = 8  # ratio of numbers from which on their scale is logarithmic
_CENTER: dict[str, Any] = {"ha": "center", "va": "center"}
# Axes that change the bound: its values on two sides of them cannot be compared.
_OF_THE_BOUND = {
    *(LIKELIHOOD, "β", "objective", "num samples", "free bits", "capacity"),
    *("num groups", "mixing", "alpha", "partitions", "mmd weight"),
}

# Epoch and bound in nats per image, [T, 2], by split: 'train' and 'validation'.
Bounds = Mapping[str, np.ndarray]


class Chart(NamedTuple):
    """A picture of a group, with its words.

    Attributes:
        name: part of the name of its file.
        svg: the picture.
        title: its subject, in a few words.
        alt: a description, for readers who do not see it.
        caption: how to read it.
    """

    name: str
    svg: bytes
    title: str
    alt: str
    caption: str


def draw(group: Group, bounds: Mapping[str, Bounds]) -> list[Chart]:
    """Returns those charts of a group that show more than one number.

    Args:
        group: the members.
        bounds: the learning curves of each member by run.
    """
    drawn = []
    rows, columns, _ = group.layout
    # A line says as much as a table of a single row of numbers.
    if rows.varies or (columns.varies and not columns.is_number):
        drawn.append(_score_table(group))
    varying = [axis for axis in group.axes.values() if axis.varies]
    drawn += [_score_lines(group, axis) for axis in varying if axis.is_number]
    if sum(len(_points(cell)) for cell in group.ranking()) > 1:
        drawn.append(_rate_distortion(group))
    if any(map(len, (part for own in bounds.values() for part in own.values()))):
        drawn.append(_learning_curves(group, bounds))
    return drawn


def _score_table(group: Group) -> Chart:
    rows, columns, _ = group.layout
    names = [axis.name for axis in (rows, columns) if axis.varies]
    notes = [f"In {group.unit}; smaller is better, and has a stronger colour."]
    if group.spread:
        mean = "Mean over seeds ± " if group.num_seeds > 1 else "± "
        notes.append(f"{mean}{group.spread}.")
    if group.has_losses:
        notes.append(
            "Means leave out runs that failed or diverged; parentheses count them."
        )
    where = " of those where no seed is missing" if group.has_gaps else ""
    order = "" if rows.is_number else " Rows are sorted by their lowest score."
    notes.append(
        f"Outlined: the lowest score{where}.{order} This is no test: the top of"
        " the page says whether the best is clearly better than the next one."
    )
    return Chart(
        "scores",
        score_table(group),
        f"Score by {' and '.join(names)}",
        f"Table of the negative log-likelihood by {' and '.join(names)}, {group.unit};"
        " the table of results has all numbers",
        " ".join(notes),
    )


def _score_lines(group: Group, along: Axis) -> Chart:
    dotted = " On the dotted line, all latents are active." * (
        along.name == LATENT_SIZE
    )
    bars = f" Bars: ± {group.spread}." if group.spread else ""
    name = "beta" if along.name == "β" else along.name.replace(" ", "_")
    return Chart(
        "latent_sizes" if along.name == LATENT_SIZE else f"along_{name}",
        score_lines(group, along),
        f"Score and active units by {along.name}",
        f"Lines of score and active units against {along.name}",
        f"Above: the score ({group.unit}, smaller is better). Below: the number of"
        " active units, the latents whose posterior mean varies over images."
        f"{dotted}{bars}",
    )


def _rate_distortion(group: Group) -> Chart:
    along = _joined(group)
    lines = f"; lines join the means over seeds along {along.name}" if along else ""
    if along and along.name != LATENT_SIZE:
        lines += ", whose values stand beside the first line"
    lost = " Runs that failed or diverged are left out." if group.has_losses else ""
    return Chart(
        "rate_distortion",
        rate_distortion(group),
        "Rate and distortion on test images",
        "Scatter of distortion against rate, one point for each model",
        "Rate: the average KL to the prior, the nats that the latents carry."
        " Distortion: the nats that describe the image if the latents are known."
        " On a diagonal, their sum, −ELBO, is the number beside it; lower left is"
        f" better. One point for each model{lines}.{lost}",
    )


def _learning_curves(group: Group, bounds: Mapping[str, Bounds]) -> Chart:
    each = " One line for each model." if len(group.members) > 1 else ""
    return Chart(
        "learning_curves",
        learning_curves(group, bounds),
        "Learning curves",
        "Learning curves: the bound against the epoch",
        "The bound on log p(x) that training maximises, in nats per image of the"
        " likelihood's own scale; larger is better. Compare curves within a panel, not"
        f" between panels.{each} The range may leave out the first epochs.",
    )


@matplotlib.rc_context(MATPLOTLIB)
def score_table(group: Group) -> bytes:
    """Returns an SVG table of scores by the two axes of a group's layout.

    Each combination of the other axes has a panel. All panels share one scale of
    colours, which ends at scores far worse than most. The lowest mean of all is
    outlined, if no seed is missing in it. A cell with fewer seeds than others shows
    their number in parentheses, and how many failed or diverged.
    """
    rows, columns, _ = group.layout
    panels = group.panels(group.ranking(), rows, columns)
    titles = [_in_lines(title) for title in panels]
    heads = [textwrap.fill(text, 13) for text in group.labels(columns).values()]
    styles = styles_of(group.labels(rows), is_number=rows.is_number)
    scale = robust_range(
        [cell.point[rows.name] for cell in group.ranking()],
        [cell.mean for cell in group.ranking()],
    )

    # Inches, as are all lengths below.
    panel_width, panel_height = 1.02 * len(heads), 0.46 * len(styles)
    longest = max(map(len, [rows.name, *(style.label for style in styles.values())]))
    label_width, gap = 0.45 + 0.083 * longest, 0.3
    header = 0.5 + 0.14 * max(head.count("\n") for head in heads)
    header += 0.17 * max(title.count("\n") + 2 for title in titles) * any(titles)
    widest = max(len(line) for title in titles for line in title.split("\n"))
    pitch = gap + max(panel_width, 0.085 * widest)
    across = max(1, min(len(panels), int((12 - label_width) / pitch)))
    down = math.ceil(len(panels) / across)
    width, height = label_width + across * pitch, down * (panel_height + header)
    figure, grid = _grid(
        len(panels),
        across,
        (width, height),
        gridspec_kw={
            "left": label_width / width,
            "right": (width - pitch + panel_width) / width,
            "top": 1 - header / height,
            "bottom": 0,
            "wspace": pitch / panel_width - 1,
            "hspace": header / panel_height,
        },
    )
    for i, (axes, title, cells) in enumerate(
        zip(grid, titles, panels.values(), strict=True)
    ):
        axes.set(xlim=(0, len(heads)), ylim=(len(styles), 0))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=4)
        axes.xaxis.tick_top()
        axes.set_xticks(np.arange(len(heads)) + 0.5, heads)
        axes.set_xlabel(columns.name, fontsize=8.5)
        axes.xaxis.set_label_position("top")
        axes.set_title(title, pad=8, fontweight="bold")
        axes.set_yticks(np.arange(len(styles)) + 0.5, [""] * len(styles))
        if i % across == 0:
            axes.set_yticklabels([s.label for s in styles.values()], fontsize=9.5)
            axes.tick_params(axis="y", pad=20)
            name = rows.name if rows.varies else ""
            place = {"xytext": (-20, 4), "textcoords": "offset points"}
            axes.annotate(name, (0, 0), **place, ha="right", va="bottom", fontsize=8.5)
            for y, style in enumerate(styles.values()):
                look = {"color": style.color, "marker": style.marker, "markersize": 6}
                axes.plot(-0.14, y + 0.5, **look, clip_on=False)
        for cell in cells:
            x = columns.values.index(cell.point[columns.name])
            y = rows.values.index(cell.point[rows.name])
            _draw_cell(axes, x, y, cell, group, scale)
    return svg(figure)


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

    if not math.isfinite(cell.mean):
        box(facecolor="none", edgecolor=GRID)
        note = cell.losses or "no score"
        axes.text(x + 0.5, y + 0.5, note, fontsize=8, color=FAINT, **_CENTER)
        return
    best, worst = scale
    # The root spreads the colours of the best scores, which are often close.
    excess = (cell.mean - best) / max(worst - best, 1e-12)
    quality = 1 - math.sqrt(min(max(excess, 0), 1))
    ink = "white" if quality > 0.72 else INK
    box(facecolor=matplotlib.colormaps["Blues"](0.06 + 0.79 * quality))
    note = f"± {cell.spread:.{group.decimals}f}" if math.isfinite(cell.spread) else ""
    if cell.losses:
        note = f"({cell.losses})"
    elif not cell.is_whole:
        note = f"{note} ({cell.num_seeds})".strip()
    axes.text(x + 0.5, y + 0.73, note, color=ink, fontsize=7.5, **_CENTER)
    is_best = cell is group.best
    weight = "bold" if is_best else "normal"
    number = f"{cell.mean:.{group.decimals}f}"
    look = {"color": ink, "fontsize": 10, "fontweight": weight}
    axes.text(x + 0.5, y + 0.37, number, **look, **_CENTER)
    if is_best:
        box(fill=False, edgecolor=_BEST, lw=2.2, zorder=3)


@matplotlib.rc_context(MATPLOTLIB)
def score_lines(group: Group, along: Axis) -> bytes:
    """Returns an SVG of the score and of the active units against an axis of numbers.

    One more axis has a line for each value, the others have panels. Scores far worse
    than most lie above the panel, and their number is printed.

    Args:
        group: the members.
        along: the axis.
    """
    by = group.colored(along)
    styles = styles_of(group.labels(by), is_number=by.is_number)
    scores, active_units = (
        group.panels(group.cells(field), by, along)
        for field in ("score", "active_units")
    )
    cells = group.ranking()
    low, high = robust_range(
        [cell.point[by.name] for cell in cells], [cell.mean for cell in cells]
    )
    margin = 0.1 * (high - low)
    across = _across(len(scores))
    down = math.ceil(len(scores) / across)
    size = 3.6 * across + 2 * by.varies, 5.2 * down
    figure, grid = _grid(2 * down * across, across, size, layout="constrained")
    for i in range(across * down):
        upper = grid[i // across * 2 * across + i % across]
        lower = grid[(i // across * 2 + 1) * across + i % across]
        if i >= len(scores):
            upper.remove()
            lower.remove()
            continue
        title = list(scores)[i]
        for axes, panel in ((upper, scores[title]), (lower, active_units[title])):
            for value, style in styles.items():
                line = sorted(
                    (cell for cell in panel if cell.point[by.name] == value),
                    key=lambda cell: along.values.index(cell.point[along.name]),
                )
                means = np.array([cell.mean for cell in line])
                spreads = np.nan_to_num([cell.spread for cell in line])
                # A count is not below 0, nor is its error bar.
                below = np.minimum(spreads, means) if axes is lower else spreads
                axes.errorbar(
                    [cell.point[along.name] for cell in line],
                    means,
                    yerr=[below, spreads],
                    color=style.color,
                    marker=style.marker,
                    markersize=5,
                    elinewidth=1,
                    markeredgecolor="white",
                    markeredgewidth=0.6,
                )
            _set_scale(axes, along)
            axes.set_title(_in_lines(title), fontweight="bold")
        if high > low:
            upper.set_ylim(low - margin, high + margin)
        note_points_above(upper, [cell.mean for cell in scores[title]])
        if along.name == LATENT_SIZE:
            lower.plot(along.values, along.values, color=FAINT, lw=0.9, ls=":")
        most = max(group.latent_dims)
        lower.set_ylim(-0.05 * most, 1.1 * most)
        lower.yaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        lower.set_xlabel(along.name)
        if i % across == 0:
            upper.set_ylabel(
                f"negative log-likelihood\n({group.unit}, smaller is better)"
            )
            lower.set_ylabel("active units")
    _add_legend(figure, group, by)
    return svg(figure)


def _set_scale(axes: Axes, axis: Axis) -> None:
    """Sets the scale of the horizontal axis: logarithmic if it is wide."""
    values = [float(value) for value in axis.values]  # type: ignore[arg-type]
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


def _joined(group: Group) -> Axis | None:
    """Returns the axis along which lines join rate and distortion, if there is one."""
    numbers = [axis for axis in group.axes.values() if axis.varies and axis.is_number]
    return next((axis for axis in numbers if axis.name == "β"), None) or (
        numbers[0] if numbers else None
    )


def _points(cell: Cell) -> list[tuple[float, float]]:
    """Returns rate and distortion of the members that have both."""
    points = [(m.rate, m.distortion) for m in cell.members if not m.is_lost]
    return [point for point in points if np.isfinite(point).all()]


@matplotlib.rc_context(MATPLOTLIB)
def rate_distortion(group: Group) -> bytes:
    """Returns an SVG of members in the plane of rate and distortion.

    Lines join the averages over seeds of neighbours in beta where beta varies, else in
    latent size or another axis of numbers. All panels have one scale. Points that lie
    far above most are left out, and their number is printed.
    """
    along = _joined(group)
    by, size = group.colored(along), group.axes[LATENT_SIZE]
    styles = styles_of(group.labels(by), is_number=by.is_number)
    smallest = 3.5 if size.varies else 6
    steps = np.linspace(smallest, 8.5, len(size.values))
    sizes = dict(zip(size.values, steps, strict=True))
    inside = (by, size, along) if along else (by, size)
    panels = group.panels(group.cells(), *inside)

    across = _across(len(panels))
    down = math.ceil(len(panels) / across)
    width = 2 + across * min(1.8 + len(styles), 10 / across)
    figure, grid = _grid(
        len(panels), across, (width, max(4.9, 3.6 * down)), layout="constrained"
    )
    points = [(cell, *point) for cell in group.cells() for point in _points(cell)]
    low, high = robust_range(
        [cell.point[by.name] for cell, _, _ in points],
        [distortion for _, _, distortion in points],
    )
    margin = 0.07 * (high - low) or 1.0
    right = 1.06 * max(rate for _, rate, _ in points) or 1.0
    for i, (axes, (title, cells)) in enumerate(zip(grid, panels.items(), strict=True)):
        # The margin shows whole what has collapsed, at a rate of 0.
        axes.set(xlim=(-0.03 * right, right), ylim=(low - margin, high + margin))
        axes.grid(visible=False)
        axes.set_title(_in_lines(title), pad=16, fontweight="bold")
        _draw_sums(axes)
        lines: dict[tuple[Value, Value], list[tuple[Any, np.ndarray]]] = {}
        for cell in cells:
            own = np.array(_points(cell))
            if not own.size:
                continue
            style, dims = styles[cell.point[by.name]], cell.point[LATENT_SIZE]
            axes.plot(
                *own.T,
                color=style.color,
                marker=style.marker,
                markersize=sizes[dims],
                markeredgecolor="white",
                markeredgewidth=0.6,
                ls="",
            )
            if along:
                line = cell.point[by.name], dims if along != size else None
                place = cell.point[along.name], own.mean(0)
                lines.setdefault(line, []).append(place)
        for (value, _), line in lines.items():
            averages = [mean for _, mean in sorted(line, key=lambda place: place[0])]
            look = {"color": styles[value].color, "lw": 1, "alpha": 0.55}
            axes.plot(*np.transpose(averages), **look, zorder=1)
        if along and along != size and lines:  # The first line shows where they go.
            for value, mean in next(iter(lines.values())):
                text = f"{along.name} {value:g}" if along.name == "β" else f"{value:g}"
                axes.annotate(
                    text, mean, (5, 5), textcoords="offset points", fontsize=7
                )
        note_points_above(axes, [point[1] for cell in cells for point in _points(cell)])
        if i >= len(panels) - across:
            axes.set_xlabel("rate (nats per image)")
        if i % across == 0:
            axes.set_ylabel("distortion (nats per image)")
    by_size = [
        Line2D([], [], ls="", marker="o", ms=ms, color=FAINT, label=f"{n} latents")
        for n, ms in sizes.items()
        if by != size and size.varies
    ]
    _add_legend(figure, group, by, by_size, ls="")
    return svg(figure)


def _draw_sums(axes: Axes) -> None:
    """Draws diagonals of equal rate + distortion = -ELBO, with that value."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for level in ticker.MaxNLocator(9).tick_values(left + bottom, right + top):
        if not left + bottom < level < right + top:
            continue
        axes.plot(
            [left, right], [level - left, level - right], color=GRID, lw=1.2, zorder=0
        )
        # A diagonal leaves the panel through its upper or its left edge.
        above = level - top >= left
        axes.annotate(
            f"{level:g}",
            (level - top, top) if above else (left, level - left),
            (0, 3) if above else (4, 1),
            textcoords="offset points",
            ha="center" if above else "left",
            va="bottom",
            fontsize=7.5,
            color=FAINT,
        )


@matplotlib.rc_context(MATPLOTLIB)
def learning_curves(group: Group, bounds: Mapping[str, Bounds]) -> bytes:
    """Returns an SVG of bounds against the epoch.

    One axis that does not change the bound has a colour for each value, the others have
    panels. Validation is drawn strong, training faint. The first fifth of training is
    shown as far as it lies in the range of the rest.

    Args:
        group: the members.
        bounds: the learning curves of each member by run.
    """
    rows, columns, others = group.layout
    size = group.axes[LATENT_SIZE]
    by = next(
        (
            axis
            for axis in (size, columns, rows, *others)
            if axis.varies and axis.name not in _OF_THE_BOUND
        ),
        size,
    )
    styles = styles_of(group.labels(by), is_number=by.is_number)
    panels = group.panels(group.cells(), by)
    # As vectors, hundreds of noisy lines would be most of a report.
    rasterized = len(group.members) > 20
    across = min(len(panels), 4)
    down = math.ceil(len(panels) / across)
    figure, grid = _grid(
        len(panels),
        across,
        (2.7 * across + 1.5, 2.1 * down + 0.5),
        layout="constrained",
    )
    for i, (axes, (title, cells)) in enumerate(zip(grid, panels.items(), strict=True)):
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
                    markersize=4,
                    rasterized=rasterized,
                )
                late.append(part[part[:, 0] >= 0.2 * part[:, 0].max(initial=0), 1])
        values = np.concatenate(late)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = np.quantile(values, [0.01, 1])
            margin = 0.08 * (high - low) or 1.0
            axes.set_ylim(low - margin, high + margin)
        axes.set_title(_in_lines(title), fontsize=9)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
        if i >= len(panels) - across:
            axes.set_xlabel("epoch")
        if i % across == 0:
            axes.set_ylabel("bound (nats)")
    splits = [
        Line2D([], [], color=INK, lw=1, label="validation"),
        Line2D([], [], color=INK, lw=0.8, alpha=0.35, label="training"),
    ]
    _add_legend(figure, group, by, splits, marker="")
    return svg(figure)


def _grid(
    count: int, across: int, size: tuple[float, float], **options: Any
) -> tuple[Figure, list[Axes]]:
    """Returns a figure with so many panels, so many of them side by side.

    Args:
        count: number of panels.
        across: number of panels in a row.
        size: width and height of the figure, inches.
        **options: of ``Figure``, and ``gridspec_kw`` of its panels.
    """
    places = options.pop("gridspec_kw", None)
    figure = Figure(figsize=size, **options)
    down = math.ceil(count / across)
    panels = figure.subplots(down, across, squeeze=False, gridspec_kw=places).flat
    for axes in panels[count:]:
        axes.remove()
    return figure, list(panels[:count])


def _add_legend(
    figure: Figure,
    group: Group,
    by: Axis,
    others: Sequence[Line2D] = (),
    **look: Any,
) -> None:
    """Adds a legend on the values of an axis, if it varies, and on other things.

    Args:
        figure: the figure.
        group: the group.
        by: the axis that colours are by.
        others: further handles.
        **look: of the handles.
    """
    styles = styles_of(group.labels(by), is_number=by.is_number)
    handles = [style.handle(**look) for style in styles.values()] if by.varies else []
    if handles:
        heading = Line2D([], [], ls="", label=by.name)
        handles.insert(0, heading)
        handles += [Line2D([], [], ls="", label="")] * bool(others)
    if handles := [*handles, *others]:
        figure.legend(handles=handles, loc="outside right center")


def _across(count: int) -> int:
    """Returns how many of so many panels stand side by side."""
    return 2 if count == 4 else min(count, 3)


def _in_lines(title: str) -> str:
    """Returns a title with a line for each axis: panels are narrow."""
    return title.replace(", ", "\n")
