"""Run folders for tests: made, filled, and refused; and a small sweep for them."""

import hashlib

import pytest

from configs import digits
from experiments.files.sealed import write_record
from experiments.messages.errors import CommandError
from experiments.runs.folder import RunFolder

CONFIG = {
    "seed": 0,
    "model": {"latent_dim": 2, "widths": (8, 4), "condition_on": ""},
    "trackers": ("tensorboard",),
    "sweep": {},
}
IMAGES = "0123456789ab"


def small_sweep():
    """Returns the tiny configuration: few images, no diagnostics, short evaluation."""
    config = digits.get_config("tiny").to_dict()
    config["data"]["num_train"] = 100
    config["evaluation"] |= {"num_samples": 2, "chunk": 2, "batch_size": 10}
    config["diagnostics"] = {
        "latents": False,
        "permutations": 0,
        "floor": False,
        "probes": False,
    }
    return config


def owners_of(*names):
    """Returns fingerprints by name; they need not belong to any configuration."""
    return {name: hashlib.sha256(name.encode()).hexdigest() for name in names}


OWNERS = owners_of("a", "b", "c")


def opened(
    path,
    config=CONFIG,
    owners=OWNERS,
    images=IMAGES,
    report=lambda line: None,
    **options,
):
    """Opens a folder, which the caller closes."""
    return RunFolder.create(path, config, owners, images, report, **options)


def create(*arguments, **options):
    """Opens a folder and closes it again, so that another test may."""
    folder = opened(*arguments, **options)
    folder.close()
    return folder


def listing(folder):
    """Returns the files of a folder, without the locks."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", ".tables.lock")
    )


def refusal(function, *arguments, **options):
    """Returns the one line with which a call is refused."""
    with pytest.raises(CommandError) as caught:
        function(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.endswith(".")
    return line


RESULT = {
    "dataset": "digits",
    "likelihood": "bernoulli",
    "latent_dim": 2,
    "seed": 0,
    "view": "binary",
    "unit": "nats",
    "score": 1.25,
    "beta": 1.0,
    "num_test_images": 297,
    "epochs": 10,
    "attempt": 0,
    "last_gain": 0.5,
    "status": "schedule ended",
}


def save_member(folder, run, params=None, arrays=None, bits=None, **fields):
    """Stores a finished run, with a row of all columns."""
    folder.members.save(
        run, params or {}, {**RESULT, **fields}, arrays or {}, bits or {}
    )


def reseal(path, facts):
    """Writes a record with a valid seal."""
    write_record(path, {name: facts[name] for name in facts if name != "sha256"})
