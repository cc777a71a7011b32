"""The report of a run folder: one HTML file that needs nothing else.

    write_report(folder)    # folder / 'report.html'

Everything is read from the folder (`config.json`, `environment.json`, `results.csv`,
`metrics.jsonl`, `figures/<run>/*.png`), so a report can be rebuilt at any time. Charts
are drawn anew and stay in `figures/` as SVG.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from experiments import charts, findings
from experiments.chart_style import Style, likelihood_styles
from experiments.files import write_atomically
from experiments.findings import Group, Member
from experiments.templates import templates
from experiments.wording import counted

# Pictures of a member in columns, with captions.
_PICTURES = (
    {"reconstructions": "Inputs over reconstructions"},
    {
        "prior_means": "Means of p(x|z), z from the prior",
        "samples": "Samples from the model",
    },
    {"manifold": "Means of p(x|z), z on a grid of equally likely values"},
    {"latents": "Posterior means of test images; circles: 1 and 2 σ of the prior"},
)
_MAX_PICTURE_WIDTH = 360  # CSS pixels, without zoom.
# Members of a table with pictures in the page: as many as browsers open at ease.
_MOST_PICTURED = 200


class Picture(NamedTuple):
    """An image in the page.

    Attributes:
        uri: the image as a data URI.
        alt: what it shows, for those who do not see it.
        caption: what it shows, below it.
        width: width in CSS pixels.
        css_class: 'pixels' if shown without smoothing, 'chart' if drawn in dark ink
            on white, else ''.
    """

    uri: str
    alt: str
    caption: str
    width: int
    css_class: str


class Entry(NamedTuple):
    """The members of a cell in the gallery.

    Attributes:
        title: what they share.
        score: their score with its spread and unit.
        members: by seed, each with its columns of pictures.
        omitted: of further members the pictures are left out.
    """

    title: str
    score: str
    members: Sequence[tuple[Member, Sequence[Sequence[Picture]]]]
    omitted: Sequence[Member]


class Column(NamedTuple):
    """A column of the table of results.

    Attributes:
        field: field of `Member`, or axis of the sweep.
        header: text at its head.
        format: format specification of its numbers; '' for text.
    """

    field: str
    header: str
    format: str

    def content(self, member: Member) -> Any:
        """What a member has in this column."""
        axes = member.axes
        return axes[self.field] if self.field in axes else getattr(member, self.field)


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    Args:
        folder: holds `results.csv` with at least one row. `config.json`,
            `environment.json`, `metrics.jsonl` and pictures may be missing.

    Raises:
        ValueError: if there are no results.
    """
    members = findings.read_members(folder / "results.csv")
    if not members:
        raise ValueError(f"{folder / 'results.csv'} has no rows: nothing to report")
    bounds = _read_bounds(folder / "metrics.jsonl")
    pictures = folder / "figures"
    sections = []
    for group in findings.group_members(members):
        # Legends, tables and the gallery show the likelihoods in one order: best first.
        styles = likelihood_styles(
            {
                name: findings.likelihood_label(name)
                + (" †" if name in group.upper_bounds else "")
                for name in group.likelihoods
            }
        )
        svgs = _draw_charts(group, styles, bounds)
        for kind, svg in svgs.items():
            write_atomically(pictures / f"{kind}_{group.key}.svg", svg)
        sections.append(
            {
                "group": group,
                "styles": styles,
                "findings": findings.find(group),
                "charts": {
                    kind: _data_uri(svg, "image/svg+xml") for kind, svg in svgs.items()
                },
                "gallery": _gallery(group, pictures),
                "columns": _columns(group),
            }
        )
    pages = templates(Path(__file__).parent, autoescape=True)
    pages.filters["value"] = _format
    page = pages.get_template("report.html.jinja").render(
        title=f"Variational autoencoders on {_distinct(m.dataset for m in members)}",
        overview=findings.overview(members),
        warnings=findings.warn(members),
        sections=sections,
        provenance={
            "Evaluation": _evaluation(members),
            "Configuration": _flatten(_read_json(folder / "config.json")),
            "Environment": _flatten(_read_json(folder / "environment.json")),
        },
    )
    path = folder / "report.html"
    write_atomically(path, page)
    return path


def _read_json(path: Path) -> dict[str, Any]:
    """Returns the content of a file, or nothing if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _read_bounds(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Returns the bounds by run and by split, [T, 2]: epoch and nats per image."""
    # An epoch that was run again after an interruption counts once, as it was last.
    bounds: dict[str, dict[str, dict[int, float]]] = {}
    if path.exists():
        with path.open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                splits = bounds.setdefault(row["run"], {"train": {}, "validation": {}})
                for split, by_epoch in splits.items():
                    bound = row.get(f"{split}/bound")
                    if bound is not None:
                        by_epoch[row["epoch"]] = bound
    return {
        run: {
            split: np.array(sorted(by_epoch.items()), float).reshape(-1, 2)
            for split, by_epoch in splits.items()
        }
        for run, splits in bounds.items()
    }


def _draw_charts(
    group: Group,
    styles: Mapping[str, Style],
    bounds: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, bytes]:
    """Returns as SVG those charts of a group that show more than one number."""
    scores, active_units = (
        [
            charts.Panel(setting, group.cells(setting, field))
            for setting in group.settings
        ]
        for field in ("score", "active_units")
    )
    points = [m for m in group.members if math.isfinite(m.rate + m.distortion)]
    curves = [
        charts.Curve(
            member.likelihood, member.latent_dim, member.setting, **bounds[member.run]
        )
        for member in group.members
        if member.run in bounds
    ]
    svgs = {}
    # A table of a single row says no more than a line against the latent size.
    if len(styles) * len(group.settings) > 1:
        svgs["scores"] = charts.score_heat_map(scores, styles, group.decimals)
    if len(group.latent_dims) > 1:
        svgs["latent_sizes"] = charts.latent_size_chart(
            scores, active_units, styles, group.unit
        )
    if len(points) > 1:
        svgs["rate_distortion"] = charts.rate_distortion(points, styles)
    if curves:
        svgs["learning_curves"] = charts.learning_curves(curves, styles)
    return svgs


def _gallery(group: Group, folder: Path) -> dict[str, list[Entry]]:
    """Returns by likelihood, in the order of latent sizes, members and pictures.

    Where members are many, each cell shows as many of its own; if that is not even one,
    the best cells show one.
    """
    # A model alone has the page to itself.
    zoom = 2 if len(group.members) == 1 else 1
    gallery: dict[str, list[Entry]] = {name: [] for name in group.likelihoods}
    ranking = group.ranking()
    most = max(1, _MOST_PICTURED // len(ranking))
    cells = [
        (cell, most if rank < _MOST_PICTURED else 0)
        for rank, cell in enumerate(ranking)
    ]
    order = group.settings
    for cell, count in sorted(
        cells, key=lambda c: (c[0].latent_dim, order.index(c[0].setting))
    ):
        title = [counted(cell.latent_dim, "latent")]
        title += filter(None, [cell.setting])
        gallery[cell.likelihood].append(
            Entry(
                ", ".join(title),
                f"{group.number(cell)} {group.unit}",
                [
                    (member, _pictures(member, folder / member.run, zoom))
                    for member in cell.members[:count]
                ],
                cell.members[count:],
            )
        )
    return gallery


def _pictures(member: Member, folder: Path, zoom: int) -> list[list[Picture]]:
    """Returns those pictures of a member that exist, in columns."""
    subject = f"{member.kind}, seed {member.seed}"
    columns = [
        [
            _picture(path, subject, caption, zoom)
            for name, caption in column.items()
            if (path := folder / f"{name}.png").exists()
        ]
        for column in _PICTURES
    ]
    return [column for column in columns if column]


def _picture(path: Path, subject: str, caption: str, zoom: int) -> Picture:
    """Returns a picture at the width at which it should be shown."""
    is_chart = path.stem == "latents"
    with Image.open(path) as image:
        native = image.width // (charts.SCATTER_SCALE if is_chart else 1)
    width = zoom * min(native, _MAX_PICTURE_WIDTH)
    # Only whole multiples show all pixels of an enlarged image at one size.
    pixels = "pixels" if width % native == 0 else ""
    return Picture(
        _data_uri(path.read_bytes(), "image/png"),
        f"{caption}: {subject}",
        caption,
        width,
        "chart" if is_chart else pixels,
    )


def _columns(group: Group) -> list[Column]:
    """Returns the columns of the table of results."""
    return [
        Column("likelihood", "likelihood", ""),
        Column("latent_dim", "latents", "d"),
        *(Column(axis, axis, "") for axis in group.members[0].axes),
        Column("seed", "seed", "d"),
        Column("score", f"score, {group.unit}", f".{group.decimals}f"),
        Column("score_se", "± s.e.", f".{group.decimals}f"),
        Column("rate", "rate, nats", ".2f"),
        Column("distortion", "distortion, nats", ".2f"),
        Column("mean_squared_error", "squared error", ".4f"),
        Column("active_units", "active units", ".0f"),
        Column("mutual_information", "I(x; z), nats", ".2f"),
        Column("marginal_kl", "KL(q(z) ‖ p(z)), nats", ".2f"),
        Column("latents", "verdict", ""),
        Column("linear_probe", "label from latents", ".2f"),
        Column("effective_sample_size", "effective samples", ".1f"),
        Column("largest_weight", "largest weight", ".2f"),
        Column("best_epoch", "best epoch", ".0f"),
        Column("epochs", "epochs", ".0f"),
        Column("num_parameters", "parameters", ",.0f"),
        Column("seconds", "seconds", ".1f"),
        Column("status", "status", ""),
    ]


def _evaluation(members: Sequence[Member]) -> list[tuple[str, str]]:
    """Returns how the scores were computed, as names and values."""
    rows = [
        ("data", _distinct(m.dataset for m in members)),
        ("test images", _distinct(f"{m.num_test_images:.0f}" for m in members)),
        (
            "importance samples for each image",
            _distinct(f"{m.num_importance_samples:.0f}" for m in members),
        ),
    ]
    binary = [member for member in members if member.view == "binary"]
    if binary:
        rows += [
            ("binarization", _distinct(m.binarization for m in binary)),
            ("binarization seed", _distinct(m.binarization_seed for m in binary)),
        ]
    return rows


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns the leaves of nested dictionaries as dotted names and values."""
    rows = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            text = _join(value) if isinstance(value, list) else str(value)
            rows.append((prefix + key, text))
    return rows


def _join(values: Iterable[object]) -> str:
    """Returns the values as text with commas."""
    return ", ".join(map(str, values))


def _distinct(values: Iterable[object]) -> str:
    """Returns the distinct values as text with commas."""
    return _join(dict.fromkeys(values))


def _format(value: object, specification: str) -> str:
    """Returns the value as text; a dash if it is NaN."""
    if isinstance(value, float) and math.isnan(value):
        return "–"
    return format(value, specification)


def _data_uri(content: bytes, media_type: str) -> str:
    """Returns a file as a URI to embed in a page."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
