"""Tests of the pages: examples run, and links and commands are valid."""

import configparser
import importlib.metadata
import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from experiments.settings import configuration
from experiments.settings.arguments import Argument, expanded
from experiments.settings.grid import expand
from tests.test_architecture import RANKS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    README,
    *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG")),
    *DOCS,
]
TEXT = README.read_text()
# English that is hard to read as a second language: say it plainly.
HARD = r"\banew\b|\bis told\b|\bto be had\b|\bwhoever\b|behind each other"


BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page, language=""):
    """Returns the code blocks of a page in a language."""
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def links(page):
    """Returns the links and pictures of a page, without those of other sites."""
    text = BLOCK.sub("", page.read_text())
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    every = [link or source for link, source in found]
    return [link for link in every if not link.startswith(("http:", "https:"))]


def anchors(page):
    """Returns the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
    }


def commands(name):
    """Returns the arguments of a command wherever a page shows it."""
    lines = "".join(text for page in PAGES for text in blocks(page))
    lines = lines.replace("\\\n", " ")
    shown = re.findall(rf"python -m experiments\.{name} (.*)", lines)
    return [shlex.split(line, comments=True) for line in shown]


def test_the_examples_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for example in blocks(README, "python"):
        exec(example, names)
    assert len(names["models"]) == 2
    assert names["log_px"].shape == (297,)
    assert np.all(np.isfinite(names["log_px"]))
    assert names["decoded"].shape == (297, 8, 8)
    with np.load("images.npz") as stored:
        assert stored["train_images"].shape == (1797, 8, 8)


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 150


def test_the_readme_and_plain_make_begin_with_the_same_small_sweep():
    (command,) = re.findall("make sweep ARGS=.*", (ROOT / "Makefile").read_text())
    assert command in TEXT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_the_indexes_name_every_page():
    linked = {link.partition("#")[0] for link in links(ROOT / "docs" / "README.md")}
    assert linked >= {page.name for page in DOCS} - {"README.md"}
    assert set(links(README)) >= {f"docs/{page.name}" for page in DOCS}


def test_the_map_names_every_room():
    named = re.findall(r"^(\w+)/? ", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    rooms = {path.parent.name for path in (ROOT / "experiments").glob("*/__init__.py")}
    assert set(named) >= rooms | set(RANKS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_words_of_a_page_are_plain(page):
    assert not re.findall(HARD, page.read_text(), re.IGNORECASE)


def test_every_command_names_a_module_that_exists():
    text = "".join(page.read_text() for page in PAGES)
    modules = set(re.findall(r"python -m ((?:experiments|benchmarks)(?:\.\w+)*)", text))
    assert {"experiments.sweep", "benchmarks"} <= modules
    assert all(importlib.util.find_spec(module) for module in modules)


def test_every_sweep_and_training_that_a_page_shows_can_be_expanded():
    for name in ("sweep", "train"):
        shown = commands(name)
        assert len(shown) > 1
        for arguments in shown:
            own, _ = configuration.split(expanded(map(Argument, arguments)))
            if any("my_" in each or each.endswith(".json") for each in arguments):
                continue  # Of files that the reader has.
            fields = configuration.read(own, "configs/digits.py").fields
            assert expand(fields | ({} if name == "sweep" else {"sweep": {}}))


def test_every_extra_that_pages_name_exists_and_so_do_those_of_jax():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    text = "".join(page.read_text() for page in PAGES)
    lists = re.findall(r"'\.\[(.+?)\]'", text)
    named = {extra for names in lists for extra in names.split(",")}
    assert {"gpu", "gpu-cuda12"} <= named
    assert named <= set(extras)
    wanted = {name: re.findall(r"jax\[(.+?)\]", extras[name]) for name in extras}
    assert (wanted["gpu"], wanted["gpu-cuda12"]) == (["cuda13"], ["cuda12"])
    offered = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    assert {extra for names in wanted.values() for extra in names} <= set(offered)
