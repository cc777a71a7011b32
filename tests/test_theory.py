"""The page of the theory, and that all of its claims hold."""

import importlib
import re
from pathlib import Path

import pytest

from experiments.theory.page import PROGRAMS, section

PAGE = (Path(__file__).parent.parent / "docs" / "theory.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_all_claims_hold_and_the_section_shows_every_figure(name):
    story = importlib.import_module(f"experiments.theory.{name}").run()
    assert [claim.statement for claim in story.claims if not claim.holds] == []
    shown = re.findall(rf"\]\(images/theory/{name}/(.*?)\.svg\)", section(name, story))
    assert sorted(shown) == sorted(story.figures)


def test_formulas_stand_alone_where_every_renderer_of_markdown_finds_them():
    blocks = re.findall(r"(?<=\n\n)\$\$\n(.*?)\n\$\$(?=\n\n)", PAGE, re.DOTALL)
    assert 2 * len(blocks) == PAGE.count("$$") > 100
    # A line that begins so is a list, a quotation or a heading to some renderers.
    taken = re.compile(r"^([-+*>#] |=+$|$)", re.MULTILINE)
    assert not [block for block in blocks if taken.search(block)]


def test_the_contents_list_every_section_in_order():
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    anchors = [
        re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings
    ]
    contents = re.findall(r"^\d+\. \[.*\]\(#(.*)\)$", PAGE, re.MULTILINE)
    assert contents == anchors[:-1]
    assert set(re.findall(r"\]\(#(.*?)\)", PAGE)) == set(anchors)


def test_the_page_folds_the_claims_of_every_program_and_all_hold():
    computed = re.findall(r"^Computed by \[(\w+)\.py\]", PAGE, re.MULTILINE)
    assert tuple(computed) == PROGRAMS
    assert PAGE.count("<details>") == PAGE.count("</details>") == len(computed)
    assert "**fails**" not in PAGE
