"""docs/theory.md, written from what the programs of the theory measured."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

from experiments.files.sealed import write_atomically
from experiments.report.style import MATPLOTLIB, svg
from experiments.report.templates import templates
from experiments.theory.claims import Story


def write_figures(folder: Path, story: Story) -> None:
    """Writes a program's figures as SVG, the same bytes for the same numbers."""
    with matplotlib.rc_context(MATPLOTLIB):
        for name, figure in story.figures.items():
            write_atomically(folder / f"{name}.svg", svg(figure))


def write_page(path: Path, stories: Mapping[str, Story]) -> None:
    """Writes the page beside ``images/theory/`` with its figures.

    The text is ``theory.md.jinja``, which meets every story under its name, so that no
    number is typed: ``{{ coin.numbers.estimate | decimals(4) }}``.
    """
    for name, story in stories.items():
        write_figures(path.parent / "images" / "theory" / name, story)
    pages = templates(Path(__file__).parent)
    pages.filters["decimals"] = lambda value, digits: f"{value:.{digits}f}"
    page = pages.get_template("theory.md.jinja").render(stories=stories, **stories)
    write_atomically(path, page)
