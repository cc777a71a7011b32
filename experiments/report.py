"""The report of a run folder: one HTML file that needs nothing else.

    write_report(folder)    # folder / 'report.html'

Everything is read from the folder (`config.json`, `environment.json`, `results.csv`,
`metrics.jsonl`, `figures/<run>/*.png`), so a report can be rebuilt at any time. Charts
are drawn anew and stay in `figures/` as SVG.

Members that describe the same random variable form a group: the binary images, scored
in nats, or the integers, scored in bits/dim. Scores are compared within a group only.
"""

from __future__ import annotations

import base64
import collections
import csv
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from experiments import figures
from experiments.run_folder import write_atomically

__all__ = ["write_report"]

_MIN_EFFECTIVE_SAMPLE_SIZE = 10
_MAX_LARGEST_WEIGHT = 0.5
_MAX_PICTURE_WIDTH = 232  # CSS pixels, so that five pictures fit beside each other.
_PICTURES = {
    "reconstructions": "Test images over reconstructions",
    "prior_means": "Means of p(x|z), z from the prior",
    "samples": "Samples from the model",
    "manifold": "Means of p(x|z) over the latent plane",
    "latents": "Posterior means of test images",
}


class Setting(NamedTuple):
    """What varies besides likelihood, latent size and seed."""

    beta: float
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Member:
    """A row of `results.csv`; a number that is missing there is NaN here."""

    run: str
    dataset: str
    likelihood: str
    latent_dim: int
    beta: float
    learning_rate: float
    seed: int
    view: str
    score: float
    score_se: float
    rate: float
    distortion: float
    num_importance_samples: float
    effective_sample_size: float
    largest_weight: float
    mean_squared_error: float
    active_units: float
    best_epoch: float
    epochs: float
    status: str
    num_parameters: float
    num_test_images: float
    binarization: str
    binarization_seed: str
    seconds: float

    @property
    def setting(self) -> Setting:
        """What the member shares with the others in its table."""
        return Setting(self.beta, self.learning_rate)

    @property
    def is_weak(self) -> bool:
        """Whether the estimate of its log-likelihood rests on few weights."""
        return (
            self.effective_sample_size < _MIN_EFFECTIVE_SAMPLE_SIZE
            or self.largest_weight > _MAX_LARGEST_WEIGHT
        )


class Ranked(NamedTuple):
    """A cell of one of the tables of a group."""

    cell: figures.Cell
    setting: Setting


@dataclasses.dataclass(frozen=True)
class Group:
    """Members whose scores can be ranked against each other.

    Attributes:
        key: part of file names and links.
        title: what is modelled.
        unit: unit of the score.
        decimals: number of decimals that a score is printed with.
        members: at least one.
    """

    key: str
    title: str
    unit: str
    decimals: int
    members: Sequence[Member]

    @property
    def settings(self) -> list[Setting]:
        """The settings that occur, sorted."""
        return sorted({member.setting for member in self.members})

    @property
    def latent_dims(self) -> list[int]:
        """The latent sizes that occur, sorted."""
        return sorted({member.latent_dim for member in self.members})

    @property
    def num_seeds(self) -> int:
        """Number of seeds that occur."""
        return len({member.seed for member in self.members})

    @property
    def upper_bounds(self) -> set[str]:
        """Likelihoods whose score is an upper bound, from a density."""
        return {m.likelihood for m in self.members if m.view == "continuous"}

    @property
    def spread(self) -> str:
        """What stands behind the ± of a score."""
        if self.num_seeds > 1:
            return f"standard deviation over {self.num_seeds} seeds"
        num_images = self.members[0].num_test_images
        return f"standard error over {num_images:,.0f} test images, one seed"

    def cells(self, setting: Setting, field: str = "score") -> list[figures.Cell]:
        """Returns mean and spread of a field by likelihood and latent size.

        The spread is the standard deviation over seeds. If the group has one seed, that
        of the score is the standard error over test images.
        """
        by_cell = collections.defaultdict(list)
        for member in self.members:
            if member.setting == setting:
                by_cell[member.likelihood, member.latent_dim].append(member)
        cells = []
        for (likelihood, latent_dim), members in by_cell.items():
            values = [getattr(member, field) for member in members]
            finite = [value for value in values if math.isfinite(value)]
            mean, spread = math.nan, math.nan
            if finite:
                mean = statistics.fmean(finite)
            if len(finite) > 1:
                spread = statistics.stdev(finite)
            elif self.num_seeds == 1 and field == "score":
                spread = members[0].score_se
            cells.append(
                figures.Cell(likelihood, latent_dim, mean, spread, len(finite))
            )
        return cells

    def ranking(self) -> list[Ranked]:
        """Returns the cells of all settings, best first, those without a score last."""
        return sorted(
            (
                Ranked(cell, setting)
                for setting in self.settings
                for cell in self.cells(setting)
            ),
            key=lambda ranked: (math.isnan(ranked.cell.mean), ranked.cell.mean),
        )

    def describe(self, setting: Setting) -> str:
        """Returns those parts of a setting that vary in the group, '' if none does."""
        values = zip(*self.settings, strict=True)
        parts = zip(("β = ", "learning rate "), setting, values, strict=True)
        return ", ".join(f"{name}{x:g}" for name, x, xs in parts if len(set(xs)) > 1)

    def name(self, ranked: Ranked) -> str:
        """Returns in words which members a cell stands for."""
        cell, setting = ranked
        name = f"{_words(cell.likelihood)} with {_count(cell.latent_dim, 'latent')}"
        return ", ".join(filter(None, [name, self.describe(setting)]))

    def number(self, cell: figures.Cell) -> str:
        """Returns the score of a cell with its spread, without the unit."""
        mean = _format(cell.mean, f".{self.decimals}f")
        if math.isnan(cell.spread):
            return mean
        return f"{mean} ± {cell.spread:.{self.decimals}f}"


class Picture(NamedTuple):
    """An image in the page.

    Attributes:
        uri: the image as a data URI.
        alt: what it shows, for those who do not see it.
        caption: what it shows, below it.
        width: width in CSS pixels.
        css_class: 'pixels' if enlarged without smoothing, 'chart' if drawn in dark ink
            on a transparent background, else ''.
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
        members: by seed, each with its pictures.
    """

    title: str
    score: str
    members: Sequence[tuple[Member, Sequence[Picture]]]


class Column(NamedTuple):
    """A column of the table of results.

    Attributes:
        field: field of `Member`.
        header: text at its head.
        format: format specification of its numbers; '' for text.
    """

    field: str
    header: str
    format: str


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    Args:
        folder: holds `results.csv` with at least one row. `config.json`,
            `environment.json`, `metrics.jsonl` and pictures may be missing.

    Raises:
        ValueError: if there are no results.
    """
    members = _read_members(folder / "results.csv")
    if not members:
        raise ValueError(f"{folder / 'results.csv'} has no rows: nothing to report")
    groups = _groups(members)
    styles = figures.likelihood_styles(
        list(dict.fromkeys(member.likelihood for member in members)),
        marked=set().union(*(group.upper_bounds for group in groups)),
    )
    bounds = _read_bounds(folder / "metrics.jsonl")
    pictures = folder / "figures"

    sections = []
    for group in groups:
        # Rows, legends and the gallery show the likelihoods in one order: best first.
        order = dict.fromkeys(ranked.cell.likelihood for ranked in group.ranking())
        styles_in_order = {name: styles[name] for name in order}
        charts = _draw_charts(group, styles_in_order, bounds)
        for kind, svg in charts.items():
            write_atomically(pictures / f"{kind}_{group.key}.svg", svg)
        sections.append(
            {
                "group": group,
                "styles": styles_in_order,
                "findings": _findings(group),
                "charts": {
                    kind: _data_uri(svg, "image/svg+xml")
                    for kind, svg in charts.items()
                },
                "gallery": _gallery(group, pictures),
                "columns": _columns(group),
            }
        )
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["value"] = _format
    page = templates.get_template("report.html.jinja").render(
        title=f"Variational autoencoders on {_distinct(m.dataset for m in members)}",
        overview=_overview(members),
        warnings=_warnings(members),
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


def _read_members(path: Path) -> list[Member]:
    """Returns the rows of a table of results."""
    parse: dict[str, Callable[[str], Any]] = {
        "str": str,
        "int": int,
        "float": lambda text: float(text or "nan"),
    }
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Member(
                **{
                    field.name: parse[str(field.type)](row.get(field.name) or "")
                    for field in dataclasses.fields(Member)
                }
            )
            for row in csv.DictReader(file)
        ]


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


def _groups(members: Iterable[Member]) -> list[Group]:
    """Returns the groups that have members."""
    by_key = collections.defaultdict(list)
    for member in members:
        by_key["binary" if member.view == "binary" else "integers"].append(member)
    return [
        Group(key, title, unit, decimals, by_key[key])
        for key, title, unit, decimals in (
            ("integers", "Integer images", "bits/dim", 3),
            ("binary", "Binary images", "nats", 2),
        )
        if key in by_key
    ]


def _draw_charts(
    group: Group,
    styles: Mapping[str, figures.Style],
    bounds: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, bytes]:
    """Returns as SVG those charts of a group that show more than one number."""
    scores = [
        figures.Panel(group.describe(setting), group.cells(setting))
        for setting in group.settings
    ]
    points = [
        figures.Point(m.likelihood, m.latent_dim, *m.setting, m.rate, m.distortion)
        for m in group.members
        if math.isfinite(m.rate + m.distortion)
    ]
    curves = [
        figures.Curve(member.likelihood, member.latent_dim, **bounds[member.run])
        for member in group.members
        if member.run in bounds
    ]
    charts = {}
    if sum(len(panel.cells) for panel in scores) > 1:
        charts["scores"] = figures.score_heat_map(scores, styles, group.decimals)
    if len(group.latent_dims) > 1:
        active_units = [
            figures.Panel("", group.cells(setting, "active_units"))
            for setting in group.settings
        ]
        charts["latent_sizes"] = figures.latent_size_chart(
            scores, active_units, styles, group.unit
        )
    if len(points) > 1:
        charts["rate_distortion"] = figures.rate_distortion(points, styles)
    if curves:
        charts["learning_curves"] = figures.learning_curves(curves, styles)
    return charts


def _gallery(group: Group, folder: Path) -> dict[str, list[Entry]]:
    """Returns by likelihood, in the order of latent sizes, members and pictures."""
    by_cell = collections.defaultdict(list)
    for member in sorted(group.members, key=lambda member: member.seed):
        by_cell[member.likelihood, member.latent_dim, member.setting].append(
            (member, _pictures(member, folder / member.run))
        )
    gallery = collections.defaultdict(list)
    in_order = sorted(group.ranking(), key=lambda r: (r.cell.latent_dim, r.setting))
    for cell, setting in in_order:
        title = [_count(cell.latent_dim, "latent"), group.describe(setting)]
        score = f"{group.number(cell)} {group.unit}"
        gallery[cell.likelihood].append(
            Entry(
                ", ".join(filter(None, title)),
                score if math.isfinite(cell.mean) else "no score",
                by_cell[cell.likelihood, cell.latent_dim, setting],
            )
        )
    return gallery


def _pictures(member: Member, folder: Path) -> list[Picture]:
    """Returns those pictures of a member that exist."""
    pictures = []
    for name, caption in _PICTURES.items():
        path = folder / f"{name}.png"
        if not path.exists():
            continue
        with Image.open(path) as image:
            native = image.width
        # Only whole multiples show all pixels of an enlarged image at one size.
        enlarged = native * (_MAX_PICTURE_WIDTH // native)
        css_class = "pixels" if enlarged else ""
        pictures.append(
            Picture(
                _data_uri(path.read_bytes(), "image/png"),
                f"{caption}: {_words(member.likelihood)},"
                f" {_count(member.latent_dim, 'latent')}, seed {member.seed}",
                caption,
                enlarged or _MAX_PICTURE_WIDTH,
                "chart" if name == "latents" else css_class,
            )
        )
    return pictures


def _columns(group: Group) -> list[Column]:
    """Returns the columns of the table of results that say something in this group."""
    columns = [
        Column("likelihood", "likelihood", ""),
        Column("latent_dim", "latents", "d"),
        Column("beta", "β", "g"),
        Column("learning_rate", "learning rate", "g"),
        Column("seed", "seed", "d"),
        Column("score", f"score, {group.unit}", f".{group.decimals}f"),
        Column("score_se", "± s.e.", f".{group.decimals}f"),
        Column("rate", "rate, nats", ".2f"),
        Column("distortion", "distortion, nats", ".2f"),
        Column("mean_squared_error", "squared error", ".4f"),
        Column("active_units", "active units", ".0f"),
        Column("effective_sample_size", "effective samples", ".1f"),
        Column("largest_weight", "largest weight", ".2f"),
        Column("best_epoch", "best epoch", ".0f"),
        Column("epochs", "epochs", ".0f"),
        Column("num_parameters", "parameters", ",.0f"),
        Column("seconds", "seconds", ".1f"),
        Column("status", "status", ""),
    ]
    constant = {
        field
        for field, values in zip(
            Setting._fields, zip(*group.settings, strict=True), strict=True
        )
        if len(set(values)) == 1
    }
    return [column for column in columns if column.field not in constant]


def _overview(members: Sequence[Member]) -> list[str]:
    """Returns sentences on what was trained and how training ended."""
    if len(members) == 1:
        member = members[0]
        return [
            f"One model: {_words(member.likelihood)} with"
            f" {_count(member.latent_dim, 'latent')}, seed {member.seed},"
            f" {member.epochs:.0f} epochs ({member.status})."
        ]
    axes = [_count(len({m.likelihood for m in members}), "likelihood")]
    for name, values in (
        ("latent size", {member.latent_dim for member in members}),
        ("β value", {member.beta for member in members}),
        ("learning rate", {member.learning_rate for member in members}),
        ("seed", {member.seed for member in members}),
    ):
        if len(values) > 1 or name in ("latent size", "seed"):
            axes.append(f"{_count(len(values), name)} ({_join(sorted(values))})")
    statuses = collections.Counter(member.status for member in members)
    ends = {
        "settled": "had settled (the bound rose by less than its standard error in the"
        " last fifth of training)",
        "epoch limit": "were still rising at the epoch limit",
        "diverged": "diverged",
    }
    return [
        f"{len(members)} models: {' × '.join(axes)}.",
        "Of these, "
        + _join(
            f"{count} {ends.get(status, status)}"
            for status, count in statuses.most_common()
        )
        + ".",
    ]


def _findings(group: Group) -> list[str]:
    """Returns sentences on which likelihood and which latent size model images best."""
    ranking = [ranked for ranked in group.ranking() if math.isfinite(ranked.cell.mean)]
    if not ranking:
        return ["No model has a score."]
    leader = ranking[0]
    best_of: dict[str, figures.Cell] = {}
    for ranked in ranking:
        best_of.setdefault(ranked.cell.likelihood, ranked.cell)
    sentences = []
    if any(
        (m.likelihood, m.latent_dim, m.setting)
        == (leader.cell.likelihood, leader.cell.latent_dim, leader.setting)
        and m.is_weak
        for m in group.members
    ):
        sentences.append("Its estimate rests on few importance weights.")
    runner_up = next(
        (r for r in ranking if r.cell.likelihood != leader.cell.likelihood), None
    )
    if runner_up:
        difference = runner_up.cell.mean - leader.cell.mean
        noise = math.hypot(leader.cell.spread, runner_up.cell.spread)
        sentence = (
            f"The next likelihood is {group.name(runner_up)}, at"
            f" {group.number(runner_up.cell)} {group.unit}"
        )
        if difference <= noise:
            sentence += f": no clear difference, given the {group.spread}"
        sentences.append(sentence + ".")
    by_line = collections.defaultdict(list)
    for ranked in ranking:
        by_line[ranked.cell.likelihood, ranked.setting].append(ranked.cell)
    lines = [cells for cells in by_line.values() if len(cells) > 1]
    if lines:
        favourites = collections.Counter(cells[0].latent_dim for cells in lines)
        favourite, count = favourites.most_common(1)[0]
        gain = statistics.median(cells[-1].mean - cells[0].mean for cells in lines)
        lines_are = "likelihoods" if len(group.settings) == 1 else "rows of the tables"
        sentences.append(
            f"Latent size {favourite} is the best for {count} of {len(lines)}"
            f" {lines_are}; from the worst to the best latent size, the score falls by"
            f" {gain:.{group.decimals}f} {group.unit} (median)."
            if len(lines) > 1
            else f"The score falls by {gain:.{group.decimals}f} {group.unit} from the"
            f" worst latent size ({lines[0][-1].latent_dim}) to the best ({favourite})."
        )
    if len(best_of) > 2:
        cells = list(best_of.values())
        sentences.append(
            "Each at its best, the likelihoods differ by"
            f" {cells[-1].mean - cells[0].mean:.{group.decimals}f} {group.unit} from"
            f" {_words(cells[0].likelihood)} to {_words(cells[-1].likelihood)}."
        )
    return sentences


def _warnings(members: Sequence[Member]) -> list[str]:
    """Returns sentences on what should make a reader doubt some of the numbers."""
    total = len(members)
    diverged = [member for member in members if member.status == "diverged"]
    limited = [member for member in members if member.status == "epoch limit"]
    collapsed = [member for member in members if member.active_units == 0]
    weak = [member for member in members if member.is_weak]
    warnings = []
    if diverged:
        warnings.append(
            f"{len(diverged)} of {total} diverged: {_some_runs(diverged)}. Means over"
            " seeds leave out members without a score."
        )
    if limited:
        warnings.append(
            f"{len(limited)} of {total} stopped at the epoch limit and may have"
            f" improved further: {_some_runs(limited)}."
        )
    if collapsed:
        warnings.append(
            f"{len(collapsed)} of {total} collapsed, without any active unit:"
            f" {_some_runs(collapsed)}."
        )
    if weak:
        weak.sort(key=lambda member: member.effective_sample_size)
        warnings.append(
            f"The log-likelihood of {len(weak)} of {total} rests on few importance"
            f" weights (effective sample size below {_MIN_EFFECTIVE_SAMPLE_SIZE} or a"
            f" weight above {_MAX_LARGEST_WEIGHT}), so the model may be better than its"
            f" score: {_some_runs(weak)}."
        )
    return warnings


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


def _some_runs(members: Sequence[Member], limit: int = 4) -> str:
    """Returns the first few names of members, and how many there are more."""
    names = [member.run for member in members[:limit]]
    if len(members) > limit:
        names.append(f"{len(members) - limit} more")
    return _join(names)


def _join(values: Iterable[object]) -> str:
    """Returns the values as text with commas."""
    return ", ".join(map(str, values))


def _distinct(values: Iterable[object]) -> str:
    """Returns the distinct values as text with commas."""
    return _join(dict.fromkeys(values))


def _words(name: str) -> str:
    """Returns the name of a likelihood for a reader."""
    return name.replace("_", " ")


def _count(number: int, noun: str) -> str:
    """Returns a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _format(value: object, specification: str) -> str:
    """Returns the value as text; a dash if it is NaN."""
    if isinstance(value, float) and math.isnan(value):
        return "–"
    return format(value, specification)


def _data_uri(content: bytes, media_type: str) -> str:
    """Returns a file as a URI to embed in a page."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
