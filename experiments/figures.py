"""Pictures and charts of a sweep: arrays and numbers in, PNG or SVG bytes out.

Nothing here reads or writes a file, and matplotlib's global state is left as it was.
Grids of images are assembled with NumPy, because a sweep makes hundreds of them. Charts
are drawn on a transparent background.

A likelihood has the same colour and marker in every chart of a report
(`likelihood_styles`). Colours are those of Okabe and Ito and of Tol, which people with
colour-blindness tell apart; the marker tells apart what shares a colour.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import patches, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

__all__ = [
    "Cell",
    "Curve",
    "Panel",
    "Point",
    "Style",
    "image_grid",
    "latent_scatter",
    "latent_size_chart",
    "learning_curves",
    "likelihood_styles",
    "rate_distortion",
    "reconstruction_grid",
    "score_heat_map",
]

_COLORS = (
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
)
# 7 markers and 10 colours share no factor: 70 likelihoods differ in one or the other.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_INK = "#26262b"
_FAINT = "#8a8a94"
_GRID = "#e3e3e8"

_MATPLOTLIB: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _FAINT,
    "axes.grid": True,
    "axes.labelcolor": _INK,
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
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "vae_jax",
    "text.color": _INK,
    "xtick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "xtick.labelsize": 8.5,
    "ytick.color": _FAINT,
    "ytick.labelcolor": _INK,
    "ytick.labelsize": 8.5,
}

_TILE_WIDTH = 28
_PAIR_GAP = 5
_MAX_SCATTER_POINTS = 4000
_MAX_SCATTER_LABELS = 20


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


class Cell(NamedTuple):
    """One number for a likelihood and a latent size, over seeds.

    Attributes:
        likelihood: name of the likelihood, a key of the styles.
        latent_dim: number of latent variables.
        mean: mean over the seeds with a finite value; NaN if there is none.
        spread: half-width of the error bar, in the unit of mean; NaN if unknown.
        num_seeds: number of seeds with a finite value.
    """

    likelihood: str
    latent_dim: int
    mean: float
    spread: float
    num_seeds: int


class Panel(NamedTuple):
    """The cells of one set of axes.

    Attributes:
        title: what distinguishes this panel; '' for none.
        cells: at most one for each likelihood and latent size.
    """

    title: str
    cells: Sequence[Cell]


class Point(NamedTuple):
    """A member in the rate-distortion plane.

    Attributes:
        likelihood: name of the likelihood, a key of the styles.
        latent_dim: number of latent variables.
        beta: weight of the KL during training.
        learning_rate: learning rate of training.
        rate: average KL, nats per image.
        distortion: average negative reconstruction term, nats per image.
    """

    likelihood: str
    latent_dim: int
    beta: float
    learning_rate: float
    rate: float
    distortion: float


class Curve(NamedTuple):
    """The training of one member.

    Attributes:
        likelihood: name of the likelihood, a key of the styles.
        latent_dim: number of latent variables.
        train: [T, 2] epoch and bound on the training images, nats per image.
        validation: [V, 2] epoch and bound on the validation images.
    """

    likelihood: str
    latent_dim: int
    train: np.ndarray
    validation: np.ndarray


def likelihood_styles(
    names: Sequence[str], marked: Collection[str]
) -> dict[str, Style]:
    """Returns a label, colour and marker for each likelihood.

    Args:
        names: distinct names; the order decides the colours.
        marked: those whose label ends in a dagger, for a footnote.
    """
    return {
        name: Style(
            name.replace("_", " ") + (" †" if name in marked else ""),
            _COLORS[i % len(_COLORS)],
            _MARKERS[i % len(_MARKERS)],
        )
        for i, name in enumerate(names)
    }


def reconstruction_grid(originals: np.ndarray, reconstructions: np.ndarray) -> bytes:
    """Returns a PNG of images, each above its reconstruction, in a near-square grid.

    Args:
        originals: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.
        reconstructions: [n, H, W, C] intensities, clipped to [0, 1].

    Raises:
        ValueError: if the shapes differ or are not those of images.
    """
    if originals.shape != reconstructions.shape:
        raise ValueError(
            f"originals have shape {originals.shape},"
            f" reconstructions {reconstructions.shape}: they must be equal"
        )
    upper, lower = _tiles(originals), _tiles(reconstructions)
    pairs = np.concatenate([_pad_tiles(upper, bottom=1, right=0), lower], axis=1)
    return _mosaic_png(pairs, math.ceil(math.sqrt(2 * len(pairs))), row_gap=_PAIR_GAP)


def image_grid(images: np.ndarray, columns: int) -> bytes:
    """Returns a PNG of images in rows of `columns`, separated by transparent lines.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; C is 1 or 3.
        columns: number of images in a row.

    Raises:
        ValueError: if the shape is not that of images.
    """
    return _mosaic_png(_tiles(images), columns, row_gap=1)


@matplotlib.rc_context(_MATPLOTLIB)
def latent_scatter(means: np.ndarray, labels: np.ndarray | None) -> bytes:
    """Returns a PNG of posterior means, with circles at 1 and 2 sigma of the prior.

    Of many images, 4,000 are drawn, spread evenly over the order given. Labels of more
    than 20 kinds are not shown.

    Args:
        means: [N, 2] posterior means of two latent variables.
        labels: [N] label of each image, or None.
    """
    stride = math.ceil(len(means) / _MAX_SCATTER_POINTS) or 1
    means = means[::stride]
    kinds, kind_of = np.array([]), np.zeros(len(means), int)
    if labels is not None and len(np.unique(labels)) <= _MAX_SCATTER_LABELS:
        kinds, kind_of = np.unique(labels[::stride], return_inverse=True)
    figure = Figure(figsize=(2.4, 2.1), dpi=200)
    axes = figure.add_axes((0.11, 0.1, 0.76, 0.87), aspect="equal", anchor="W")
    for radius in (1, 2):
        axes.add_patch(
            patches.Circle((0, 0), radius, fill=False, color=_FAINT, lw=0.8, alpha=0.6)
        )
    colors = np.array(
        [to_rgb(_COLORS[i % len(_COLORS)]) for i in range(len(kinds) or 1)]
    )
    axes.scatter(
        means[:, 0],
        means[:, 1],
        s=float(np.clip(2500 / max(len(means), 1), 1.5, 9)),
        c=colors[kind_of],
        alpha=0.75,
        linewidths=0,
    )
    # Half the side of the square that shows the prior and all means.
    extent = 1.08 * max(2.0, float(np.abs(means[np.isfinite(means)]).max(initial=0)))
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent))
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(5, integer=True, symmetric=True))
    axes.tick_params(labelsize=7, pad=2)
    figure.legend(
        handles=[
            Line2D([], [], ls="", marker="o", ms=5, mew=0, color=color, label=str(kind))
            for kind, color in zip(kinds, colors, strict=False)
        ],
        loc="center right",
        fontsize=7.5 if len(kinds) <= 12 else 5,
        handletextpad=0,
        borderpad=0,
    )
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # A palette halves the file, and with it a report of many members.
    return _png(Image.fromarray(np.asarray(canvas.buffer_rgba())).quantize(128))


@matplotlib.rc_context(_MATPLOTLIB)
def score_heat_map(
    panels: Sequence[Panel], styles: Mapping[str, Style], decimals: int
) -> bytes:
    """Returns an SVG table of scores, likelihood by latent size; smaller is better.

    All panels share one scale of colours, which saturates at scores far worse than
    most. The best cell of each panel is outlined. A cell with fewer seeds than others
    shows their number in parentheses.

    Args:
        panels: one table each, of scores in one unit.
        styles: looks of the likelihoods, in the order to show them in.
        decimals: number of decimals of a score.
    """
    cells = [cell for panel in panels for cell in panel.cells]
    latent_dims = sorted({cell.latent_dim for cell in cells})
    names = _present(styles, cells)
    best, worst = _robust_range([c.likelihood for c in cells], [c.mean for c in cells])
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
            (cell for cell in panel.cells if math.isfinite(cell.mean)),
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
                axes.add_patch(_box(x, y, facecolor="none", edgecolor=_GRID))
                axes.text(x, y, "no score", fontsize=8, color=_FAINT, **_CENTER)
                continue
            # The root spreads the colours of the best, who are often close.
            excess = (cell.mean - best) / max(worst - best, 1e-12)
            quality = 1 - math.sqrt(min(max(excess, 0), 1))
            color = blues(0.06 + 0.79 * quality)
            ink = "white" if quality > 0.72 else _INK
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
            if cell.num_seeds < num_seeds:
                note += f" ({cell.num_seeds})"
            axes.text(x, y + 0.23, note.strip(), color=ink, fontsize=7.5, **_CENTER)
            if cell is leader:
                axes.add_patch(
                    _box(x, y, fill=False, edgecolor="#D55E00", lw=2.2, zorder=3)
                )
    return _svg(figure)


@matplotlib.rc_context(_MATPLOTLIB)
def latent_size_chart(
    scores: Sequence[Panel],
    active_units: Sequence[Panel],
    styles: Mapping[str, Style],
    unit: str,
) -> bytes:
    """Returns an SVG of the score and of the active units against the latent size.

    Scores far worse than most lie above the panel.

    Args:
        scores: one panel each, of scores in one unit; smaller is better.
        active_units: the panel below each of these.
        styles: looks of the likelihoods, in the order to show them in.
        unit: unit of the scores.
    """
    cells = [cell for panel in scores for cell in panel.cells]
    names = _present(styles, cells)
    latent_dims = sorted({cell.latent_dim for cell in cells})
    low, high = _robust_range([c.likelihood for c in cells], [c.mean for c in cells])
    margin = 0.06 * (high - low)
    columns = min(len(scores), 3)
    rows = 2 * math.ceil(len(scores) / columns)
    # A single panel fits beside its heat map.
    width = 4.2 if columns == 1 else 3.4
    figure = Figure(figsize=(1.6 + width * columns, 2.7 * rows), layout="constrained")
    for i, (upper, lower) in enumerate(zip(scores, active_units, strict=True)):
        row, column = divmod(i, columns)
        score = figure.add_subplot(rows, columns, 2 * row * columns + column + 1)
        active = figure.add_subplot(rows, columns, (2 * row + 1) * columns + column + 1)
        for axes, panel in ((score, upper), (active, lower)):
            _plot_against_latent_size(axes, panel.cells, names, styles)
            axes.set_xscale("log", base=2)
            axes.set_xticks(latent_dims, [str(size) for size in latent_dims])
            axes.minorticks_off()
            axes.set_title(panel.title, fontweight="bold")
        if high > low:
            score.set_ylim(low - margin, high + margin)
        active.plot(latent_dims, latent_dims, color=_FAINT, lw=0.9, ls=":")
        active.set_ylim(-0.05 * max(latent_dims), 1.1 * max(latent_dims))
        active.yaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        active.set_xlabel("latent size")
        if column == 0:
            score.set_ylabel(f"negative log-likelihood\n({unit}, smaller is better)")
            active.set_ylabel("active units")
    figure.legend(handles=_legend(names, styles), loc="outside right center")
    return _svg(figure)


@matplotlib.rc_context(_MATPLOTLIB)
def rate_distortion(points: Sequence[Point], styles: Mapping[str, Style]) -> bytes:
    """Returns an SVG of members in the plane of rate and distortion.

    Lines join the averages over seeds of neighbours in beta where beta varies, else in
    latent size. Diagonals are lines of equal rate + distortion = -ELBO. Points that lie
    far above most are left out, and their number is printed.

    Args:
        points: members with a finite rate and distortion on one scale.
        styles: looks of the likelihoods, in the order to show them in.
    """
    names = _present(styles, points)
    latent_dims = sorted({point.latent_dim for point in points})
    smallest = 3.5 if len(latent_dims) > 1 else 6
    sizes = dict(
        zip(latent_dims, np.linspace(smallest, 8.5, len(latent_dims)), strict=True)
    )
    along = "beta" if len({point.beta for point in points}) > 1 else "latent_dim"

    figure = Figure(figsize=(7.6, 4.9), layout="constrained")
    axes = figure.add_subplot()
    left, right = 0.0, 1.06 * max(point.rate for point in points) or 1.0
    low, high = _robust_range(
        [point.likelihood for point in points], [point.distortion for point in points]
    )
    margin = 0.07 * (high - low) or 1.0
    bottom, top = low - margin, high + margin
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.grid(visible=False)

    levels = ticker.MaxNLocator(9).tick_values(left + bottom, right + top)
    for level in levels:
        if not left + bottom < level < right + top:
            continue
        axes.plot(
            [left, right], [level - left, level - right], color=_GRID, lw=1.2, zorder=0
        )
        # A diagonal leaves the panel through its upper or its right edge.
        if level - top >= left:
            position, alignment = (level - top, top), ("center", "bottom")
            offset = (0, 3)
        else:
            position, alignment = (left, level - left), ("left", "bottom")
            offset = (4, 1)
        axes.annotate(
            f"{level:g}",
            position,
            offset,
            textcoords="offset points",
            ha=alignment[0],
            va=alignment[1],
            fontsize=7.5,
            color=_FAINT,
        )
    groups: dict[tuple, list[Point]] = {}
    for point in points:
        fixed = point.latent_dim if along == "beta" else point.beta
        groups.setdefault((point.likelihood, point.learning_rate, fixed), []).append(
            point
        )
    for group in groups.values():
        stops: dict[float, list[Point]] = {}
        for point in sorted(group, key=lambda point: getattr(point, along)):
            stops.setdefault(getattr(point, along), []).append(point)
        style = styles[group[0].likelihood]
        axes.plot(
            [np.mean([point.rate for point in stop]) for stop in stops.values()],
            [np.mean([point.distortion for point in stop]) for stop in stops.values()],
            color=style.color,
            lw=1,
            alpha=0.55,
            zorder=1,
        )
    for point in points:
        axes.plot(
            point.rate,
            point.distortion,
            color=styles[point.likelihood].color,
            marker=styles[point.likelihood].marker,
            markersize=sizes[point.latent_dim],
            markeredgecolor="white",
            markeredgewidth=0.6,
            ls="",
        )
    outside = sum(point.distortion > top for point in points)
    if outside:
        axes.text(
            0.99,
            0.98,
            f"{outside} of {len(points)} points lie above",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=8,
            color=_FAINT,
        )
    axes.set_xlabel("rate (nats per image)")
    axes.set_ylabel("distortion (nats per image)")
    figure.legend(
        handles=[
            *_legend(names, styles, ls=""),
            Line2D([], [], ls="", label=""),
            *(
                Line2D([], [], ls="", marker="o", ms=size, color=_FAINT, label=text)
                for text, size in (
                    (f"{latent_dim} latents", sizes[latent_dim])
                    for latent_dim in latent_dims
                )
            ),
        ],
        loc="outside right center",
    )
    return _svg(figure)


@matplotlib.rc_context(_MATPLOTLIB)
def learning_curves(curves: Sequence[Curve], styles: Mapping[str, Style]) -> bytes:
    """Returns an SVG with a panel for each likelihood: the bound against the epoch.

    Validation is drawn strong, training faint. The first fifth of training is shown as
    far as it lies in the range of the rest.

    Args:
        curves: members with at least one row of metrics.
        styles: looks of the likelihoods, in the order to show them in.
    """
    names = _present(styles, curves)
    latent_dims = sorted({curve.latent_dim for curve in curves})
    viridis = matplotlib.colormaps["viridis"]
    colors = {
        latent_dim: viridis(0.85 * i / max(len(latent_dims) - 1, 1))
        for i, latent_dim in enumerate(latent_dims)
    }
    # As vectors, hundreds of noisy lines would be most of a report.
    rasterized = len(curves) > 20
    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    figure = Figure(
        figsize=(max(2.9 * columns, 5.5), 2.1 * rows + 0.5), layout="constrained"
    )
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, i + 1)
        late = []
        for curve in curves:
            if curve.likelihood != name:
                continue
            color = colors[curve.latent_dim]
            for part, width, alpha in (
                (curve.train, 0.7, 0.3),
                (curve.validation, 1.0, 0.8),
            ):
                axes.plot(
                    *part.T, color=color, lw=width, alpha=alpha, rasterized=rasterized
                )
                late.append(part[part[:, 0] >= 0.2 * part[:, 0].max(initial=0), 1])
        bounds = np.concatenate(late)
        bounds = bounds[np.isfinite(bounds)]
        if bounds.size:
            low, high = np.quantile(bounds, [0.01, 1])
            margin = 0.08 * (high - low) or 1.0
            axes.set_ylim(low - margin, high + margin)
        axes.set_title(styles[name].label, fontsize=9)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
        if i >= len(names) - columns:
            axes.set_xlabel("epoch")
        if i % columns == 0:
            axes.set_ylabel("bound (nats)")
    figure.legend(
        handles=[
            *(
                Line2D([], [], color=color, label=f"{latent_dim} latents")
                for latent_dim, color in colors.items()
            ),
            Line2D([], [], color=_INK, lw=1, label="validation"),
            Line2D([], [], color=_INK, lw=0.8, alpha=0.35, label="training"),
        ],
        loc="outside right center",
    )
    return _svg(figure)


_CENTER: dict[str, Any] = {"ha": "center", "va": "center"}


def _box(x: float, y: float, **style: Any) -> patches.Rectangle:
    """Returns the rectangle of a cell of a heat map, a little smaller than the cell."""
    return patches.Rectangle((x - 0.485, y - 0.47), 0.97, 0.94, **style)


def _present(
    styles: Mapping[str, Style],
    items: Sequence[Cell] | Sequence[Point] | Sequence[Curve],
) -> list[str]:
    """Returns the likelihoods that occur in the items, in the order of the styles."""
    occurring = {item.likelihood for item in items}
    return [name for name in styles if name in occurring]


def _robust_range(names: Sequence[str], values: Sequence[float]) -> tuple[float, float]:
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


def _plot_against_latent_size(
    axes: Axes, cells: Sequence[Cell], names: Sequence[str], styles: Mapping[str, Style]
) -> None:
    """Draws a line with error bars for each likelihood."""
    for name in names:
        line = sorted(
            (cell for cell in cells if cell.likelihood == name),
            key=lambda cell: cell.latent_dim,
        )
        axes.errorbar(
            [cell.latent_dim for cell in line],
            [cell.mean for cell in line],
            yerr=[np.nan_to_num(cell.spread) for cell in line],
            color=styles[name].color,
            marker=styles[name].marker,
            markersize=5,
            elinewidth=1,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )


def _legend(
    names: Sequence[str], styles: Mapping[str, Style], ls: str = "-"
) -> list[Line2D]:
    """Returns one handle for each likelihood."""
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
    ]


def _svg(figure: Figure) -> bytes:
    """Returns the figure as an SVG that is the same for the same figure."""
    file = io.BytesIO()
    figure.savefig(
        file, format="svg", dpi=140, transparent=True, metadata={"Date": None}
    )
    return file.getvalue()


def _tiles(images: np.ndarray) -> np.ndarray:
    """Returns opaque uint8 images [n, s * H, s * W, C + 1], small ones enlarged.

    Args:
        images: [n, H, W, C] intensities, clipped to [0, 1]; NaN becomes 0.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"images have shape {images.shape}: it must be [n, H, W, 1 or 3], n > 0"
        )
    intensities = np.clip(np.nan_to_num(images), 0, 1)
    pixels = np.rint(255 * intensities).astype(np.uint8)
    opaque = np.pad(pixels, [(0, 0)] * 3 + [(0, 1)], constant_values=255)
    scale = max(1, _TILE_WIDTH // images.shape[2])
    return opaque.repeat(scale, axis=1).repeat(scale, axis=2)


def _pad_tiles(tiles: np.ndarray, bottom: int, right: int) -> np.ndarray:
    """Returns tiles [n, h + bottom, w + right, C + 1] with transparent margins."""
    return np.pad(tiles, [(0, 0), (0, bottom), (0, right), (0, 0)])


def _mosaic_png(tiles: np.ndarray, columns: int, row_gap: int) -> bytes:
    """Returns a PNG of tiles in rows, with transparent separators between them.

    Args:
        tiles: [n, h, w, C + 1] uint8, the last channel opacity.
        columns: number of tiles in a row.
        row_gap: height of the separator between rows; between columns it is 1.
    """
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    tiles = _pad_tiles(tiles, bottom=row_gap, right=1)
    empty = rows * columns - len(tiles)
    tiles = np.pad(tiles, [(0, empty), (0, 0), (0, 0), (0, 0)])
    _, height, width, channels = tiles.shape
    mosaic = (
        tiles.reshape(rows, columns, height, width, channels)
        .swapaxes(1, 2)
        .reshape(rows * height, columns * width, channels)
    )
    return _png(Image.fromarray(mosaic[:-row_gap, :-1]))


def _png(image: Image.Image) -> bytes:
    """Returns the image as a PNG."""
    file = io.BytesIO()
    image.save(file, format="png")
    return file.getvalue()
