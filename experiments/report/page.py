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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from experiments.data.sources import Split
from experiments.evaluation.columns import SHOWN, Column
from experiments.evaluation.stored_arrays import (
    GUIDANCE_WEIGHTS,
    SAMPLER_STEPS,
    SAMPLERS_SHOWN,
)
from experiments.explorer.page import MOST_BYTES, explore, pages
from experiments.files.writing import write_atomically
from experiments.messages.errors import FolderError
from experiments.report import charts, findings, pictures
from experiments.report.groups import (
    Group,
    best_of_each_likelihood,
    group_members,
)
from experiments.report.members import LIKELIHOOD, Member, members_of
from experiments.report.scores import if_readable
from experiments.report.style import rendered, styles_of
from experiments.runs.folder import RunFolder
from experiments.settings.grid import Run
from experiments.settings.options import OF_CHAINS
from experiments.settings.schema import EvaluationSettings

_MOST_EXPLORED = 3_500_000  # bytes of the explorer; pictures get the rest of the page
_ALWAYS_PICTURED = 2  # members of each group, even in a full page
_FRAME_BYTES = 700  # of the page around a picture, besides the model's name; at most
# The pictures that the summary shows of the best and the worst, as the gallery does.
_IN_SUMMARY = ("reconstructions", "samples")


def write_report(
    folder: RunFolder,
    rows: Sequence[Mapping[str, Any]],
    left_out: list[str],
    runs: Sequence[Run] = (),
    images: Split | None = None,
) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    Args:
        folder: the run folder.
        rows: its results, of at least one run.
        left_out: lines on what could not be read, which the page shows; lines on what
            the page leaves out are appended.
        runs: those of the configuration, of which the page explores the best of each
            likelihood; without them it explores none.
        images: the test images; None: the page explores those that a run stored.

    Raises:
        FolderError: there are no results that can be shown, or the folder cannot be
            written.
    """
    members = members_of(rows, left_out.append, folder.config())
    if not members:
        nothing = f"{folder.path} has no results: train a run first."
        raise FolderError(left_out[0] if left_out else nothing)
    bounds = bounds_of(folder, members, left_out.append)
    groups = group_members(members)
    tests = sum(len(findings.contest(group).rivals) > 1 for group in groups)
    read = {measure: if_readable(folder, measure) for measure in ("score", "bound")}
    sections = []
    for group in groups:
        # Legends, tables and the gallery show the likelihoods in one order: best first.
        styles = styles_of(group.labels(group.axes[LIKELIHOOD]))
        drawn_charts = [(c, rendered(c.figure)) for c in charts.draw(group, bounds)]
        for chart, svg in drawn_charts:
            name = f"{chart.name}_{group.key}.svg"
            write_atomically(folder.path / "figures" / name, svg)
        sections.append(
            {
                "group": group,
                "styles": styles,
                "findings": findings.find(group, read[group.measure], tests),
                "distances": findings.distances(group, read[group.measure]),
                "extremes": _extremes(group),
                "charts": drawn_charts,
                "columns": _columns(group),
            }
        )
    evaluation = _evaluation(members)
    explorer = None
    if runs:
        best = best_of_each_likelihood(groups, runs)
        explorer = explore(folder, best, images, _MOST_EXPLORED)
    templates = pages(Path(__file__).parent)
    templates.filters |= {
        "value": _format,
        "uri": _data_uri,
        "picture_uri": _picture_uri,
    }
    render = functools.partial(
        templates.get_template("report.html.jinja").render,
        title=f"Variational autoencoders on {', '.join(evaluation['data'])}",
        overview=findings.overview(members),
        lost=findings.lost(members),
        sections=sections,
        in_summary=_IN_SUMMARY,
        way=_way(folder.config()),
        sampler_names=SAMPLERS_SHOWN,
        sampler_steps=SAMPLER_STEPS,
        guidance_weights=[f"{weight:g}" for weight in GUIDANCE_WEIGHTS],
        explorer=explorer,
        sorting=Markup((Path(__file__).parent / "sorting.js").read_text("utf-8")),
        provenance={
            "Evaluation": evaluation,
            "Configuration": folder.config(),
            "Environment": _environment(folder.environment()),
        },
    )
    doubts = findings.warn(members)
    bare = render(drawn={}, warnings=[*doubts, *left_out])
    room = MOST_BYTES - len(bare.encode())
    drawn = _pictures(folder, groups, room, left_out.append)
    page = render(drawn=drawn, warnings=[*doubts, *left_out])
    path = folder.path / "report.html"
    write_atomically(path, page)
    return path


def _extremes(group: Group) -> list[Member]:
    """Returns the best member of the best cell, and the worst of the worst cell.

    Nothing if fewer than two members have a score. Members that failed or diverged do
    not count.
    """
    cells = [cell for cell in group.ranking if cell.num_seeds]
    if not cells:
        return []
    highest = max(cells, key=lambda cell: cell.mean)
    best, worst = group.scored(cells[0]), group.scored(highest)
    return [best[0], worst[-1]] if best[0] is not worst[-1] else []


def _by_interest(group: Group) -> list[Member]:
    """Returns the members in the order in which a reader wants to see their pictures.

    The best and the worst come first, then the first seed of each cell from the lowest
    mean to the highest, then the second seeds, and so on.
    """
    by_seed = itertools.zip_longest(*(cell.members for cell in group.ranking))
    found = [*_extremes(group), *filter(None, itertools.chain(*by_seed))]
    return list({member.run: member for member in found}.values())


def _pictures(
    folder: RunFolder,
    groups: Sequence[Group],
    num_bytes: int,
    report: Callable[[str], object],
) -> dict[str, dict[str, pictures.Picture]]:
    """Draws the pictures of all members, and returns those that the page shows.

    Args:
        folder: the run folder.
        groups: the groups.
        num_bytes: of the page for pictures, which the groups share.
        report: gets a line on what cannot be drawn or written.

    Returns:
        By run, then by name; empty for a run without pictures.
    """
    shown = {}
    smallest_first = sorted(groups, key=lambda group: len(group.members))
    for others, group in zip(range(len(groups))[::-1], smallest_first, strict=True):
        room = num_bytes / (others + 1)
        extremes = [member.run for member in _extremes(group)]
        for i, member in enumerate(_by_interest(group)):
            found = {}
            if not math.isnan(member.score):  # A diverged member has no pictures.
                found = pictures.ensure(
                    folder.path / "figures" / member.run,
                    member.latent_dim,
                    bool(member.condition_on),
                    member.estimator == "bound",
                    folder.owners[member.run],
                    functools.partial(folder.members.arrays, member.run),
                    report,
                )
            always = not found or i < _ALWAYS_PICTURED
            if always or room > 0:
                repeated = _IN_SUMMARY if member.run in extremes else ()
                size = _num_bytes(member, found, repeated)
                room -= size
                if always or room >= 0:
                    shown[member.run] = found
                    num_bytes -= size
    return shown


def _num_bytes(
    member: Member, drawn: Mapping[str, pictures.Picture], repeated: Sequence[str]
) -> int:
    """Returns how many bytes the pictures of a member have in the page.

    Args:
        member: the member.
        drawn: its pictures by name.
        repeated: names of those that the page shows twice.
    """
    frame = _FRAME_BYTES + len(member.kind.encode())
    return sum(
        (frame + len(_picture_uri(picture))) * (1 + (name in repeated))
        for name, picture in drawn.items()
    )


def bounds_of(
    folder: RunFolder, members: Sequence[Member], report: Callable[[str], object]
) -> dict[str, charts.Bounds]:
    """Returns the learning curves of members by run.

    Args:
        folder: the run folder.
        members: the members.
        report: gets a line on what cannot be read.
    """
    return {
        member.run: _bounds(folder.metrics.read(member.run, report))
        for member in members
    }


def _bounds(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the bounds of a run by split, [T, 2]: epoch and nats per image."""

    def curve(split: str) -> np.ndarray:
        found = [(row["epoch"], row.get(f"{split}/bound", math.nan)) for row in rows]
        # If an interruption made an epoch run twice, its last row counts.
        last = {epoch: bound for epoch, bound in found if not math.isnan(bound)}
        return np.array(sorted(last.items()), float).reshape(-1, 2)

    return {split: curve(split) for split in ("train", "validation")}


def _columns(group: Group) -> list[Column]:
    """Returns the columns of the table of results: axes follow the latent size."""
    axes = [
        Column(axis, "axis of the sweep", str, header=axis)
        for axis in list(group.axes)[2:]
    ]
    place = [column.name for column in SHOWN].index("latent_dim") + 1
    return [*SHOWN[:place], *axes, *SHOWN[place:]]


def _evaluation(members: Sequence[Member]) -> dict[str, list[Any]]:
    """Returns how the scores were computed: the values that occur, by name."""
    binary = [member for member in members if member.view == "binary"]
    facts = (
        ("data", "dataset", members),
        ("test images", "num_test_images", members),
        ("importance samples for each image", "num_importance_samples", members),
        ("binarization", "binarization", binary),
        ("binarization seed", "binarization_seed", binary),
    )
    return {
        name: list(dict.fromkeys(member.row[column] for member in some))
        for name, column, some in facts
        if some
    }


def _way(config: Mapping[str, Any]) -> str:
    """Returns how chains of latents are sampled, in words; '' if by their own steps."""
    section = config.get("evaluation")
    given = section if isinstance(section, Mapping) else {}
    return ", ".join(
        f"{name.replace('_', ' ')} = {value}"
        + " where label_dropout allows it" * (name == "guidance")
        for name in OF_CHAINS
        if (value := given.get(name, {})) not in ({}, getattr(EvaluationSettings, name))
    )


def _environment(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the first environment, and how each later one differed from it."""
    first = {name: value for name, value in found.items() if name != "continued"}
    later: list[Mapping[str, Any]] = []  # Each difference once, in the order of time.
    for environment in found.get("continued", []):
        if (changed := _changed(environment, first)) and changed not in later:
            later.append(changed)
    return first | {f"continued {i}": own for i, own in enumerate(later, 1)}


def _changed(now: Any, before: Any) -> Any:
    """Returns the entries of nested mappings that are not as they were before."""
    if not isinstance(now, Mapping) or not isinstance(before, Mapping):
        return now
    return {
        name: _changed(value, before.get(name))
        for name, value in now.items()
        if name not in before or value != before[name]
    }


def _format(value: object, specification: str) -> str:
    """Returns the value as text; a dash if it is NaN."""
    if isinstance(value, float) and math.isnan(value):
        return "–"
    return format(value, specification)


def _picture_uri(picture: pictures.Picture) -> str:
    """Returns a picture as a URI to embed in a page."""
    return _data_uri(*picture.embedded)


def _data_uri(content: bytes, media_type: str) -> str:
    """Returns a file as a URI to embed in a page."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
