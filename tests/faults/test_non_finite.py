"""Tests of non-finite values: the member stops, is named, and can be replayed."""

import json
import shlex
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.files.tensors import load_arrays
from tests.faults import harness, injecting
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.training import Trainer, TrainingConfig

NUM_IMAGES, BATCH_SIZE, STEPS_PER_EPOCH = 400, 100, 4
# For any model: it decides the order of the images.
TRAINER = Trainer(
    make_vae(make_likelihood("bernoulli", 17), image_shape=(8, 8, 1), latent_dim=2),
    TrainingConfig(batch_size=BATCH_SIZE),
    NUM_IMAGES,
)
VALIDATE_EVERY = 5  # The last validation comes two epochs after the one before.
SMALL = (
    "--config=configs/digits.py",
    f"--config.data.num_train={NUM_IMAGES}",
    "--config.model.widths=(12,)",
    "--config.sweep.latent_dim=(2,)",
    "--config.training.num_epochs=12",
    f"--config.training.validate_every={VALIDATE_EVERY}",
    "--config.evaluation.num_samples=20",
    "--config.checkpoint.every_epochs=1",
    "--config.checkpoint.keep=99",
    *harness.NO_DIAGNOSTICS,
)
EIGHT = (*SMALL, "--config.sweep.seed=(0, 1, 2, 3, 4, 5, 6, 7)")

# One for each member but the first; in the first epoch and in the last, at the first
# batch of an epoch and at its last.
PLACES = {
    1: ("reconstruction", 7),
    2: ("kl", 0),
    3: ("bound", 11),
    4: ("batch", 3),
    5: ("gradient", 47),
    6: ("shared", 9),
    7: ("validation", VALIDATE_EVERY * STEPS_PER_EPOCH),
}
OFFENDERS = {
    "kl": "KL",
    "batch": "reconstruction",
    "shared": "shared parameters",
    "validation": "validation bound",
}
VALUES = ("nan", "inf", "-inf")

# Each place once.
REPLAYED = {
    ("bernoulli", "map"): (1, 3),
    ("bernoulli", "loop"): (2, 7),
    ("gaussian_optimal", "map"): (5, 6),
    ("gaussian_optimal", "loop"): (4,),
}


def injections_for(execution):
    """Returns injections whose values differ between mapped and looped execution."""
    shift = ("map", "loop").index(execution)
    return [
        {
            "seed": seed,
            "step": step,
            "place": place,
            "value": VALUES[(seed + shift) % 3],
        }
        for seed, (place, step) in PLACES.items()
    ]


def injected(command, injections, *arguments):
    """Returns the command line of a command with injections."""
    driver = str(Path(injecting.__file__))
    return [sys.executable, driver, command, json.dumps(injections), *arguments]


def run_name(likelihood, seed):
    return f"likelihood={likelihood},latent_dim=2,seed={seed}"


def results_by_run(folder):
    outcome = harness.outcome_of(folder)
    rows = {row["run"]: row for row in outcome["table"]}
    return {
        run: (
            rows[run],
            result,
            params,
            [r for r in outcome["metrics"] if r["run"] == run],
        )
        for run, (result, params, _) in outcome["results"].items()
    }


def assert_checkpoints_are_finite(folder, count):
    """Asserts that all written checkpoints are finite, except for the best bound."""
    groups = list(folder.iterdir())
    checked = 0
    for group in groups:
        for path in group.glob("*.safetensors"):
            arrays, _ = load_arrays(path, {})
            for name, array in arrays.items():
                if name.startswith("state/") and name != "state/best_bound":
                    assert np.isfinite(array).all(), (path, name)
            checked += 1
    assert checked == count


def assert_recorded(folder, run, injection):
    """Asserts that the failure names step, key and images, as the seed determines."""
    facts = json.loads((folder / "failures" / run / "0.json").read_text())
    place, step = injection["place"], injection["step"]
    epoch, batch = divmod(step, STEPS_PER_EPOCH)
    assert facts["run"] == run
    assert facts["offender"] == OFFENDERS.get(place, place)
    assert (facts["step"], facts["epochs_finished"]) == (step, epoch)
    assert facts["batch"] == batch
    if place != "validation":
        key = injecting.step_key(injection)
        assert facts["key"] == jax.random.key_data(key).tolist()
        key = injecting.member_key(injection["seed"])
        batches = TRAINER.batches(key, epoch)
        assert facts["images"] == batches[batch].tolist()


@pytest.mark.parametrize("execution", ["map", "loop"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian_optimal"])
def test_injections(tmp_path, cache, faults, likelihood, execution):
    sweep = (
        *EIGHT,
        f"--config.sweep.likelihood={likelihood}",
        f"--config.parallel.member_execution={execution}",
    )
    injections = [
        injection
        for injection in injections_for(execution)
        if injection["place"] != "shared" or likelihood == "gaussian_optimal"
    ]
    # The same program, but for constants: with steps that are never reached.
    never = [{**injection, "step": 10**6, "seed": 99} for injection in injections]
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    for path, given in ((undisturbed, never), (folder, injections)):
        arguments = injected("sweep", given, *sweep, f"--workdir={path}")
        outcome = harness.run(arguments, cache)
        assert (outcome.status, outcome.stderr) == (0, "")
    assert not (undisturbed / "failures").exists()
    expected, found = results_by_run(undisturbed), results_by_run(folder)
    assert expected.keys() == found.keys()
    assert_checkpoints_are_finite(tmp_path / "run.kept", count=12)

    failed = {run_name(likelihood, injection["seed"]) for injection in injections}
    assert {path.name for path in (folder / "failures").iterdir()} == failed
    for run in expected.keys() - failed:
        assert found[run] == expected[run]
    for injection in injections:
        run = run_name(likelihood, injection["seed"])
        with faults.injected(f"{injection['value']} in {injection['place']}"):
            assert_recorded(folder, run, injection)
            row, result, _, metrics = found[run]
            assert row["status"] == result["status"] == "diverged"
            assert row["score"] == ""
            # Up to this point, it is the undisturbed run.
            validations = injection["step"] // STEPS_PER_EPOCH // VALIDATE_EVERY
            if injection["place"] == "validation":
                validations -= 1
            assert metrics == expected[run][3][:validations]
            assert f"warning: {run} met a value" in outcome.stdout

    for injection in injections:
        if injection["seed"] in REPLAYED[likelihood, execution]:
            run = run_name(likelihood, injection["seed"])
            assert_replays(folder, run, injection, cache)


def assert_replays(folder, run, injection, cache):
    """Asserts that the named command meets the injection again, and only with it."""
    facts = json.loads((folder / "failures" / run / "0.json").read_text())
    python, *arguments = shlex.split(facts["replay"])
    assert (python, arguments[:2]) == ("python", ["-m", "experiments.replay"])
    again = harness.run(injected("replay", [injection], *arguments[2:]), cache)
    assert (again.status, again.stderr) == (0, ""), again.stdout
    offender = facts["offender"]
    assert f"step {facts['step']}: {offender} is not finite; recorded" in again.stdout
    without = harness.run(harness.command("replay", *arguments[2:]), cache)
    assert (without.status, without.stderr) == (1, "")
    assert f"recorded was {offender}" in without.stdout


def test_natural_ones(tmp_path, cache, faults):
    """The settings are extreme: each run diverges, or is finite."""
    folder = tmp_path / "run"
    sweep = harness.command(
        "sweep",
        *SMALL,
        "--config.sweep.seed=(0, 1)",
        "--config.sweep.likelihood=gaussian_pixel",
        "--config.sweep.learning_rate=(0.003, 30.0, 1000.0)",
        "--config.sweep.beta=(1.0, 1e38)",
        f"--workdir={folder}",
    )
    outcome = harness.run(sweep, cache)
    assert (outcome.status, outcome.stderr) == (0, "")
    results = results_by_run(folder)
    assert len(results) == 12
    failed = {path.name for path in (folder / "failures").iterdir()}
    assert len(failed) >= 4
    for run, (row, _, _, metrics) in results.items():
        if "learning_rate=0.003" in run and "beta=1.0" in run:
            assert run not in failed  # The control.
            continue
        with faults.injected("learning rate or beta far too large"):
            assert (row["status"] == "diverged") == (run in failed)
            assert np.isfinite([metric["validation/bound"] for metric in metrics]).all()
            params, _ = load_arrays(folder / "members" / run / "params.safetensors", {})
            assert all(np.isfinite(array).all() for array in params.values())
    for run in sorted(failed)[:2]:
        replay = ("replay", f"--workdir={folder}", f"--run={run}")
        again = harness.run(harness.command(*replay), cache)
        assert again.status == 0, again.stdout
        assert "is not finite; recorded was" in again.stdout


STEPS_SKIPPED = (0, 5, 6, 47)


def test_steps_are_skipped(tmp_path, cache, faults):
    injections = [
        {"seed": 1, "step": step, "place": place, "value": value}
        for step, place, value in zip(
            STEPS_SKIPPED,
            ("gradient", "batch", "kl", "reconstruction"),
            ("nan", "inf", "-inf", "nan"),
            strict=True,
        )
    ]
    folder = tmp_path / "run"
    sweep = injected(
        "sweep",
        injections,
        *SMALL,
        "--config.sweep.seed=(0, 1)",
        "--config.sweep.likelihood=bernoulli",
        "--config.training.on_non_finite=skip",
        f"--workdir={folder}",
    )
    outcome = harness.run(sweep, cache)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert not (folder / "failures").exists()
    rows = {run: row for run, (row, *_) in results_by_run(folder).items()}
    assert rows[run_name("bernoulli", 0)]["skipped_steps"] == "0"
    for _ in injections:
        with faults.injected("step skipped"):
            row = rows[run_name("bernoulli", 1)]
            assert row["skipped_steps"] == str(len(STEPS_SKIPPED))
            assert np.isfinite(float(row["score"]))
            assert row["status"] != "diverged"
    assert_checkpoints_are_finite(tmp_path / "run.kept", count=12)


def test_runs_are_begun_again(tmp_path, cache, faults):
    """They have another key, and the same result after any number of kills."""
    injections = [
        {"seed": 1, "step": 13, "place": "gradient", "value": "nan"},
        {"seed": 2, "step": 2, "place": "bound", "value": "inf"},
        {"seed": 2, "step": 9, "place": "kl", "value": "nan", "attempt": 1},
    ]

    def sweep(folder):
        return injected(
            "sweep",
            injections,
            *SMALL,
            "--config.sweep.seed=(0, 1, 2)",
            "--config.sweep.likelihood=bernoulli",
            "--config.training.on_non_finite=reseed",
            f"--workdir={folder}",
        )

    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    outcome = harness.run(sweep(undisturbed), cache)
    assert (outcome.status, outcome.stderr) == (0, "")
    rows = {run: row for run, (row, *_) in results_by_run(undisturbed).items()}
    for seed, attempt in ((0, "0"), (1, "1"), (2, "2")):
        row = rows[run_name("bernoulli", seed)]
        assert (row["attempt"], row["status"] != "diverged") == (attempt, True)
        assert np.isfinite(float(row["score"]))

    def second_attempt():
        notes = [path.read_text() for path in folder.glob("checkpoints/*.json")]
        begun = any(json.loads(note)["attempt"] == 1 for note in notes)
        return begun and len(harness.checkpoints(folder)) >= 2

    for moment in (
        lambda: any(folder.glob("failures/*/0.json")),
        second_attempt,
    ):
        process = harness.start(sweep(folder), cache)
        assert harness.wait_for(moment, process)
        process.send_signal(signal.SIGKILL)
        assert harness.Outcome(process).status == -signal.SIGKILL
    for _ in injections:
        with faults.injected("run restarted with another key"):
            outcome = harness.run(sweep(folder), cache)
            assert (outcome.status, outcome.stderr) == (0, "")
            assert harness.outcome_of(folder) == harness.outcome_of(undisturbed)
