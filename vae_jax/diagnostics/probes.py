"""Measures how well classifiers predict an image's class from its latents."""

from typing import Any, NamedTuple

import numpy as np

_NEIGHBOURS = 5


class ProbeScores(NamedTuple):
    """Shares of the scored images whose class is predicted, in [0, 1].

    Standard errors are binomial, sqrt(p (1 - p) / num_scored): for the images scored,
    given those fitted. At a share of 0 or 1 they are 0, which is too small.
    """

    linear_accuracy: float
    linear_se: float
    neighbour_accuracy: float
    neighbour_se: float
    chance: float  # accuracy of always predicting the fitted half's commonest class
    num_fitted: int
    num_scored: int


def probe_latents(
    posterior_means: np.ndarray, labels: np.ndarray | None, *, seed: int
) -> ProbeScores | None:
    """Fits classifiers to a random half of the images and scores them on the other.

    The linear probe is a logistic regression (L2 penalty, C = 1) on means standardised
    by the fitted half. The other is a majority vote of the 5 nearest neighbours in the
    latent space as it is: if standardised, the latents that do not vary would count as
    much as those that do.

    Args:
        posterior_means: E_q[z|x], ``[N, latent]``.
        labels: the class of each image, ``[N]``, or None.
        seed: decides the halves; the one that is fitted has N // 2 images.

    Returns:
        Scores; None if nothing can be fitted: no labels, fewer than 10 images, or only
        one class in the fitted half, which happens if nearly all labels are the same.

    Raises:
        ValueError: the numbers of labels and of images differ.
    """
    means = np.asarray(posterior_means)
    if labels is None or len(means) < 2 * _NEIGHBOURS:
        return None
    if len(labels) != len(means):
        raise ValueError(
            f"there are {len(labels)} labels for {len(means)} images: a probe needs one"
            " for each."
        )
    order = np.random.default_rng(seed).permutation(len(means))
    fitted, scored = np.split(order, [len(order) // 2])
    classes, counts = np.unique(labels[fitted], return_counts=True)
    if len(classes) < 2:
        return None

    # Imported here, as it takes a second.
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def accuracy(classifier: Any) -> tuple[float, float]:
        classifier.fit(means[fitted], labels[fitted])
        share = float(classifier.score(means[scored], labels[scored]))
        return share, float(np.sqrt(share * (1 - share) / len(scored)))

    linear = accuracy(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    )
    neighbours = accuracy(KNeighborsClassifier(_NEIGHBOURS))
    return ProbeScores(
        *linear,
        *neighbours,
        chance=float(np.mean(labels[scored] == classes[np.argmax(counts)])),
        num_fitted=len(fitted),
        num_scored=len(scored),
    )
