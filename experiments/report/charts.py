"""Charts of a sweep: numbers in, SVG (or PNG, for clouds of points) out.

Nothing here reads or writes a file, and matplotlib's global state is left as it was.
The background is white, so that a chart can be shown on a page of any colour.
"""

import collections
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import patches, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from PIL import Image

from experiments.messages.wording import printable
from experiments.report.findings import Cell, Group, Member, described
from experiments.report.style import (
    COLORS,
    FAINT,
    GRID,
    INK,
    MATPLOTLIB,
    Style,
    likelihood_handles,
    note_points_above,
    present,
    robust_range,
    styles_of,
    svg,
)

SCATTER_SCALE = 2  # Pixels of a scatter for each at which it should be shown.
_MAX_SCATTER_POINTS = 4000
_MAX_SCATTER_LABELS = 20
_LONGEST_CLASS_NAME = 16
_MOST_MARKED = 3  # Points of a learning curve that has markers.
_CENTER: dict[str, Any] = {"ha": "center", "va": "center"}


class Chart(NamedTuple):
    """A picture of a group, with its words.

    Attributes:
        name: part of the name of its file.
        svg: the picture.
        title: what it shows, in a few words.
        alt: what it shows, for readers who do not see it.
        caption: how to read it.
    """

    name: str
    svg: bytes
    title: str
    alt: str
    caption: str


class Panel(NamedTuple):
    """The cells of one set of axes.

    Attributes:
        title: what distinguishes this panel; '' for none.
        cells: at most one for each likelihood and latent size.
    """

    title: str
    cells: Sequence[Cell]


class Curve(NamedTuple):
    """The training of one member.

    Attributes:
        likelihood: name of the likelihood, a key of the styles.
        latent_dim: number of latent variables.
        setting: what else it was trained with, in words; '' for nothing.
        train: [T, 2] epoch and bound on the training images, nats per image.
        validation: [V, 2] epoch and bound on the validation images.
    """

    likelihood: str
    latent_dim: int
    setting: str
    train: np.ndarray
    validation: np.ndarray


def draw(group: Group, bounds: Mapping[str, Mapping[str, np.ndarray]]) -> list[Chart]:
    """Returns those charts of a group that show more than one number.

    Args:
        group: the members.
        bounds: of the members by run, as the arguments ``train`` and ``validation`` of
            ``Curve``.
    """
    styles = styles_of({name: group.label(name) for name in group.likelihoods})
    scores, active_units = (
        [Panel(setting, group.cells(setting, field)) for setting in group.settings]
        for field in ("score", "active_units")
    )
    points = [
        member
        for member in group.members
        if math.isfinite(member.rate + member.distortion) and not member.is_lost
    ]
    curves = [
        Curve(
            member.likelihood, member.latent_dim, member.setting, **bounds[member.run]
        )
        for member in group.members
        if any(map(len, bounds[member.run].values()))
    ]
    drawn = []
    # A table of a single row says no more than a line against the latent size.
    if len(styles) * len(group.settings) > 1:
        drawn.append(
            Chart(
                "scores",
                score_heat_map(scores, styles, group.decimals),
                "Score by likelihood and latent size",
                "Table of the negative log-likelihood by likelihood and latent size, "
                f"{group.unit}; all numbers are in the table of results",
                f"{group.unit}; smaller is better, and has a stronger colour.",
            )
        )
    if len(group.latent_dims) > 1:
        drawn.append(
            Chart(
                "latent_sizes",
                latent_size_chart(scores, active_units, styles, group.unit),
                "Score and active units by latent size",
                "Lines of score and active units against latent size",
                f"Above, the score ({group.unit}, smaller is better).",
            )
        )
    if len(points) > 1:
        drawn.append(
            Chart(
                "rate_distortion",
                rate_distortion(points, styles),
                "Rate and distortion on test images",
                "Scatter of distortion against rate, one point for each model",
                "Rate: nats that the latents carry.",
            )
        )
    if curves:
        drawn.append(
            Chart(
                "learning_curves",
                learning_curves(curves, styles),
                "Learning curves",
                "Learning curves",
                "The bound on log p(x) that training maximises.",
            )
        )
    return drawn


@matplotlib.rc_context(MATPLOTLIB)
def latent_scatter(
    means: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str] = ()
) -> bytes:
    """Returns a PNG of posterior means, with circles at 1 and 2 sigma of the prior.

    Of many images, 4,000 are drawn, spread evenly over the order given. Labels of more
    than 20 kinds are not shown.

    Args:
        means: [N, 2] posterior means of two latent variables.
        labels: [N] label of each image, or None.
        class_names: of the labels 0, 1, ...; others are shown as they are.
    """
    stride = math.ceil(len(means) / _MAX_SCATTER_POINTS) or 1
    means = means[::stride]
    kinds, kind_of = np.array([]), np.zeros(len(means), int)
    if labels is not None and len(np.unique(labels)) <= _MAX_SCATTER_LABELS:
        kinds, kind_of = np.unique(labels[::stride], return_inverse=True)
    shown = [_legend_text(kind, class_names) for kind in kinds]
    # The legend takes more room for names, and the axes the same.
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
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, mew=0, color=color)
        for color in colors[: len(kinds)]
    ]
    if handles:
        figure.legend(
            handles=handles,
            labels=[text.replace("$", r"\$") for text in shown],
            loc="center right",
            fontsize=8.5 if len(kinds) <= 12 else 6,
            handletextpad=0,
            borderpad=0,
        )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A palette halves the file, and with it a report of many members.
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    file = io.BytesIO()
    pixels.quantize(128).save(file, format="png")
    return file.getvalue()


def _legend_text(kind: Any, class_names: Sequence[str]) -> str:
    """Returns the name of a class, or its number where the font cannot write it."""
    if not (isinstance(kind, np.integer) and 0 <= kind < len(class_names)):
        return str(kind)
    name = printable(class_names[int(kind)])
    if len(name) > _LONGEST_CLASS_NAME:
        name = name[: _LONGEST_CLASS_NAME - 1] + "…"
    font = get_font(findfont(FontProperties()))
    if not all(font.get_char_index(ord(character)) for character in name):
        return f"class {kind}"  # A number alone may be the name of another.
    # matplotlib takes a label in front of which is an underscore for none.
    return f" {name}" if name.startswith("_") else name


@matplotlib.rc_context(MATPLOTLIB)
def score_heat_map(
    panels: Sequence[Panel], styles: Mapping[str, Style], decimals: int
) -> bytes:
    """Returns an SVG table of scores, likelihood by latent size; smaller is better.

    All panels share one scale of colours, which saturates at scores far worse than
    most. The lowest mean of each panel is outlined, where no seed is missing in it. A
    cell with fewer seeds than others shows their number in parentheses, and how many
    failed or diverged.

    Args:
        panels: one table each, of scores in one unit.
        styles: looks of the likelihoods, in the order to show them in.
        decimals: number of decimals of a score.
    """
    cells = [cell for panel in panels for cell in panel.cells]
    latent_dims = sorted({cell.latent_dim for cell in cells})
    names = present(styles, cells)
    best, worst = robust_range([c.likelihood for c in cells], [c.mean for c in cells])
    blues = matplotlib.colormaps["Blues"]
    num_seeds = max(cell.num_seeds for cell in cells)

    cell_width, cell_height = 1.02, 0.46  # Inches, as are all lengths below.
    label_width = 0.45 + 0.083 * max(len(styles[name].label) for name in names)
    panel_width = cell_width * len(latent_dims)
    panel_height = cell_height * len(names)
    header, gap = (0.8 if any(panel.title for panel in panels) else 0.5), 0.3
    pitch = gap + max(panel_width, *(0.085 * len(panel.title) for panel in panels), 0)
    columns = max(1, min(len(panels), int((12 - label_width) / pitch)))
    rows = math.ceil(len(panels) / columns)
    width = label_width + columns * pitch
    height = rows * (panel_height + header)
    figure = Figure(figsize=(width, height))
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        axes = figure.add_axes(
            (
                (label_width + column * pitch) / width,
                1 - (row + 1) * (panel_height + header) / height,
                panel_width / width,
                panel_height / height,
            ),
            xlim=(-0.5, len(latent_dims) - 0.5),
            ylim=(len(names) - 0.5, -0.5),
        )
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=4)
        axes.xaxis.tick_top()
        axes.set_xticks(range(len(latent_dims)), [str(size) for size in latent_dims])
        axes.set_xlabel("latent size", fontsize=8.5)
        axes.xaxis.set_label_position("top")
        if panel.title:
            axes.set_title(panel.title, pad=8, fontweight="bold")
        axes.set_yticks(
            range(len(names)),
            [styles[name].label if column == 0 else "" for name in names],
            fontsize=9.5,
        )
        if column == 0:
            axes.tick_params(axis="y", pad=20)
            for y, name in enumerate(names):
                axes.plot(
                    -0.5 - 0.14 / cell_width,
                    y,
                    color=styles[name].color,
                    marker=styles[name].marker,
                    markersize=6,
                    clip_on=False,
                )
        shown = {(cell.likelihood, cell.latent_dim): cell for cell in panel.cells}
        leader = min(
            (c for c in panel.cells if math.isfinite(c.mean) and c.is_whole),
            key=lambda cell: cell.mean,
            default=None,
        )
        for (y, name), (x, size) in itertools.product(
            enumerate(names), enumerate(latent_dims)
        ):
            cell = shown.get((name, size))
            if cell is None:
                continue
            if not math.isfinite(cell.mean):
                axes.add_patch(_box(x, y, facecolor="none", edgecolor=GRID))
                note = cell.losses or "no score"
                axes.text(x, y, note, fontsize=8, color=FAINT, **_CENTER)
                continue
            # The root spreads the colours of the best, who are often close.
            excess = (cell.mean - best) / max(worst - best, 1e-12)
            quality = 1 - math.sqrt(min(max(excess, 0), 1))
            color = blues(0.06 + 0.79 * quality)
            ink = "white" if quality > 0.72 else INK
            axes.add_patch(_box(x, y, facecolor=color, edgecolor="none"))
            axes.text(
                x,
                y - 0.13,
                f"{cell.mean:.{decimals}f}",
                color=ink,
                fontsize=10,
                fontweight="bold" if cell is leader else "normal",
                **_CENTER,
            )
            note = f"± {cell.spread:.{decimals}f}" if math.isfinite(cell.spread) else ""
            if cell.losses:
                note = f"({cell.losses})"
            elif cell.num_seeds < num_seeds:
                note += f" ({cell.num_seeds})"
            axes.text(x, y + 0.23, note.strip(), color=ink, fontsize=7.5, **_CENTER)
            if cell is leader:
                axes.add_patch(
                    _box(x, y, fill=False, edgecolor="#D55E00", lw=2.2, zorder=3)
                )
    return svg(figure)


@matplotlib.rc_context(MATPLOTLIB)
def latent_size_chart(
    scores: Sequence[Panel],
    active_units: Sequence[Panel],
    styles: Mapping[str, Style],
    unit: str,
) -> bytes:
    """Returns an SVG of the score and of the active units against the latent size.

    Scores far worse than most lie above the panel, and their number is printed.

    Args:
        scores: one panel each, of scores in one unit; smaller is better.
        active_units: the panel below each of these.
        styles: looks of the likelihoods, in the order to show them in.
        unit: unit of the scores.
    """
    cells = [cell for panel in scores for cell in panel.cells]
    names = present(styles, cells)
    latent_dims = sorted({cell.latent_dim for cell in cells})
    low, high = robust_range([c.likelihood for c in cells], [c.mean for c in cells])
    margin = 0.1 * (high - low)
    columns = min(len(scores), 3)
    rows = 2 * math.ceil(len(scores) / columns)
    handles = likelihood_handles(names, styles)
    width = 3.6 * columns + (2 if handles else 0)
    figure = Figure(figsize=(width, 2.6 * rows), layout="constrained")
    for i, (upper, lower) in enumerate(zip(scores, active_units, strict=True)):
        row, column = divmod(i, columns)
        score = figure.add_subplot(rows, columns, 2 * row * columns + column + 1)
        active = figure.add_subplot(rows, columns, (2 * row + 1) * columns + column + 1)
        for axes, panel in ((score, upper), (active, lower)):
            for name in names:
                line = sorted(
                    (cell for cell in panel.cells if cell.likelihood == name),
                    key=lambda cell: cell.latent_dim,
                )
                means = np.array([cell.mean for cell in line])
                spreads = np.nan_to_num([cell.spread for cell in line])
                axes.errorbar(
                    [cell.latent_dim for cell in line],
                    means,
                    # A count is not below 0, nor is its error bar.
                    yerr=[
                        np.minimum(spreads, means) if axes is active else spreads,
                        spreads,
                    ],
                    color=styles[name].color,
                    marker=styles[name].marker,
                    markersize=5,
                    elinewidth=1,
                    markeredgecolor="white",
                    markeredgewidth=0.6,
                )
            axes.set_xscale("log", base=2)
            axes.set_xticks(latent_dims, [str(size) for size in latent_dims])
            axes.minorticks_off()
            axes.set_title(_in_lines(panel.title), fontweight="bold")
        if high > low:
            score.set_ylim(low - margin, high + margin)
        note_points_above(score, [cell.mean for cell in upper.cells])
        active.plot(latent_dims, latent_dims, color=FAINT, lw=0.9, ls=":")
        active.set_ylim(-0.05 * max(latent_dims), 1.1 * max(latent_dims))
        active.yaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        active.set_xlabel("latent size")
        if column == 0:
            score.set_ylabel(f"negative log-likelihood\n({unit}, smaller is better)")
            active.set_ylabel("active units")
    if handles:
        figure.legend(handles=handles, loc="outside right center")
    return svg(figure)


@matplotlib.rc_context(MATPLOTLIB)
def rate_distortion(members: Sequence[Member], styles: Mapping[str, Style]) -> bytes:
    """Returns an SVG of members in the plane of rate and distortion.

    There is a panel for each setting but beta, all on one scale. Lines join the
    averages over seeds of neighbours in beta where beta varies, else in latent size.
    Points that lie far above most are left out, and their number is printed.

    Args:
        members: those with a finite rate and distortion, on one scale.
        styles: looks of the likelihoods, in the order to show them in.
    """
    names = present(styles, members)
    latent_dims = sorted({member.latent_dim for member in members})
    smallest = 3.5 if len(latent_dims) > 1 else 6
    steps = np.linspace(smallest, 8.5, len(latent_dims))
    sizes = dict(zip(latent_dims, steps, strict=True))
    panels: dict[str, list[Member]] = collections.defaultdict(list)
    for member in members:
        fixed = {axis: x for axis, x in member.axes.items() if axis != "β"}
        panels[described(fixed)].append(member)

    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    width = 2 + columns * min(1.8 + len(names), 10 / columns)
    figure = Figure(figsize=(width, max(4.9, 3.6 * rows)), layout="constrained")
    low, high = robust_range(
        [member.likelihood for member in members],
        [member.distortion for member in members],
    )
    margin = 0.07 * (high - low) or 1.0
    right = 1.06 * max(member.rate for member in members) or 1.0
    along_beta = len({member.beta for member in members}) > 1
    for i, (title, own) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        # The margin shows whole what has collapsed, at a rate of 0.
        axes.set(xlim=(-0.03 * right, right), ylim=(low - margin, high + margin))
        axes.grid(visible=False)
        axes.set_title(_in_lines(title), pad=16, fontweight="bold")
        _draw_sums(axes)
        lines: dict[tuple, dict[float, list]] = collections.defaultdict(dict)
        for member in own:
            place, fixed_size = (
                (member.beta, member.latent_dim)
                if along_beta
                else (member.latent_dim, None)
            )
            line = lines[member.likelihood, fixed_size]
            line.setdefault(place, []).append((member.rate, member.distortion))
            axes.plot(
                member.rate,
                member.distortion,
                color=styles[member.likelihood].color,
                marker=styles[member.likelihood].marker,
                markersize=sizes[member.latent_dim],
                markeredgecolor="white",
                markeredgewidth=0.6,
                ls="",
            )
        for (name, _), line in lines.items():
            averages = [np.mean(line[place], axis=0) for place in sorted(line)]
            axes.plot(
                *np.transpose(averages),
                color=styles[name].color,
                lw=1,
                alpha=0.55,
                zorder=1,
            )
        note_points_above(axes, [member.distortion for member in own])
        if i >= len(panels) - columns:
            axes.set_xlabel("rate (nats per image)")
        if i % columns == 0:
            axes.set_ylabel("distortion (nats per image)")
    handles = likelihood_handles(names, styles, ls="")
    if handles:
        handles.append(Line2D([], [], ls="", label=""))
    handles += [
        Line2D([], [], ls="", marker="o", ms=size, color=FAINT, label=f"{n} latents")
        for n, size in sizes.items()
    ]
    figure.legend(handles=handles, loc="outside right center")
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
def learning_curves(curves: Sequence[Curve], styles: Mapping[str, Style]) -> bytes:
    """Returns an SVG of bounds against the epoch, by likelihood and setting.

    Validation is drawn strong, training faint. The first fifth of training is shown as
    far as it lies in the range of the rest.

    Args:
        curves: members with at least one row of metrics.
        styles: looks of the likelihoods, in the order to show them in.
    """
    names = present(styles, curves)
    latent_dims = sorted({curve.latent_dim for curve in curves})
    viridis = matplotlib.colormaps["viridis"]
    colors = {
        latent_dim: viridis(0.85 * i / max(len(latent_dims) - 1, 1))
        for i, latent_dim in enumerate(latent_dims)
    }
    # As vectors, hundreds of noisy lines would be most of a report.
    rasterized = len(curves) > 20
    panels = sorted(
        dict.fromkeys((curve.likelihood, curve.setting) for curve in curves),
        key=lambda panel: names.index(panel[0]),
    )
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    size = (2.7 * columns + 1.5, 2.1 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    for i, (name, setting) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        late = []
        for curve in curves:
            if (curve.likelihood, curve.setting) != (name, setting):
                continue
            color = colors[curve.latent_dim]
            for part, width, alpha in (
                (curve.train, 0.7, 0.3),
                (curve.validation, 1.0, 0.8),
            ):
                axes.plot(
                    *part.T,
                    color=color,
                    lw=width,
                    alpha=alpha,
                    # A line through a single point would not be seen.
                    marker="o" if len(part) <= _MOST_MARKED else "",
                    markersize=4,
                    rasterized=rasterized,
                )
                late.append(part[part[:, 0] >= 0.2 * part[:, 0].max(initial=0), 1])
        bounds = np.concatenate(late)
        bounds = bounds[np.isfinite(bounds)]
        if bounds.size:
            low, high = np.quantile(bounds, [0.01, 1])
            margin = 0.08 * (high - low) or 1.0
            axes.set_ylim(low - margin, high + margin)
        title = filter(None, [styles[name].label, _in_lines(setting)])
        axes.set_title("\n".join(title), fontsize=9)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
        if i >= len(panels) - columns:
            axes.set_xlabel("epoch")
        if i % columns == 0:
            axes.set_ylabel("bound (nats)")
    figure.legend(
        handles=[
            *(
                Line2D([], [], color=color, label=f"{latent_dim} latents")
                for latent_dim, color in colors.items()
            ),
            Line2D([], [], color=INK, lw=1, label="validation"),
            Line2D([], [], color=INK, lw=0.8, alpha=0.35, label="training"),
        ],
        loc="outside right center",
    )
    return svg(figure)


def _in_lines(setting: str) -> str:
    """Returns a setting with a line for each axis: panels are narrow."""
    return setting.replace(", ", "\n")


def _box(x: float, y: float, **style: Any) -> patches.Rectangle:
    """Returns the rectangle of a cell of a heat map, a little smaller than the cell."""
    return patches.Rectangle((x - 0.485, y - 0.47), 0.97, 0.94, **style)
