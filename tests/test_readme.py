"""The README's example runs and its links lead somewhere."""

import configparser
import importlib.metadata
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_library_example_runs():
    example = next(block for block in blocks("python") if "fit(" in block)
    names: dict = {}
    exec(example, names)
    assert len(names["models"]) == 2
    assert names["log_px"].shape == (297,)
    assert np.all(np.isfinite(names["log_px"]))
    assert names["decoded"].shape == (297, 8, 8)


@pytest.mark.parametrize(
    "page",
    [README, *sorted((README.parent / "docs").glob("*.md"))],
    ids=lambda page: page.name,
)
def test_every_local_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_command_names_a_module_that_exists():
    modules = set(re.findall(r"python -m ((?:experiments|benchmarks)[.\w]*)", TEXT))
    assert "experiments.sweep" in modules
    assert all(importlib.util.find_spec(module) for module in modules)


def test_every_extra_that_pages_name_exists_and_so_do_those_of_jax():
    setup = configparser.ConfigParser()
    setup.read(README.parent / "setup.cfg")
    extras = setup["options.extras_require"]
    pages = [README, README.parent / "docs" / "launching.md"]
    text = "".join(page.read_text() for page in pages)
    lists = re.findall(r"'\.\[(.+?)\]'", text)
    named = {extra for names in lists for extra in names.split(",")}
    assert {"gpu", "gpu-cuda12"} <= named
    assert named <= set(extras)
    wanted = {name: re.findall(r"jax\[(.+?)\]", extras[name]) for name in extras}
    assert (wanted["gpu"], wanted["gpu-cuda12"]) == (["cuda13"], ["cuda12"])
    offered = importlib.metadata.metadata("jax").get_all("Provides-Extra")
    assert {extra for names in wanted.values() for extra in names} <= set(offered)
