"""Tests that imports run one way, as the layout of the project promises."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module of the library may import only from ranks below its own.
RANKS = {
    "checks": 0,
    "trees": 0,
    "registry": 1,
    "views": 1,
    "mesh": 1,
    "gradients": 1,
    "mmd": 1,
    "products": 1,
    "rows": 1,
    "per_image": 2,
    "networks": 2,
    "likelihoods": 2,
    "distributions": 3,
    "diffusion": 4,
    "posteriors": 5,
    "priors": 5,
    "parts": 6,
    "samplers": 6,
    "guidance": 6,
    "model": 7,
    "objectives": 8,
    "evidence": 8,
    "diagnostics": 8,
    "fitted_prior": 8,
    "training": 9,
    "measure": 9,
    "population": 10,
    "trained": 10,
    "exported": 11,
    "fitting": 11,
}
# The rooms of experiments/, and the files beside them, in the same way.
EXPERIMENTS = {
    "guard": 0,
    "installed": 0,
    "messages": 0,
    "files": 1,
    "data": 2,
    "trackers": 2,
    "settings": 3,
    "evaluation": 4,
    "runs": 5,
    "runner": 6,
    "explorer": 6,
    "report": 7,
    "launch": 8,
    "command_line": 9,
    "theory": 10,
    **dict.fromkeys(("sweep", "train", "evaluate", "compare", "export", "explore"), 10),
    **dict.fromkeys(("replay", "prepare", "papers"), 10),
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
    """Returns the name of a package's module, or of the room it is in."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def used(path):
    """Returns the modules and rooms of its own package that a file imports."""
    package = path.relative_to(ROOT).parts[0]
    dotted = {name for name in imported(path) if name.startswith(f"{package}.")}
    return {name.split(".")[1] for name in dotted} - {module(path)}


@pytest.mark.parametrize("path", files("vae_jax"), ids=name)
def test_library_has_no_flags_files_or_experiments(path):
    assert not packages(path) & FORBIDDEN_IN_LIBRARY
    if module(path) != "networks":
        assert "flax" not in packages(path)


@pytest.mark.parametrize("path", files("vae_jax"), ids=name)
def test_library_imports_run_one_way(path):
    if module(path) != "__init__":  # It exports names of any room.
        assert all(RANKS[other] < RANKS[module(path)] for other in used(path))


@pytest.mark.parametrize("path", files("experiments"), ids=name)
def test_imports_of_the_experiments_run_one_way(path):
    if module(path) != "__init__":  # It exports a name.
        own = EXPERIMENTS[module(path)]
        assert all(EXPERIMENTS[other] < own for other in used(path)), used(path)


def test_within_a_room_imports_make_no_circle():
    for package in ("vae_jax", "experiments"):
        for room in sorted({path.parent for path in files(package)}):
            graph = {
                path.stem: {
                    dotted.split(".")[len(room.relative_to(ROOT).parts)]
                    for dotted in imported(path)
                    if dotted.startswith(f"{'.'.join(room.relative_to(ROOT).parts)}.")
                }
                for path in room.glob("*.py")
                if path.stem != "__init__"
            }
            edges = {stem: others & graph.keys() for stem, others in graph.items()}
            assert list(graphlib.TopologicalSorter(edges).static_order())


def test_every_module_has_a_rank():
    for package, ranks in ("vae_jax", RANKS), ("experiments", EXPERIMENTS):
        modules = {module(path) for path in files(package)} - {"__init__"}
        assert modules == set(ranks)


def test_only_the_report_and_the_theory_draw():
    """Training imports no plotting: the report draws the arrays that it stores."""
    for path in files("experiments"):
        if packages(path) & {"matplotlib"}:
            assert module(path) in ("report", "theory"), path


@pytest.mark.parametrize("path", files("configs"), ids=name)
def test_configs_import_neither_library_nor_experiments(path):
    assert packages(path) <= {"ml_collections", "configs", "typing", "collections"}


def test_only_the_data_modules_know_tensorflow_datasets():
    users = {
        path.name
        for path in files("experiments")
        if "tensorflow_datasets" in packages(path)
    }
    assert users <= {"tfds.py"}


def test_nothing_is_printed_by_the_library():
    for path in files("vae_jax"):
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"print", "open", "input"}, path
