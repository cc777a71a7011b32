"""Tests of several commands in one folder."""

import csv
import re
import shutil
import signal

import pytest

from tests.faults import harness

REFUSED = 2


def start_sweep(folder, cache):
    sweep = harness.command("sweep", *harness.SWEEP, f"--workdir={folder}")
    return harness.start(sweep, cache)


def test_undisturbed_alone(undisturbed, cache, tmp_path):
    """This is the control: without a second command, all is the same."""
    outcome = harness.Outcome(start_sweep(tmp_path, cache))
    assert outcome.status == 0, outcome.stderr
    harness.assert_undisturbed(tmp_path, undisturbed)


@pytest.mark.parametrize("moment", ["compiles", "trains"])
def test_a_second_command_trains_what_is_left(
    undisturbed, cache, faults, tmp_path, moment
):
    """While the first is stopped, the second does not wait for its groups."""
    first = start_sweep(tmp_path, cache)
    begun = harness.begun(tmp_path)
    if moment == "compiles":
        begun = (tmp_path / "environment.json").exists
    harness.freeze_while(begun, first)
    with faults.injected(f"second command while the first {moment}"):
        second = harness.Outcome(start_sweep(tmp_path, cache))
        first.send_signal(signal.SIGCONT)
        outcome = harness.Outcome(first)
        assert (second.status, second.stderr) == (0, "")
        assert (outcome.status, outcome.stderr) == (0, "")
        assert trained(second) + trained(outcome) == harness.NUM_RUNS
        harness.assert_undisturbed(tmp_path, undisturbed)


def test_runs_that_no_command_holds_are_trained(undisturbed, cache, faults, tmp_path):
    """The first holds one run of a group; the second trains the rest of it."""
    only = "likelihood=bernoulli,latent_dim=2,seed=0"
    command = harness.command(
        "sweep", *harness.SWEEP, f"--workdir={tmp_path}", f"--only={only}"
    )
    first = harness.start(command, cache)
    harness.freeze_while((tmp_path / "members" / only / ".lock").exists, first)
    with faults.injected("second command, first with one run of a group"):
        second = harness.Outcome(start_sweep(tmp_path, cache))
        assert (second.status, second.stderr) == (0, "")
        assert (trained(second), len(harness.results(tmp_path))) == (7, 7)
        assert "1 run left to another command" in second.stdout
        first.send_signal(signal.SIGCONT)
        outcome = harness.Outcome(first)
        assert (outcome.status, outcome.stderr) == (0, "")
        # Other members change a mapped member only by rounding.
        found, expected = (
            harness.outcome_of(folder)["results"] for folder in (tmp_path, undisturbed)
        )
        assert found.keys() == expected.keys()
        for run, (result, *_) in expected.items():
            assert found[run][0]["score"] == pytest.approx(result["score"], abs=1e-3)


def trained(outcome):
    """Returns the number of models that a command reports as trained."""
    line = re.compile(r"^\[\d+/\d+\] \w+: (\d+) model", re.MULTILINE)
    return sum(map(int, line.findall(outcome.stdout)))


@pytest.mark.parametrize("count", [2, 3])
def test_commands_at_the_same_moment_share_the_groups(
    undisturbed, cache, faults, tmp_path, count
):
    """Each group is trained by exactly one of them."""
    folder = tmp_path / "new"
    with faults.injected("several writers at the same moment"):
        processes = [start_sweep(folder, cache) for _ in range(count)]
        outcomes = [harness.Outcome(process) for process in processes]
        for outcome in outcomes:
            assert (outcome.status, outcome.stderr) == (0, "")
        assert sum(map(trained, outcomes)) == harness.NUM_RUNS
        harness.assert_undisturbed(folder, undisturbed)


def test_another_sweep_beside_one_that_trains_is_refused(
    undisturbed, cache, faults, tmp_path
):
    first = start_sweep(tmp_path, cache)
    harness.freeze_while(harness.begun(tmp_path), first)
    with faults.injected("second writer with another sweep"):
        grown = (*harness.SWEEP, "--config.sweep.seed=(0, 1, 2)")
        given = {option.partition("=")[0]: option for option in grown}
        command = harness.command("sweep", *given.values(), f"--workdir={tmp_path}")
        second = harness.run(command, cache)
        first.send_signal(signal.SIGCONT)
        assert (second.status, second.stdout) == (REFUSED, "")
        assert "another process: its sweep is another" in second.stderr
        assert harness.Outcome(first).status == 0
        harness.assert_undisturbed(tmp_path, undisturbed)


def test_a_sweep_that_grows_keeps_its_runs(undisturbed, cache, faults, tmp_path):
    """Another seed is added, and nothing is trained again."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    before = harness.results(folder)
    grown = (*harness.SWEEP, "--config.sweep.seed=(0, 1, 2)")
    given = {option.partition("=")[0]: option for option in grown}
    with faults.injected("a sweep that grows"):
        command = harness.command("sweep", *given.values(), f"--workdir={folder}")
        outcome = harness.run(command, cache)
        assert (outcome.status, outcome.stderr) == (0, "")
        assert "12 runs, 8 finished before; 4 to train" in outcome.stdout
        assert before.items() <= harness.results(folder).items()
        assert len(harness.results(folder)) == 12


def test_a_killed_writer_leaves_no_lock(undisturbed, cache, faults, tmp_path):
    with faults.injected("lock of a writer that was killed"):
        first = start_sweep(tmp_path, cache)
        harness.send_while(harness.begun(tmp_path), first, signal.SIGKILL)
        assert harness.Outcome(first).status == -signal.SIGKILL
        assert (tmp_path / ".lock").exists()
        outcome = harness.Outcome(start_sweep(tmp_path, cache))
        assert outcome.status == 0, outcome.stderr
        harness.assert_undisturbed(tmp_path, undisturbed)


@pytest.mark.parametrize("sweep_stands_still", [False, True])
def test_evaluation_beside_a_sweep(
    undisturbed, cache, faults, tmp_path, sweep_stands_still
):
    """It evaluates what is finished, neither waits for the sweep nor disturbs it."""
    sweep = start_sweep(tmp_path, cache)
    with faults.injected("evaluation beside a sweep"):
        harness.freeze_while(
            lambda: 0 < len(harness.results(tmp_path)) < harness.NUM_RUNS, sweep
        )
        if not sweep_stands_still:
            sweep.send_signal(signal.SIGCONT)
        arguments = (f"--workdir={tmp_path}", "--num_samples=20")
        evaluation = harness.run(harness.command("evaluate", *arguments), cache)
        assert evaluation.status == 0, evaluation.stderr
        sweep.send_signal(signal.SIGCONT)
        outcome = harness.Outcome(sweep)
        assert outcome.status == 0, outcome.stderr
        harness.assert_undisturbed(tmp_path, undisturbed)
        trained = harness.outcome_of(tmp_path)["results"]
        with (tmp_path / "evaluation.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert 0 < len(rows) < harness.NUM_RUNS or not sweep_stands_still
        for row in rows:
            score = trained[row["run"]][0]["score"]
            assert float(row["score"]) == pytest.approx(score, rel=1e-4)
