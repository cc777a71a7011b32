"""Tests that imports run one way, as the layout of the project promises."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a module of the library may import from the library: only ranks below its own.
RANKS = {
    "registry": 0,
    "checks": 0,
    "views": 0,
    "mesh": 0,
    "gradients": 0,
    "mmd": 0,
    "products": 0,
    "per_image": 1,
    "networks": 1,
    "likelihoods": 1,
    "distributions": 2,
    "posteriors": 3,
    "priors": 3,
    "model": 4,
    "objectives": 5,
    "evidence": 5,
    "diagnostics": 5,
    "fitted_prior": 5,
    "training": 6,
    "measure": 6,
    "population": 7,
    "trained": 7,
    "fitting": 8,
}
FORBIDDEN_IN_LIBRARY = {
    "absl",
    "configs",
    "experiments",
    "logging",
    "matplotlib",
    "ml_collections",
    "os",
    "pathlib",
    "rich",
    "tensorboardX",
    "tensorflow_datasets",
}


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def imported(path):
    """Returns the dotted names a file imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def packages(path):
    return {dotted.partition(".")[0] for dotted in imported(path)}


def module(path):
    """Returns the name of a library file's module, or of the package it is in."""
    return path.relative_to(ROOT / "vae_jax").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files("vae_jax"), ids=name)
def test_library_has_no_flags_files_or_experiments(path):
    assert not packages(path) & FORBIDDEN_IN_LIBRARY
    if module(path) != "networks":
        assert "flax" not in packages(path)


@pytest.mark.parametrize("path", files("vae_jax"), ids=name)
def test_library_imports_run_one_way(path):
    used = {
        dotted.split(".")[1]
        for dotted in imported(path)
        if dotted.startswith("vae_jax.")
    } - {module(path)}
    assert used <= RANKS.keys()
    if module(path) == "__init__":  # It exports names of any room.
        return
    assert all(RANKS[other] < RANKS[module(path)] for other in used), used


def test_every_module_of_the_library_has_a_rank():
    assert {module(path) for path in files("vae_jax")} - {"__init__"} == set(RANKS)


@pytest.mark.parametrize("path", files("configs"), ids=name)
def test_configs_import_neither_library_nor_experiments(path):
    assert packages(path) <= {"ml_collections", "configs", "typing", "collections"}


def test_only_the_data_modules_know_tensorflow_datasets():
    users = {
        path.name
        for path in files("experiments")
        if "tensorflow_datasets" in packages(path)
    }
    assert users <= {"data_sources.py", "prepare.py"}


def test_nothing_is_printed_by_the_library():
    for path in files("vae_jax"):
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"print", "open", "input"}, path
