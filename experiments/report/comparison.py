"""Is one kind of model really better than another one?

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

A report compares the best of many kinds. This needs no correction if it is tested
against the next one only, on both sides (Gutmann, Maymin 1987, "Is the selected
population the best?"; Hung, Fithian 2019, "Rank verification for exponential
families"). But each of the two is itself the best of several models of its kind, and
this needs one.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy  # Its parts load at first use: every command would wait for them.

from experiments.messages.wording import counted

LEVEL = 0.05  # probability of a false claim in a report, or in a comparison of two
POWER = 0.8  # probability that a true difference of ``detectable`` is called clear


class Comparison(NamedTuple):
    """The difference of two models, in the unit of the scores; arrays over ``[...]``.

    Attributes:
        difference: mean over seeds and images; positive where the first is better.
        error: its standard error; with one seed, over images only.
        is_clear: whether chance seldom makes so large a difference, of either sign.
        detectable: the smallest true difference that is called clear with a
            probability of 80 %, if errors are as they were here; NaN where no
            difference would be.
        num_seeds: number of seeds.
        num_images: number of test images.
    """

    difference: np.ndarray
    error: np.ndarray
    is_clear: np.ndarray
    detectable: np.ndarray
    num_seeds: int
    num_images: int

    def number(self, decimals: int) -> str:
        """Returns one difference with its standard error, if it has one.

        Args:
            decimals: the fewest; there are more if the second digit of the error is
                later.
        """
        values = [self.difference] if np.isnan(self.error) else self[:2]
        return " ± ".join(self._text(value, decimals) for value in values)

    def size(self, unit: str, decimals: int) -> str:
        """Returns the size of one difference in words, without its sign.

        Args:
            unit: of the scores.
            decimals: as of ``number``.
        """
        size = self._replace(difference=abs(self.difference)).number(decimals)
        return (
            f"{size} {unit} (standard error, paired over"
            f" {counted(self.num_images, 'test image')} and"
            f" {counted(self.num_seeds, 'seed')})"
        )

    def power(self, unit: str, decimals: int, such: str) -> str:
        """Returns a sentence on the true difference that would be found.

        Args:
            unit: of the scores.
            decimals: as of ``number``.
            such: comparisons of this kind, in words.
        """
        detectable = self._text(self.detectable, decimals)
        return (
            f"A true difference of {detectable} {unit} would be called clear in"
            f" {POWER:.0%} of such {such}."
        )

    def _text(self, value: np.ndarray, decimals: int) -> str:
        """Returns a number with the decimals that two digits of the error need."""
        if self.error > 0:
            decimals = max(decimals, 1 - math.floor(math.log10(self.error)))
        return f"{value:.{decimals}f}"


def compare(
    first: np.ndarray,
    second: np.ndarray,
    *,
    choices: int = 1,
    tests: int = 1,
    over_seeds: bool = True,
) -> Comparison:
    """Tests whether one model is better than another one.

    Args:
        first: its scores, smaller is better, ``[..., seeds, images]``.
        second: scores of the other one, for the same seeds and images in the same
            order.
        choices: each of the two was the best of at most so many models.
        tests: number of such comparisons; the probability of a false claim in any of
            them is at most 5 %.
        over_seeds: whether the claim holds for other seeds too: then one seed supports
            none. If False, it is about these trained models alone, and the only sample
            is that of the images.
    """
    ahead = second - first
    num_seeds, num_images = ahead.shape[-2:]
    difference = ahead.mean((-2, -1))
    variance = _of_a_mean(ahead.mean(-2))
    freedom = num_images - 1
    if over_seeds:
        freedom = min(freedom, num_seeds - 1)
        if num_seeds > 1:
            variance = variance + _of_a_mean(ahead.mean(-1))
    error = np.sqrt(variance)
    is_clear = np.zeros_like(difference, bool)
    detectable = np.full_like(difference, np.nan)
    if freedom:
        threshold = float(scipy.stats.t.isf(LEVEL / 2 / choices / tests, freedom))
        is_clear = np.abs(difference) > threshold * error
        detectable = error * _detectable(threshold, freedom)
    return Comparison(difference, error, is_clear, detectable, num_seeds, num_images)


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
