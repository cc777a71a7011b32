"""Is the best of several models really better than the next one?

The test is paired over test images and seeds: two kinds of models describe the same
test images and have the same seeds. Both are samples, so other images or other seeds
would give another mean of the differences d[s, i] of their scores. The variance of this
mean is at most

    Var_s(mean_i d) / S + Var_i(mean_s d) / N,

which counts twice whatever varies with both. The mean divided by the root exceeds the
quantile of a t distribution with min(S, N) - 1 degrees of freedom no more often than
the distribution itself, for all values of the two variances (Mickey, Brown 1966,
"Bounds on the distribution functions of the Behrens-Fisher statistic"). Satterthwaite's
degrees of freedom would make twice as many false claims as they should with two seeds.

The best was chosen from many. This needs no correction if it is tested against the next
one only, on both sides (Gutmann, Maymin 1987, "Is the selected population the best?";
Hung, Fithian 2019, "Rank verification for exponential families"). But each of the two
is itself the best of several models of its kind, and this needs one.
"""

from typing import NamedTuple

import numpy as np
import scipy  # Its parts load at first use: every command would wait for them.

LEVEL = 0.05  # probability of a false claim in a report
POWER = 0.8  # probability that a true difference of ``detectable`` is called clear


class Comparison(NamedTuple):
    """The difference of two models, in the unit of the scores; arrays over ``[...]``.

    Attributes:
        difference: mean over seeds and images; positive where the best is better.
        error: its standard error; with one seed, over images only.
        is_clear: whether chance seldom makes such a difference; False with one seed.
        detectable: the smallest true difference that is called clear with a
            probability of 80 %, if errors are as they were here; NaN with one seed.
    """

    difference: np.ndarray
    error: np.ndarray
    is_clear: np.ndarray
    detectable: np.ndarray


def compare(
    best: np.ndarray, other: np.ndarray, *, choices: int, tests: int = 1
) -> Comparison:
    """Tests whether the best model is better than the next one.

    Args:
        best: its scores, smaller is better, ``[..., seeds, images]``.
        other: scores of the next one, for the same seeds and images in the same order.
        choices: each of the two was the best of at most so many models.
        tests: number of such comparisons; the probability of a false claim in any of
            them is at most 5 %.
    """
    ahead = other - best
    num_seeds, num_images = ahead.shape[-2:]
    difference = ahead.mean((-2, -1))
    variance = _of_a_mean(ahead.mean(-2))
    if num_seeds > 1:
        variance = variance + _of_a_mean(ahead.mean(-1))
    error = np.sqrt(variance)
    freedom = min(num_seeds, num_images) - 1
    if not freedom:
        nothing = np.full_like(difference, np.nan)
        return Comparison(difference, error, nothing > 0, nothing)
    threshold = float(scipy.stats.t.isf(LEVEL / 2 / choices / tests, freedom))
    return Comparison(
        difference,
        error,
        difference > threshold * error,
        error * _detectable(threshold, freedom),
    )


def _of_a_mean(values: np.ndarray) -> np.ndarray:
    """Returns the variance of a mean over the last axis; NaN of one value."""
    count = values.shape[-1]
    if count == 1:
        return np.full(values.shape[:-1], np.nan)
    return values.var(axis=-1, ddof=1) / count


def _detectable(threshold: float, freedom: int) -> float:
    """Returns the true mean, in standard errors, with t above a threshold often."""
    # Mean over the distribution of the error; SciPy's noncentral t fails at large
    # thresholds.
    probabilities = (np.arange(1000) + 0.5) / 1000
    errors = np.sqrt(scipy.stats.chi2.ppf(probabilities, freedom) / freedom)

    def lacks_power(mean: float) -> float:
        return float(scipy.stats.norm.sf(threshold * errors - mean).mean() - POWER)

    return float(scipy.optimize.brentq(lacks_power, 0, 3 * threshold + 3))
