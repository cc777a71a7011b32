"""Tests of experiments.runs.environment."""

import shlex
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

from experiments.runner import failures
from experiments.runs.environment import environment

IMAGES = "0123456789ab"


def test_commands_can_be_pasted_into_a_shell(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--workdir=my runs/it's"])
    for spec, start in (
        (ModuleSpec("experiments.sweep", None), ["-m", "experiments.sweep"]),
        (None, ["x.py"]),
    ):
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
        for computes in (False, True):
            told = environment(IMAGES, {}, computes)["command"]
            assert shlex.split(told) == ["python", *start, "--workdir=my runs/it's"]
    line = failures.replay_command("latent_dim=2,seed=0", Path("my runs/it's"))
    assert shlex.split(line) == [
        *("python", "-m", "experiments.replay"),
        *("--workdir=my runs/it's", "--run=latent_dim=2,seed=0"),
    ]


def test_elsewhere_a_command_does_not_load_what_lies_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    line = failures.replay_command("model", tmp_path)
    assert line.startswith("python -P -m experiments.replay ")


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment(IMAGES, {})["bits_depend_on"]["commit"] == "unknown"


def test_settings_that_decide_rounding_are_told_by_who_computes():
    settings = {"members": 2, "stream": True}
    found = environment(IMAGES, settings)["bits_depend_on"]
    assert found["settings"] == settings
    assert found["data"] == IMAGES
    found = environment(IMAGES, settings, computes=False)["bits_depend_on"]
    assert found == {"data": IMAGES}
