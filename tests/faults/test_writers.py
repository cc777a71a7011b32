"""Commands that meet in one folder."""

import csv
import signal

import pytest

from tests.faults import harness

REFUSED = 2


def start_sweep(folder, cache):
    sweep = harness.command("sweep", *harness.SWEEP, f"--workdir={folder}")
    return harness.start(sweep, cache)


def assert_refused(outcome, folder):
    assert (outcome.status, outcome.stdout) == (REFUSED, "")
    assert outcome.stderr == (
        f"error: {folder} is being written by another process: wait for it to end, or "
        "choose another --workdir.\n"
    )


def test_undisturbed_alone(undisturbed, cache, tmp_path):
    """The control of this page: without a second command, all is the same."""
    outcome = harness.Outcome(start_sweep(tmp_path, cache))
    assert outcome.status == 0, outcome.stderr
    harness.assert_undisturbed(tmp_path, undisturbed)


@pytest.mark.parametrize("moment", ["compiles", "trains"])
def test_a_second_writer_is_refused(undisturbed, cache, faults, tmp_path, moment):
    first = start_sweep(tmp_path, cache)
    begun = harness.begun(tmp_path)
    if moment == "compiles":
        begun = (tmp_path / "config.json").exists
    harness.freeze_while(begun, first)
    with faults.injected(f"second writer while the first {moment}"):
        second = harness.Outcome(start_sweep(tmp_path, cache))
        first.send_signal(signal.SIGCONT)
        assert_refused(second, tmp_path)
        outcome = harness.Outcome(first)
        assert outcome.status == 0, outcome.stderr
        harness.assert_undisturbed(tmp_path, undisturbed)


def test_of_two_at_the_same_moment_one_wins(undisturbed, cache, faults, tmp_path):
    folder = tmp_path / "new"
    with faults.injected("two writers at the same moment"):
        processes = [start_sweep(folder, cache) for _ in range(2)]
        outcomes = [harness.Outcome(process) for process in processes]
        winner, loser = sorted(outcomes, key=lambda outcome: outcome.status)
        assert winner.status == 0, winner.stderr
        assert_refused(loser, folder)
        harness.assert_undisturbed(folder, undisturbed)


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
