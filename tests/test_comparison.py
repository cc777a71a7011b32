"""Tests of the comparison: how often it makes a false claim, and a true one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from experiments.report import comparison

# Standard deviations over seeds, over images, and over both, of a cell's scores.
CASES = {
    "seeds": (1.0, 0.0, 0.1),
    "both": (1.0, 1.0, 0.5),
    "images": (0.1, 5.0, 1.0),
}
NUM_IMAGES = 20


def table(rng, shape, case, *, unequal=False, heavy=False):
    """Draws scores of equally good models, ``[reports, rivals, choices, S, N]``."""
    *kinds, seeds, images = shape

    def draw(*shape):
        if heavy:
            return (rng.standard_t(3, shape) / 3**0.5).astype(np.float32)
        return rng.standard_normal(shape, np.float32)

    scale = np.ones((*kinds[1:], 1, 1), np.float32)
    if unequal:
        scale *= np.exp(1.5 * rng.standard_normal(scale.shape, np.float32))
    of_seeds, of_images, of_both = CASES[case]
    return scale * (
        of_seeds * draw(*kinds, seeds, 1)
        + of_images * draw(*kinds, 1, images)
        + of_both * draw(*kinds, seeds, images)
    )


def called(scores, tests=1):
    """Returns whether a report calls its best rival better than the next one.

    Args:
        scores: ``[reports, rivals, choices, seeds, images]``.
    """
    means = scores.mean((-2, -1))
    order = np.argsort(means.min(-1), axis=-1)
    report = np.arange(len(scores))
    best, other = (
        scores[report, rival, means[report, rival].argmin(-1)]
        for rival in (order[:, 0], order[:, 1])
    )
    return comparison.compare(
        best, other, choices=scores.shape[2], tests=tests
    ).is_clear


@pytest.mark.parametrize("num_rivals", [2, 3, 6, 12])
@pytest.mark.parametrize("num_seeds", [1, 2, 3, 5, 10])
def test_at_most_five_percent_of_reports_make_a_false_claim(num_rivals, num_seeds):
    """The rivals are equally good; each is the best of some cells."""
    rng = np.random.default_rng(0)
    for num_choices in (1, 4):
        for case in CASES:
            for odd in ({}, {"unequal": True}, {"heavy": True}):
                shape = (300, num_rivals, num_choices, num_seeds, NUM_IMAGES)
                rate = called(table(rng, shape, case, **odd)).mean()
                # Five percent, and 2.6 standard errors of so many reports.
                assert rate <= 0.05 + 0.033, (num_choices, case, odd)


def test_most_of_the_level_is_used_where_seeds_differ_most():
    """The rate of false claims is small although the test can see."""
    rng = np.random.default_rng(1)
    for num_seeds in (2, 3, 5, 10):
        scores = table(rng, (3000, 2, 1, num_seeds, NUM_IMAGES), "seeds")
        assert 0.03 < called(scores).mean() < 0.06


def test_the_best_of_many_cells_is_not_better_than_a_rival_with_one_good_cell():
    """The correction for choices is made for this case."""
    rng = np.random.default_rng(2)
    scores = table(rng, (2000, 2, 8, 5, NUM_IMAGES), "seeds")
    scores[:, 1, 1:] += 100
    assert called(scores).mean() <= 0.05
    best = scores[np.arange(2000), 0, scores[:, 0].mean((-2, -1)).argmin(-1)]
    uncorrected = comparison.compare(best, scores[:, 1, 0], choices=1)
    assert uncorrected.is_clear.mean() > 0.1


def test_a_report_of_several_groups_makes_no_more_false_claims():
    rng = np.random.default_rng(3)
    groups = [table(rng, (3000, 2, 1, 3, NUM_IMAGES), "seeds") for _ in range(2)]
    false = np.logical_or(*(called(scores, tests=2) for scores in groups))
    assert 0.03 < false.mean() < 0.06


def test_one_seed_makes_no_claim_and_tells_the_paired_error():
    """Images differ more than models: unpaired errors would miss a clear difference."""
    rng = np.random.default_rng(4)
    images = rng.normal(0, 10, (1, 300))
    best, other = (images + rng.normal(shift, 1, (1, 300)) for shift in (0, 1))
    found = comparison.compare(best, other, choices=1)
    assert not found.is_clear
    assert np.isnan(found.detectable)
    assert found.difference == pytest.approx(1, abs=0.3)
    assert found.error == pytest.approx(2**0.5 / 300**0.5, rel=0.1)


def test_of_trained_models_alone_the_images_are_the_sample():
    rng = np.random.default_rng(7)
    first, second = rng.normal(0, 1, (2, 2, 300))
    second += 0.2
    for sign, pair in ((1, (first, second)), (-1, (second, first))):
        found = comparison.compare(*pair, over_seeds=False)
        ahead = sign * (second - first).mean(0)
        chance = scipy.stats.ttest_1samp(ahead, 0).pvalue
        assert found.difference == pytest.approx(ahead.mean())
        assert found.error == pytest.approx(scipy.stats.sem(ahead))
        assert found.is_clear == (chance < 0.05)
    # With this number of tests, the same difference is on the edge.
    edge = 0.05 / chance
    few, many = (
        comparison.compare(first, second, over_seeds=False, tests=edge * factor)
        for factor in (0.99, 1.01)
    )
    assert few.is_clear
    assert not many.is_clear


def test_identical_models_do_not_differ_and_one_image_tells_nothing():
    scores = np.random.default_rng(5).normal(size=(3, 20))
    assert not comparison.compare(scores, scores, choices=1).is_clear
    assert not comparison.compare(scores[:, :1], scores[:, :1] + 9, choices=1).is_clear
    assert comparison.compare(scores, scores + 1e-3, choices=1).is_clear  # For sure.


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("choices", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_difference_that_is_called_detectable_is_called(num_seeds, choices, case):
    """This holds in 80 % of reports, or in more if images vary less than seeds."""
    rng = np.random.default_rng(6)
    shape = (2000, 2, 1, num_seeds, NUM_IMAGES)
    noise = table(rng, shape, case)[:, :, 0]
    # The average error, times the factor that the test gives.
    error = np.diff(noise.mean((-2, -1))).std()
    first = comparison.compare(noise[0, 0], noise[0, 1], choices=choices)
    shift = error * first.detectable / first.error
    found = comparison.compare(noise[:, 0], noise[:, 1] + shift, choices=choices)
    power = found.is_clear.mean()
    assert power > 0.77
    if case == "seeds":
        assert power < 0.83


def test_no_command_waits_for_what_only_comparisons_need():
    code = "import experiments.sweep, sys; sys.exit('scipy.stats' in sys.modules)"
    root = Path(__file__).parents[1]
    assert not subprocess.run([sys.executable, "-c", code], cwd=root).returncode
