"""docs/theory.md, printed from the measurements of the theory's programs."""

from collections.abc import Mapping
from pathlib import Path

import jinja2

from experiments.files.templates import templates
from experiments.files.writing import write_atomically
from experiments.report.style import rendered
from experiments.theory.claims import Story

# In the order of the page; each is a module with a function ``run() -> Story``.
PROGRAMS = (
    "coin",
    "marginalization",
    "identity",
    "reparameterization",
    "reconstruction",
    "ignoring_encoder",
    "aggregated_posterior",
    "generation",
    "noise_chain",
    "diffusion_bound",
    "scores",
    "flows",
    "memorization",
)


def write_figures(folder: Path, story: Story) -> None:
    """Writes a program's figures as SVG, the same bytes for the same numbers."""
    for name, figure in story.figures.items():
        write_atomically(folder / f"{name}.svg", rendered(figure))


def section(name: str, story: Story) -> str:
    """Returns a program's section of the page: its text, then its claims, folded.

    The text is ``<name>.md.jinja``. No number is typed in it: the template reads the
    story's numbers as ``own``, as in ``{{ own.estimate | number(".4f") }}``.
    """
    page = _pages().get_template("section.md.jinja")
    return page.render(name=name, claims=story.claims, own=story.numbers).rstrip()


def write_page(path: Path, stories: Mapping[str, Story]) -> None:
    """Writes the page, and its figures beside it in ``images/theory/``.

    The page is ``theory.md.jinja``: the sections of the programs, and the text between
    them, which quotes ``stories``.
    """
    for name, story in stories.items():
        write_figures(path.parent / "images" / "theory" / name, story)
    sections = {name: section(name, story) for name, story in stories.items()}
    claims = [claim for story in stories.values() for claim in story.claims]
    page = _pages().get_template("theory.md.jinja")
    write_atomically(
        path, page.render(sections=sections, stories=stories, claims=claims)
    )


def _pages() -> jinja2.Environment:
    pages = templates(Path(__file__).parent)
    pages.filters["number"] = format
    return pages
