"""Tests of the public names, which docs/api.md lists by room.

``python -m tests.test_api > docs/api.md`` writes the page.
"""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.test_architecture import RANKS

ROOT = Path(__file__).parents[1]
ROOMS = ["vae_jax", *(f"vae_jax.{room}" for room in sorted(RANKS, key=RANKS.get))]
# A docstring of a function begins with one of these; add what is missing.
VERBS = {
    "Appends",
    "Computes",
    "Cuts",
    "Decorates",
    "Draws",
    "Estimates",
    "Evaluates",
    "Fits",
    "Generates",
    "Lifts",
    "Maps",
    "Measures",
    "Refuses",
    "Returns",
    "Splits",
    "Sums",
    "Tests",
    "Yields",
}
INTRODUCTION = """\
# Public names

The first section lists the names of `import vae_jax`. The others list those of each
room; a room imports only from rooms above it on this page. This page is written from
the code by `python -m tests.test_api > docs/api.md`.
"""


def public(room):
    """Returns the objects of a room by name: of ``__all__``, or all that it defines."""
    module = importlib.import_module(room)
    names = getattr(module, "__all__", None) or [
        name
        for node in ast.parse(inspect.getsource(module)).body
        for name in defined(node)
        if not name.startswith("_")
    ]
    return {name: getattr(module, name) for name in names}


def defined(statement):
    """Returns the names that a statement defines, imports left out."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.AnnAssign):
        return [statement.target.id]
    if isinstance(statement, ast.Assign):
        nodes = ast.walk(statement.targets[0])
        return [node.id for node in nodes if isinstance(node, ast.Name)]
    return []


def is_function(value):
    """Returns whether a value is a function, or a transformed one such as jit's."""
    return inspect.isroutine(inspect.unwrap(value)) or inspect.isroutine(
        getattr(value, "fun", None)
    )


def first_paragraph(value):
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


def line(name, value):
    """Returns a name's line: its docstring's first paragraph, or a constant's value."""
    if (inspect.isclass(value) and "[" not in repr(value)) or is_function(value):
        about = first_paragraph(value)
    elif isinstance(value, Mapping):
        about = ", ".join(f"`{key}`" for key in value)
    else:
        about = f"`{value!r}`"
    return f"- `{name}`: {about}"


def page():
    """Returns docs/api.md, as the code has it."""
    parts = [INTRODUCTION]
    for room in ROOMS:
        module = importlib.import_module(room)
        lines = [line(name, value) for name, value in public(room).items()]
        about = first_paragraph(module)
        parts.append("\n".join([f"## {room}\n", f"{about}\n", *lines, ""]))
    return "\n".join(parts)


def test_the_page_of_public_names_is_that_of_the_code():
    found = (ROOT / "docs" / "api.md").read_text()
    assert found == page(), "run: python -m tests.test_api > docs/api.md"


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_have_docstrings_and_functions_say_what_they_do(room):
    for name, value in public(room).items():
        if is_function(value):
            verb = first_paragraph(value).partition(" ")[0]
            assert verb in VERBS, f"{room}.{name}: {verb}"
        elif inspect.isclass(value) and value.__module__.startswith("vae_jax"):
            assert vars(value).get("__doc__"), f"{room}.{name}"
            assert not value.__doc__.startswith(f"{name}("), f"{room}.{name}"


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_exports_is_there(room):
    module = importlib.import_module(room)
    assert hasattr(module, "__all__") == hasattr(module, "__path__")
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(module, name)] == []


def test_importing_the_library_starts_no_backend():
    program = f"""
import importlib, sys
for room in {ROOMS}:
    importlib.import_module(room)
assert not {{"sklearn", "matplotlib", "experiments"}} & sys.modules.keys()
import jax.numpy
try:
    jax.numpy.zeros(1)
except RuntimeError as error:
    assert "no_such_platform" in str(error)
else:
    raise AssertionError("a backend was started, but not by the platform's name")
"""
    command = [sys.executable, "-c", program]
    environment = {"JAX_PLATFORMS": "no_such_platform", "PATH": ""}
    found = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


if __name__ == "__main__":
    print(page(), end="")
