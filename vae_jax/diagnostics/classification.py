"""The class of an image by Bayes' rule, from log p(x|y) of every class y.

All classes have the same p(y), 1 / K. So p(x) is the mean of p(x|y) over the classes,
and p(y|x) is p(x|y) over the sum of these.
"""

from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

# Bins of p(y|x) in the calibration error.
CALIBRATION_BINS = 15


class Classification(NamedTuple):
    """p(x) and p(y|x) of images, and how often the most probable class is right."""

    log_px: np.ndarray  # log p(x), nats, [N]
    probabilities: np.ndarray  # p(y|x), [N, K]
    correct: np.ndarray  # whether the class of the highest p(y|x) is the label, [N]
    # Distance between the highest p(y|x) and the share of images where its class is
    # right, each averaged in bins; in [0, 1].
    calibration_error: float


def classify(log_px_y: ArrayLike, labels: ArrayLike) -> Classification:
    """Returns p(x) and p(y|x) of images, by Bayes' rule.

    If estimates of log p(x|y) are too low by the same amount for all classes of an
    image, its p(y|x) is exact.

    Args:
        log_px_y: log p(x|y) of every class, nats, ``[N, K]``.
        labels: the true classes, ``[N]``.
    """
    log_px_y, labels = np.asarray(log_px_y, np.float64), np.asarray(labels)
    log_total = scipy.special.logsumexp(log_px_y, axis=1)
    probabilities = np.exp(log_px_y - log_total[:, None])
    correct = probabilities.argmax(axis=1) == labels
    log_px = log_total - np.log(log_px_y.shape[1])
    error = calibration_error(probabilities.max(axis=1), correct)
    return Classification(log_px, probabilities, correct, error)


def calibration_error(confidences: np.ndarray, correct: np.ndarray) -> float:
    """Returns the expected calibration error, with 15 bins of equal width.

    Guo et al. 2017, "On calibration of modern neural networks", eq. 3.

    Args:
        confidences: the highest p(y|x) of each image, ``[N]``.
        correct: whether the class that has it is right, ``[N]``.
    """
    bins = np.minimum(confidences * CALIBRATION_BINS, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins.astype(int), weights=confidences - correct)
    return float(np.abs(gaps).sum() / len(confidences))
