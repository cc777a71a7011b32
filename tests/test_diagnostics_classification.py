"""Tests of vae_jax.diagnostics.classification."""

import numpy as np
import scipy.stats

from vae_jax.diagnostics import CALIBRATION_BINS, calibration_error, classify


def test_bayes_rule_gives_the_mixture_and_its_parts():
    """Of two Gaussians, p(y|x) is a logistic function of x."""
    x, labels = np.array([-2.0, 0.1, 0.4, 800.0]), np.array([0, 1, 0, 1])
    log_px_y = scipy.stats.norm.logpdf(x[:, None], [-1.0, 1.0])
    found = classify(log_px_y, labels)
    expected = 1 / (1 + np.exp(-2 * x))
    np.testing.assert_allclose(found.probabilities[:, 1], expected, rtol=1e-10)
    np.testing.assert_allclose(
        found.log_px[:3], np.log(np.exp(log_px_y[:3]).mean(1)), rtol=1e-10
    )
    assert np.isfinite(found.log_px[3])
    np.testing.assert_array_equal(found.correct, [True, True, False, True])


def test_the_calibration_error_is_the_mean_gap_of_its_bins():
    assert CALIBRATION_BINS == 15
    confidences = np.array([0.61, 0.65, 0.62, 1.0, 0.95])  # in the bins 9 and 14
    correct = np.array([True, False, False, True, True])
    gaps = abs(1.88 - 1) + abs(1.95 - 2)
    assert np.isclose(calibration_error(confidences, correct), gaps / 5)


def test_probabilities_that_are_true_are_calibrated():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.5, 1, 100_000)
    correct = rng.uniform(size=100_000) < confidences
    assert calibration_error(confidences, correct) < 0.01
    assert calibration_error(confidences, ~correct) > 0.4
