"""Tests of docs/configuration.md, which the settings print."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from experiments.settings import configuration, grid, page
from experiments.settings.arguments import Argument, expanded
from experiments.settings.schema import Settings, field_types

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
COMMANDS = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)[1].replace("\\\n", "")


def test_the_page_of_the_configuration_is_that_of_the_code():
    command = "python -m experiments.settings.page > docs/configuration.md"
    assert page.page() == PAGE, f"run: {command}"


SECTIONS = [
    n for n, kind in field_types(Settings).items() if dataclasses.is_dataclass(kind)
]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_has_a_meaning_and_stands_on_the_page(section):
    cls = field_types(Settings)[section]
    fields = {field.name for field in dataclasses.fields(cls)}
    assert page.meanings(cls).keys() == fields
    _, own = PAGE.split(f"\n## {section}\n")
    rows = re.findall(r"^\| `(\w+)` \|", own.partition("\n## ")[0], re.MULTILINE)
    assert sorted(rows) == sorted(fields)


@pytest.mark.parametrize("command", COMMANDS.strip().splitlines())
def test_the_commands_of_the_page_are_understood(command):
    own, others = configuration.split(expanded(map(Argument, shlex.split(command)[3:])))
    assert not others
    found = configuration.read(own, "configs/digits.py")
    sweep = found.fields["sweep"] if "experiments.sweep" in command else {}
    assert grid.expand(found.fields | {"sweep": sweep})


def test_the_links_of_the_page_lead_to_headings():
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= anchors
