"""Tests of an installed wheel, outside a checkout, in its own environment.

It uses the packages of the environment that runs the tests.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.commands import COMMANDS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PARTS = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
PACKAGES = ("vae_jax", "experiments", "configs")
TINY = (
    "--config=configs/digits.py:tiny",
    "--config.model.widths=(8,)",
    "--config.training.num_epochs=1",
    "--config.training.validate_every=1",
    "--config.training.kl_warmup_epochs=1",
    "--config.evaluation.num_samples=8",
    "--config.diagnostics.floor=false",
    "--config.diagnostics.permutations=0",
)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Returns the folder of the installed programs, with ``python``."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"  # A build leaves files beside its sources.
    source.mkdir()
    for part in PARTS:
        shutil.copy(ROOT / part, source)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", source], check=True
    )
    shutil.rmtree(source)
    paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    own = Path(sysconfig.get_path("purelib", "venv", paths))
    (own / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python.parent


@pytest.fixture
def run(programs, tmp_path, tmp_path_factory):
    """Runs an installed program in a folder of its own."""
    cache = tmp_path_factory.getbasetemp() / "installed_cache"
    environment = {
        **os.environ,
        "VAE_JAX_CACHE": str(cache),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)

    def run(program, *arguments):
        return subprocess.run(
            [programs / program, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def occupy(folder, *, package):
    """Puts another project's folder ``experiments`` into the current folder."""
    for name in ("experiments", "configs"):
        (folder / name).mkdir()
        if package:
            (folder / name / "__init__.py").write_text("raise ImportError('not ours')")


def assert_lists_the_digits(outcome):
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert len(outcome.stdout.splitlines()) == 156


def test_the_defaults_are_found_in_an_empty_folder(run, tmp_path):
    assert_lists_the_digits(run("python", "-m", "experiments.sweep", "--list"))
    for name in ("configs/mnist.py:cpu", "configs/papers/burda2016.py:static,cpu"):
        for option in ([f"--config={name}"], ["--config", name]):
            outcome = run("python", "-m", "experiments.sweep", "--list", *option)
            assert (outcome.returncode, outcome.stderr) == (0, "")
            assert outcome.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", [False, True])
def test_a_folder_named_experiments_does_no_harm(run, tmp_path, package):
    occupy(tmp_path, package=package)
    if not package:
        assert_lists_the_digits(run("python", "-m", "experiments.sweep", "--list"))
    assert_lists_the_digits(run("python", "-P", "-m", "experiments.sweep", "--list"))
    assert_lists_the_digits(run("vae-jax-sweep", "--list"))


def test_every_command_line_is_installed(run):
    for command in COMMANDS:
        outcome = run(f"vae-jax-{command}", "--help")
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert "--workdir" in outcome.stdout or command in ("papers", "prepare")


def test_a_sweep_by_jobs_is_trained_evaluated_and_continued_there(run, tmp_path):
    """Jobs are processes of their own, and must find the same package again."""
    occupy(tmp_path, package=True)
    sweep = ("vae-jax-sweep", *TINY, "--workdir=run", "--only=latent_dim=2,seed=0")
    outcome = run(*sweep, "--launcher=local")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert (tmp_path / "run" / "report.html").exists()
    outcome = run("vae-jax-evaluate", "--workdir=run", "--num_samples=8")
    assert outcome.returncode == 0, outcome.stderr
    outcome = run(*sweep)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "0 to train" in outcome.stdout
