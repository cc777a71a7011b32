"""Tests of sweeps that SIGKILL ends repeatedly, in every part of their work."""

import json
import random
import re
import signal
import time

import pytest

from tests.faults import call_instead, harness

# One group of four runs.
GROUP = (
    "--config=configs/digits.py",
    "--config.data.num_train=400",
    "--config.model.widths=(12,)",
    "--config.sweep.likelihood=bernoulli",
    "--config.sweep.latent_dim=(2, 3)",
    "--config.sweep.seed=(0, 1)",
    "--config.training.num_epochs=90",
    "--config.training.validate_every=4",
    "--config.evaluation.num_samples=2000",
    "--config.checkpoint.every_epochs=3",
    *harness.NO_DIAGNOSTICS,
)
NUM_RUNS, NUM_EPOCHS = 4, 90
VALIDATED = [*range(4, NUM_EPOCHS, 4), NUM_EPOCHS]
KILLED = -signal.SIGKILL


@pytest.fixture(scope="session")
def group(common, cache):
    """Returns the folder of the group, trained undisturbed."""
    return harness.reference(common / "group", GROUP, cache)


# --- moments, each a condition on a folder that holds at some later time --------------


def at_any_time(folder, rng):
    enough = harness.checkpointed(folder, rng.randrange(1, 5))
    delay, since = rng.uniform(0, 0.15), []

    def condition():
        if not since and enough():
            since.append(time.monotonic())
        return since and time.monotonic() - since[0] >= delay

    return condition


def in_a_save(folder, rng):
    enough = harness.checkpointed(folder, rng.randrange(1, 5))
    return lambda: enough() and list(folder.glob("checkpoints/*/.*.unfinished"))


def as_it_begins(folder, rng):
    del rng
    return harness.begun(folder)


def in_the_evaluation(folder, rng):
    del rng
    begun = harness.begun(folder)
    return lambda: begun() and is_trained(folder) and not harness.results(folder)


def between_results(folder, rng):
    del rng
    return lambda: 0 < len(harness.results(folder)) < NUM_RUNS


def is_trained(folder):
    return any(path.stem == str(NUM_EPOCHS) for path in harness.checkpoints(folder))


# --- one group ------------------------------------------------------------------------


def start_sweep(folder, cache, arguments=GROUP):
    sweep = harness.command("sweep", *arguments, f"--workdir={folder}")
    return harness.start(sweep, cache)


def assert_continued(outcome, epoch):
    """Asserts that the process began after the last checkpoint, or from the start."""
    found = re.findall(r"continues after epoch (\d+) of", outcome.stdout)
    assert found == ([str(epoch)] if epoch else [])


def latest_epoch(folder):
    return max((int(path.stem) for path in harness.checkpoints(folder)), default=0)


def epochs_on_disk(folder):
    """Returns the epochs of each run's rows, without a half row that a kill left."""
    epochs = {}
    for path in folder.glob("members/*/metrics.jsonl"):
        for row in path.read_text().splitlines(keepends=True):
            if row.endswith("\n"):
                row = json.loads(row)
                epochs.setdefault(row["run"], []).append(row["epoch"])
    return epochs


@pytest.mark.parametrize("seed", range(10))
def test_five_kills_change_nothing(group, cache, faults, tmp_path, seed):
    rng = random.Random(seed)
    training = [at_any_time, in_a_save, rng.choice([at_any_time, as_it_begins])]
    rng.shuffle(training)
    saved, finished = 0, {}
    for moment in [*training, in_the_evaluation, between_results]:
        with faults.injected(f"SIGKILL {moment.__name__.replace('_', ' ')}"):
            condition = moment(tmp_path, rng)
            process = start_sweep(tmp_path, cache)
            harness.send_while(condition, process, signal.SIGKILL)
            outcome = harness.Outcome(process)
            assert outcome.status == KILLED
            assert_continued(outcome, saved)
            if moment is not as_it_begins:
                # Rows up to the checkpoint are there again, and none of them twice.
                for epochs in epochs_on_disk(tmp_path).values():
                    assert epochs == VALIDATED[: len(epochs)]
                    assert {e for e in VALIDATED if e <= saved} <= set(epochs)
            saved = latest_epoch(tmp_path)
    finished = harness.results(tmp_path)
    assert saved == NUM_EPOCHS
    assert 0 < len(finished) < NUM_RUNS
    outcome = harness.Outcome(start_sweep(tmp_path, cache))
    assert outcome.status == 0, outcome.stderr
    assert_continued(outcome, saved)
    assert finished.items() <= harness.results(tmp_path).items()
    harness.assert_undisturbed(tmp_path, group)


@pytest.mark.parametrize(
    "program",
    [
        call_instead.program("die", function)
        for function in (
            "experiments.runs.folder:write_atomically",  # There is only a lock.
            "experiments.runs.environment:record",
            "experiments.runs.metrics:Metrics.log",
            "experiments.runs.notes:GroupNotes.end",  # All results are there.
            "experiments.launch.sweeps:write_table",
            "experiments.report.page:write_report",
        )
    ],
    ids=lambda program: program[-1],
)
def test_a_kill_between_two_files(group, cache, faults, tmp_path, program):
    with faults.injected("SIGKILL between two files"):
        killed = harness.run(
            harness.command("sweep", *GROUP, f"--workdir={tmp_path}", program=program),
            cache,
        )
        assert killed.status == KILLED, killed.stderr
        outcome = harness.Outcome(start_sweep(tmp_path, cache))
        assert outcome.status == 0, outcome.stderr
        harness.assert_undisturbed(tmp_path, group)


# --- several groups -------------------------------------------------------------------

GROUPS = (
    "--config=configs/digits.py",
    "--config.data.num_train=400",
    "--config.model.widths=(12,)",
    "--config.sweep.likelihood=bernoulli,gaussian_optimal,laplace,beta",
    "--config.sweep.latent_dim=2,",
    "--config.sweep.seed=(0, 1)",
    "--config.training.num_epochs=30",
    "--config.training.validate_every=2",
    "--config.evaluation.num_samples=20",
    "--config.checkpoint.every_epochs=3",
    *harness.NO_DIAGNOSTICS,
)
NUM_GROUP_RUNS = 8


@pytest.fixture(scope="session")
def groups(common, cache):
    """Returns the folder of four groups, trained undisturbed."""
    return harness.reference(common / "groups", GROUPS, cache)


def after_results(folder, count, delay):
    """Returns a moment after so many results, in a process that trains."""
    begun, since = harness.begun(folder), []

    def condition():
        if not since and begun() and len(harness.results(folder)) >= count:
            since.append(time.monotonic())
        return since and time.monotonic() - since[0] >= delay

    return condition


@pytest.mark.parametrize("seed", range(4))
def test_every_member_is_trained_once(groups, cache, faults, tmp_path, seed):
    """Up to five kills hit a sweep of four groups of two runs.

    Groups in two lanes may end together, so that a kill that waits for six results may
    find all eight. Nothing is then left to train, and the moments after it never come.
    """
    rng = random.Random(100 + seed)
    finished = {}
    for count in sorted(rng.sample(range(NUM_GROUP_RUNS), 5)):
        if len(finished) == NUM_GROUP_RUNS:
            break
        with faults.injected("SIGKILL across a sweep's groups"):
            condition = after_results(tmp_path, count, rng.uniform(0, 0.3))
            process = start_sweep(tmp_path, cache, GROUPS)
            harness.send_while(condition, process, signal.SIGKILL)
            assert harness.Outcome(process).status == KILLED
            now = harness.results(tmp_path)
            assert len(now) >= count
            assert finished.items() <= now.items()
            finished = now
    outcome = harness.Outcome(start_sweep(tmp_path, cache, GROUPS))
    assert outcome.status == 0, outcome.stderr
    assert finished.items() <= harness.results(tmp_path).items()
    assert len(harness.results(tmp_path)) == NUM_GROUP_RUNS
    harness.assert_undisturbed(tmp_path, groups)


# --- chains of latents ----------------------------------------------------------------

# Steps that share a program, and averaged parameters; the evaluation draws layers.
CHAINS = (
    "--config=configs/digits.py",
    "--config.data.num_train=400",
    "--config.model.network=identity",
    "--config.model.widths=(256,)",  # The default: the network has no layers.
    "--config.model.posterior=noise",
    "--config.model.prior=diffusion",
    "--config.model.denoiser_widths=(12,)",
    "--config.sweep.likelihood=discretized_gaussian",
    "--config.sweep.latent_dim=(64,)",
    "--config.sweep.noise_steps=(4, 0)",
    "--config.sweep.seed=(0, 1)",
    "--config.training.objective=diffusion",
    "--config.training.kl_warmup_epochs=0",
    "--config.training.ema=0.9",
    f"--config.training.num_epochs={NUM_EPOCHS}",
    "--config.training.validate_every=4",
    "--config.evaluation.num_samples=20",
    "--config.checkpoint.every_epochs=3",
    *harness.NO_DIAGNOSTICS,
)


@pytest.fixture(scope="session")
def chains(common, cache):
    """Returns the folder of chains of latents, trained undisturbed."""
    return harness.reference(common / "chains", CHAINS, cache)


@pytest.mark.parametrize("seed", range(2))
def test_kills_change_no_chain_of_latents(chains, cache, faults, tmp_path, seed):
    rng = random.Random(200 + seed)
    for moment in (at_any_time, in_a_save, in_the_evaluation):
        with faults.injected("SIGKILL of chains of latents"):
            condition = moment(tmp_path, rng)
            process = start_sweep(tmp_path, cache, CHAINS)
            harness.send_while(condition, process, signal.SIGKILL)
            assert harness.Outcome(process).status == KILLED
    outcome = harness.Outcome(start_sweep(tmp_path, cache, CHAINS))
    assert outcome.status == 0, outcome.stderr
    harness.assert_undisturbed(tmp_path, chains)
