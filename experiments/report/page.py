"""The report of a run folder: one HTML file that needs nothing else.

    write_report(folder, rows, left_out)    # folder.path / 'report.html'

Everything is read from the folder, so a report can be rebuilt at any time. Pictures are
drawn from stored arrays if a file is missing, damaged or of another run. Charts are
drawn each time and stay in `figures/` as SVG. The page leaves out and names anything
that cannot be read.
"""

import base64
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.evaluation import results
from experiments.evaluation.columns import Column, shown
from experiments.files.templates import templates
from experiments.files.writing import write_atomically
from experiments.messages.errors import FolderError
from experiments.report import charts, findings, pictures
from experiments.report.groups import Cell, Group, group_members
from experiments.report.members import LIKELIHOOD, Member, members_of
from experiments.report.style import styles_of
from experiments.runs.folder import RunFolder

# The title of each picture, and the sentence that appears when it is shown whole.
_CAPTIONS = {
    "reconstructions": (
        "Reconstructions",
        "Each test image, and below it the mean of p(x|z) at its posterior mean z.",
    ),
    "prior_means": ("Means of p(x|z)", "Each z is drawn from the prior."),
    "samples": ("Samples", "Images drawn from p(x|z), at the same z as the means."),
    "manifold": (
        "Means over the latent plane",
        "Means of p(x|z), with z on a grid of equally likely values.",
    ),
    "latents": (
        "Test images in the latent plane",
        "Posterior means of test images; circles: 1 and 2 σ of the prior.",
    ),
}
# Width in CSS pixels of a picture before it is enlarged, at most: a phone shows it.
_WIDEST = 360
# Browsers open a page quickly that has at most so many members with pictures in a
# group, and at most so many bytes of pictures.
_MOST_PICTURED = 200
_MOST_BYTES = 2**25


def write_report(
    folder: RunFolder,
    rows: Sequence[Mapping[str, Any]],
    left_out: list[str],
) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    Args:
        folder: The run folder.
        rows: Its results, of at least one run.
        left_out: Lines on what could not be read, which the page shows; lines on what
            the page leaves out are appended.

    Raises:
        FolderError: There are no results that can be shown, or the folder cannot be
            written.
    """
    members = members_of(rows, left_out.append, folder.config())
    if not members:
        nothing = f"{folder.path} has no results: train a run first."
        raise FolderError(left_out[0] if left_out else nothing)
    bounds = {
        member.run: _bounds(folder.metrics.read(member.run, left_out.append))
        for member in members
    }
    groups = group_members(members)
    drawn = _pictures(folder, groups, left_out.append)
    tests = sum(len(findings.contest(group).rivals) > 1 for group in groups)
    sections = []
    for group in groups:
        # Legends, tables and the gallery show the likelihoods in one order: best first.
        styles = styles_of(group.labels(group.axes[LIKELIHOOD]))
        drawn_charts = charts.draw(group, bounds)
        for chart in drawn_charts:
            name = f"{chart.name}_{group.key}.svg"
            write_atomically(folder.path / "figures" / name, chart.svg)
        sections.append(
            {
                "group": group,
                "styles": styles,
                "findings": findings.find(
                    group, functools.partial(_scores, folder), tests
                ),
                "extremes": _extremes(group),
                "charts": drawn_charts,
                "gallery": _gallery(group),
                "columns": _columns(group),
            }
        )
    pages = templates(Path(__file__).parent, autoescape=True)
    pages.filters |= {"value": _format, "uri": _data_uri}
    page = pages.get_template("report.html.jinja").render(
        title=f"Variational autoencoders on {_distinct(m.dataset for m in members)}",
        overview=findings.overview(members),
        lost=findings.lost(members),
        warnings=[*findings.warn(members), *left_out],
        sections=sections,
        drawn=drawn,
        captions=_CAPTIONS,
        widest=_WIDEST,
        provenance={
            "Evaluation": {"": _evaluation(members)},
            "Configuration": _by_part(folder.config()),
            "Environment": _environment(folder.environment()),
        },
    )
    path = folder.path / "report.html"
    write_atomically(path, page)
    return path


def _extremes(group: Group) -> list[Member]:
    """Returns the best and the worst member; nothing if fewer than two have a score.

    Members that failed or diverged do not count.
    """
    scored = [m for m in group.members if not m.is_lost and math.isfinite(m.score)]
    scored.sort(key=lambda member: member.score)
    return [scored[0], scored[-1]] if len(scored) > 1 else []


def _gallery(group: Group) -> dict[str, list[Cell]]:
    """Returns the cells by likelihood, in the order of latent sizes and settings."""
    cells = sorted(group.cells(), key=lambda cell: cell.latent_dim)
    return {
        name: [cell for cell in cells if cell.likelihood == name]
        for name in group.likelihoods
    }


def _by_interest(group: Group) -> list[Member]:
    """Returns the members in the order in which a reader wants to see their pictures.

    The best and the worst come first, then the first seed of each cell from the lowest
    mean to the highest, then the second seeds, and so on.
    """
    by_seed = itertools.zip_longest(*(cell.members for cell in group.ranking()))
    found = [*_extremes(group), *filter(None, itertools.chain(*by_seed))]
    return list({member.run: member for member in found}.values())


def _pictures(
    folder: RunFolder, groups: Sequence[Group], report: Callable[[str], object]
) -> dict[str, dict[str, pictures.Picture]]:
    """Draws the pictures of all members, and returns those that the page shows.

    Returns:
        By run, then by name; empty for a run without pictures.
    """
    shown = {}
    for group in groups:
        room = _MOST_BYTES / len(groups)
        for i, member in enumerate(_by_interest(group)):
            found = {}
            if not math.isnan(member.score):  # A diverged member has no pictures.
                found = pictures.ensure(
                    folder.path / "figures" / member.run,
                    member.latent_dim,
                    folder.owners[member.run],
                    functools.partial(folder.members.arrays, member.run),
                    report,
                )
            if not found or (i < _MOST_PICTURED and room > 0):
                shown[member.run] = found
                room -= sum(len(picture.png) for picture in found.values())
    return shown


def _scores(folder: RunFolder, member: Member) -> np.ndarray | None:
    """Returns the scores of a member's test images, [M]; None if unreadable."""
    try:
        arrays = folder.members.arrays(member.run)
        scores = results.scores(
            member.view,
            arrays["test/log_px"],
            arrays["picture/originals"][0].size,
            int(arrays["picture/levels"]),
        )
    except Exception:  # A stranger's arrays may be of any kind.
        return None
    return scores if scores.shape == (member.num_test_images,) else None


def _bounds(rows: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the bounds of a run by split, [T, 2]: epoch and nats per image."""
    # If an interruption made an epoch run twice, its last row counts.
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


def _columns(group: Group) -> list[Column]:
    """Returns the columns of the table of results: axes follow the latent size."""
    axes = [
        Column(axis, "axis of the sweep", str, header=axis)
        for axis in list(group.axes)[2:]
    ]
    columns = shown(group.unit, group.decimals)
    place = [column.name for column in columns].index("latent_dim") + 1
    return [*columns[:place], *axes, *columns[place:]]


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


def _by_part(tree: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Returns the leaves of each part of a tree as names and values.

    Leaves without a part come first, as those of ''.
    """
    parts = {name: value for name, value in tree.items() if isinstance(value, Mapping)}
    alone = {name: value for name, value in tree.items() if name not in parts}
    return {name: _flatten(part) for name, part in {"": alone, **parts}.items() if part}


def _environment(found: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Returns the parts of the first environment, and how each later one differed."""
    first = {name: value for name, value in found.items() if name != "continued"}
    same = _flatten(first)
    later = dict.fromkeys(  # Each difference once, in the order of time.
        tuple(row for row in _flatten(environment) if row not in same)
        for environment in found.get("continued", [])
        if isinstance(environment, Mapping)
    )
    return _by_part(first) | {
        f"continued {i}": list(rows) for i, rows in enumerate(filter(None, later), 1)
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns the leaves of nested dictionaries as dotted names and values."""
    rows = []
    for key, value in tree.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(i): item for i, item in enumerate(value, 1)}
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
