"""Tests of experiments.runner.history."""

import math

import numpy as np
import pytest

from experiments.runner.history import History
from vae_jax.objectives import Terms
from vae_jax.training import OFFENDERS, EpochMetrics, Failure, Validation

RUNS = ("a", "b")
FAILED = OFFENDERS.index("gradient")


def add(history, epoch, *, active=(True, True), offenders=(0, 0), best=None):
    """Adds a validation to the history; each number shows its place of origin."""
    values = np.array([epoch + 0.25, epoch + 0.5], np.float32)
    best = values if best is None else np.asarray(best, np.float32)
    offenders = np.array(offenders, np.int32)
    return history.after(
        epoch,
        EpochMetrics(Terms(values, values + 1, values + 2), values + 3, values + 4),
        Validation(
            Terms(-values, -values - 1, -values - 2),
            best,
            np.array(active) & (offenders == 0),
            Failure(offenders, np.zeros(2, np.int32)),
        ),
        np.array(active),
    )


def test_rows_hold_every_scalar_of_every_run():
    history = History(RUNS)
    history = add(history, 5)
    assert history.rows() == [
        {
            "run": run,
            "epoch": 5,
            "train/bound": value,
            "train/reconstruction": value + 1,
            "train/kl": value + 2,
            "train/gradient_norm": value + 3,
            "validation/bound": -value,
            "validation/reconstruction": -value - 1,
            "validation/kl": -value - 2,
        }
        for run, value in (("a", 5.25), ("b", 5.5))
    ]


def test_rows_from_a_validation_on():
    history = History(RUNS)
    for epoch in (5, 10, 15):
        history = add(history, epoch)
    assert len(history) == 3
    assert [row["epoch"] for row in history.rows(2)] == [15, 15]
    assert [row["epoch"] for row in history.rows()] == [5, 5, 10, 10, 15, 15]
    assert history.rows(3) == []


def test_runs_that_stopped_or_fail_have_no_row():
    history = History(RUNS)
    history = add(history, 5)
    history = add(history, 10, offenders=(0, FAILED))
    history = add(history, 15, active=(True, False), offenders=(0, FAILED))
    named = [(row["run"], row["epoch"]) for row in history.rows()]
    assert named == [("a", 5), ("b", 5), ("a", 10), ("a", 15)]


def test_the_last_row_of_a_run_without_patience_is_kept():
    """It was active when it was validated, and was not afterwards."""
    history = History(RUNS)
    history = add(history, 5, active=(True, True))
    history = add(history, 10, active=(False, True))
    assert [row["epoch"] for row in history.rows() if row["run"] == "a"] == [5]


@pytest.mark.parametrize("num_validations", [0, 1, 4])
def test_it_continues_from_its_arrays(num_validations):
    undisturbed = History(RUNS)
    for epoch in range(num_validations):
        undisturbed = add(undisturbed, epoch, offenders=(0, FAILED * (epoch == 2)))
    continued = History.restore(RUNS, undisturbed.arrays)
    assert len(continued) == num_validations
    undisturbed, continued = (
        add(history, 9, best=(-np.inf, -1)) for history in (undisturbed, continued)
    )
    assert continued.rows() == undisturbed.rows()
    arrays, expected = continued.arrays, undisturbed.arrays
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype, name
        assert arrays[name].tobytes() == array.tobytes(), name


def test_the_last_gain_is_that_of_the_last_fifth():
    history = History(RUNS)
    for i in range(10):
        history = add(history, i, best=(i, min(i, 6)))
    assert history.last_gain(0) == 2  # Of the 10 validations, from the 8th on.
    assert history.last_gain(1) == 0


def test_the_last_gain_does_not_depend_on_who_trains_on():
    together, alone = History(RUNS), History(RUNS)
    for i in range(10):
        is_active = i < 5
        together = add(together, i, active=(is_active, True), best=(min(i, 4), i))
        if is_active:
            alone = add(alone, i, best=(i, i))
    assert together.last_gain(0) == alone.last_gain(0) == 1


def test_a_gain_needs_two_validations():
    history = History(RUNS)
    assert math.isnan(history.last_gain(0))
    history = add(history, 1)
    assert math.isnan(history.last_gain(0))
    history = add(history, 6)
    assert history.last_gain(0) == 5


@pytest.mark.parametrize(
    ("epochs", "gain"),
    [
        ((10, 20, 25), 5),
        ((10, 20, 30, 33), 13),  # From the epoch 20: 26.4 are four fifths.
        ((10, 11), math.nan),  # Both lie in the last fifth.
        ((2,), math.nan),
    ],
)
def test_the_last_gain_counts_epochs_where_validations_are_not_even(epochs, gain):
    history = History(RUNS)
    for epoch in epochs:
        history = add(history, epoch, best=(epoch, 0))
    assert history.last_gain(0) == pytest.approx(gain, nan_ok=True)


def test_no_gain_where_no_bound_was_ever_finite():
    history = History(RUNS)
    for epoch in (0, 5):
        history = add(history, epoch, best=(-np.inf, 1))
    assert math.isnan(history.last_gain(0))
    assert history.last_gain(1) == 0


def test_a_history_of_something_else_is_refused():
    arrays = {"epoch": np.arange(2), "logged": np.ones((3, 1), bool)}
    with pytest.raises(ValueError, match="incomplete"):
        History.restore(["a"], arrays)
    with pytest.raises(KeyError):
        History.restore(["a"], {"epoch": np.arange(2)})
