"""Tests of the theory's page, and of all of its claims."""

import importlib
import re
from pathlib import Path

import pytest

from experiments.theory.page import PROGRAMS, section

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "theory.md").read_text()


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


def test_a_link_that_names_code_leads_to_the_file_that_defines_it():
    links = re.findall(r"\[([\w.]+)\]\(\.\./([\w/]+\.py)\)", PAGE)
    missing = [
        (name, file)
        for name, file in links
        if not file.endswith(f"/{name}")
        and not re.search(
            rf"^ *(def|class) {name.split('.')[-1]}\b", (ROOT / file).read_text(), re.M
        )
    ]
    assert len(links) > 30
    assert missing == []


def test_the_contents_list_every_section_in_order():
    sections = re.findall(r"^## \d+\. (.*)$", PAGE, re.MULTILINE)
    assert re.findall(r"^\d+\. \[(.*)\]\(#", PAGE, re.MULTILINE) == sections


def test_the_page_folds_the_claims_of_every_program_and_all_hold():
    computed = re.findall(r"^Computed by \[(\w+)\.py\]", PAGE, re.MULTILINE)
    assert tuple(computed) == PROGRAMS
    assert PAGE.count("<details>") == PAGE.count("</details>") == len(computed)
    assert "**fails**" not in PAGE
