"""The report of a run folder: one HTML file that needs nothing else.

    write_report(folder, rows, left_out)    # folder.path / 'report.html'

Everything is read from the folder, so a report can be rebuilt at any time. Pictures are
drawn from stored arrays where a file is missing, damaged or of another run; charts are
drawn each time and stay in `figures/` as SVG. What cannot be read is left out and
named, and the rest is there.
"""

import base64
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from experiments.evaluation import results
from experiments.files.writing import write_atomically
from experiments.messages.errors import FolderError
from experiments.messages.wording import counted
from experiments.report import charts, findings, pictures
from experiments.report.findings import Group, Member, axes_of
from experiments.report.style import Style, likelihood_styles
from experiments.report.templates import templates
from experiments.runs.folder import RunFolder

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
        """What a member has in this column; '' for an axis of other members."""
        return member.axes.get(self.field, getattr(member, self.field, ""))


def write_report(
    folder: RunFolder,
    rows: Sequence[Mapping[str, Any]],
    left_out: list[str],
) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    Args:
        folder: the run folder.
        rows: its results, of at least one run.
        left_out: lines on what could not be read, which the page shows; those on what
            it leaves out itself are appended.

    Raises:
        FolderError: there are no results that can be shown, or the folder cannot be
            written.
    """
    members = findings.members_of(rows, left_out.append)
    if not members:
        nothing = f"{folder.path} has no results: train a run first."
        raise FolderError(left_out[0] if left_out else nothing)
    bounds = {
        member.run: _bounds(folder.metrics.read(member.run, left_out.append))
        for member in members
    }
    figures = folder.path / "figures"
    for member in members:
        _draw(folder, member, left_out.append)
    groups = findings.group_members(members)
    tests = sum(len(group.contest().rivals) > 1 for group in groups)
    sections = []
    for group in groups:
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
            write_atomically(figures / f"{kind}_{group.key}.svg", svg)
        sections.append(
            {
                "group": group,
                "styles": styles,
                "findings": findings.find(
                    group, functools.partial(_scores, folder), tests
                ),
                "charts": {
                    kind: _data_uri(svg, "image/svg+xml") for kind, svg in svgs.items()
                },
                "gallery": _gallery(group, folder),
                "columns": _columns(group),
            }
        )
    pages = templates(Path(__file__).parent, autoescape=True)
    pages.filters["value"] = _format
    page = pages.get_template("report.html.jinja").render(
        title=f"Variational autoencoders on {_distinct(m.dataset for m in members)}",
        overview=findings.overview(members),
        lost=findings.lost(members),
        warnings=[*findings.warn(members), *left_out],
        sections=sections,
        provenance={
            "Evaluation": _evaluation(members),
            "Configuration": _flatten(folder.config()),
            "Environment": _flatten(folder.environment()),
        },
    )
    path = folder.path / "report.html"
    write_atomically(path, page)
    return path


def _draw(folder: RunFolder, member: Member, report: Callable[[str], object]) -> None:
    """Draws the pictures of a member that are not there as they should be."""
    if math.isnan(member.score):
        return  # It diverged, and has none.
    place = folder.path / "figures" / member.run
    try:
        pictures.ensure(
            place,
            member.latent_dim,
            folder.owners[member.run],
            lambda: folder.members.arrays(member.run),
        )
    except FolderError as error:
        report(f"pictures of {member.run} are left out: {error}")
    except Exception as error:  # Arrays of a stranger may be of any kind.
        report(
            f"pictures of {member.run} are left out: its arrays cannot be drawn "
            f"({error!r}); delete its folder in members/ and repeat the command that "
            "trained it."
        )


def _scores(folder: RunFolder, member: Member) -> np.ndarray | None:
    """Scores of a member's test images, [M]; None where they cannot be read."""
    try:
        arrays = folder.members.arrays(member.run)
        scores = results.scores(
            member.view,
            arrays["test/log_px"],
            arrays["picture/originals"][0].size,
            int(arrays["picture/levels"]),
        )
    except Exception:  # Arrays of a stranger may be of any kind.
        return None
    return scores if scores.shape == (member.num_test_images,) else None


def _bounds(rows: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the bounds of a run by split, [T, 2]: epoch and nats per image."""
    # An epoch that was run again after an interruption counts once, as it was last.
    splits: dict[str, dict[int, float]] = {"train": {}, "validation": {}}
    for row in rows:
        for split, by_epoch in splits.items():
            bound = row.get(f"{split}/bound", math.nan)
            if not math.isnan(bound):
                by_epoch[row["epoch"]] = bound
    return {
        split: np.array(sorted(by_epoch.items()), float).reshape(-1, 2)
        for split, by_epoch in splits.items()
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
    points = [
        member
        for member in group.members
        if math.isfinite(member.rate + member.distortion) and not member.is_lost
    ]
    curves = [
        charts.Curve(
            member.likelihood, member.latent_dim, member.setting, **bounds[member.run]
        )
        for member in group.members
        if any(map(len, bounds[member.run].values()))
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


def _gallery(group: Group, folder: RunFolder) -> dict[str, list[Entry]]:
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
                f"{group.number(cell)} {group.unit}"
                if cell.num_seeds
                else group.number(cell),
                [
                    (member, _pictures(member, folder, zoom))
                    for member in cell.members[:count]
                ],
                cell.members[count:],
            )
        )
    return gallery


def _pictures(member: Member, folder: RunFolder, zoom: int) -> list[list[Picture]]:
    """Returns the pictures of a member, in columns."""
    place, owner = folder.path / "figures" / member.run, folder.owners[member.run]
    subject = f"{member.kind}, seed {member.seed}"
    columns = [
        [
            _picture(path, subject, caption, zoom)
            for name, caption in column.items()
            if pictures.is_good(path := place / f"{name}.png", owner)
        ]
        for column in _PICTURES
    ]
    return [column for column in columns if column]


def _picture(path: Path, subject: str, caption: str, zoom: int) -> Picture:
    """Returns a picture at the width at which it should be shown."""
    is_chart = path.stem == "latents"
    with Image.open(path) as image:
        native = max(1, image.width // (charts.SCATTER_SCALE if is_chart else 1))
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
        *(Column(axis, axis, "") for axis in axes_of(group.members)),
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
        Column("importance_bias", "importance bias, nats", ".3f"),
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
