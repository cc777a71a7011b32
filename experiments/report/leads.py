"""Does the best of several really lead? A test paired over test images and seeds.

Models of two kinds describe the same test images, and have the same seeds. Of the
differences d[s, i] of their scores, both seeds and images are a sample: another draw of
either would give another mean. The variance of the mean is at most

    Var_s(mean_i d) / S + Var_i(mean_s d) / N,

which counts what varies with both twice. The mean over its root exceeds the quantile of
a t distribution with min(S, N) - 1 degrees of freedom no more often than the
distribution does, whatever the two variances are (Mickey, Brown 1966, "Bounds on the
distribution functions of the Behrens-Fisher statistic"); Satterthwaite's degrees of
freedom called twice as many false leads as they should with two seeds.

That the leader was chosen as the best of many rivals needs no correction where it is
tested against the next one alone, on both sides (Gutmann, Maymin 1987, "Is the selected
population the best?"; Hung, Fithian 2019, "Rank verification for exponential
families"). That each rival is represented by the best of its own models does.
"""

from typing import NamedTuple

import numpy as np
import scipy  # Its parts at their first use: every command would wait for them.

LEVEL = 0.05  # of a false lead in a report
POWER = 0.8


class Lead(NamedTuple):
    """How far a leader is ahead, in the unit of the scores; arrays over ``[...]``.

    Attributes:
        difference: mean over seeds and images; positive where the leader is ahead.
        error: its standard error; with one seed, over images alone.
        is_clear: whether chance makes such a lead too rarely; never with one seed.
        detectable: the smallest true difference that is called a lead with a
            probability of 80 %, if errors are as they were here; NaN with one seed.
    """

    difference: np.ndarray
    error: np.ndarray
    is_clear: np.ndarray
    detectable: np.ndarray


def compare(
    leader: np.ndarray, other: np.ndarray, *, choices: int, tests: int = 1
) -> Lead:
    """Tests whether a leader is better than the next one.

    Args:
        leader: its scores, smaller is better, ``[..., seeds, images]``.
        other: those of the next one, of the same seeds and images in the same order.
        choices: of so many models was each the best, at most, before they were
            compared.
        tests: in so many such comparisons no lead may be false, but for a probability
            of 5 %.
    """
    ahead = other - leader
    num_seeds, num_images = ahead.shape[-2:]
    difference = ahead.mean((-2, -1))
    variance = _of_a_mean(ahead.mean(-2))
    if num_seeds > 1:
        variance = variance + _of_a_mean(ahead.mean(-1))
    error = np.sqrt(variance)
    freedom = min(num_seeds, num_images) - 1
    if not freedom:
        nothing = np.full_like(difference, np.nan)
        return Lead(difference, error, nothing > 0, nothing)
    threshold = float(scipy.stats.t.isf(LEVEL / 2 / choices / tests, freedom))
    return Lead(
        difference,
        error,
        difference > threshold * error,
        error * _detectable(threshold, freedom),
    )


def _of_a_mean(values: np.ndarray) -> np.ndarray:
    """The variance of a mean over the last axis; NaN of one value."""
    count = values.shape[-1]
    if count == 1:
        return np.full(values.shape[:-1], np.nan)
    return values.var(axis=-1, ddof=1) / count


def _detectable(threshold: float, freedom: int) -> float:
    """The true mean, in standard errors, whose t exceeds a threshold often enough."""
    # Over what is known of the error; SciPy's noncentral t fails at large thresholds.
    probabilities = (np.arange(1000) + 0.5) / 1000
    errors = np.sqrt(scipy.stats.chi2.ppf(probabilities, freedom) / freedom)

    def lacks_power(mean: float) -> float:
        return float(scipy.stats.norm.sf(threshold * errors - mean).mean() - POWER)

    return float(scipy.optimize.brentq(lacks_power, 0, 3 * threshold + 3))
