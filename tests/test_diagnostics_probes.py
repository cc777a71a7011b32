import numpy as np
import pytest

from vae_jax.diagnostics import probe_latents


def latents(num_images=400, num_classes=4, noise=0.05):
    """Returns labels, and latents: the labels' corners of a simplex, with noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, num_images)
    means = np.eye(num_classes)[labels] + noise * rng.normal(
        size=(num_images, num_classes)
    )
    return means, labels


def test_classes_that_lie_apart_are_all_recognised():
    scores = probe_latents(*latents(), seed=0)
    assert (scores.linear_accuracy, scores.neighbour_accuracy) == (1.0, 1.0)
    assert (scores.linear_se, scores.neighbour_se) == (0.0, 0.0)
    assert (scores.num_fitted, scores.num_scored) == (200, 200)


def test_latents_that_know_nothing_are_at_chance():
    """They are within 4.5 binomial standard errors of 1/4 (7e-6 each)."""
    _, labels = latents(4000)
    means = np.random.default_rng(1).normal(size=(4000, 3))
    scores = probe_latents(means, labels, seed=0)
    error = np.sqrt(0.25 * 0.75 / 2000)
    for share in (scores.linear_accuracy, scores.neighbour_accuracy, scores.chance):
        assert abs(share - 0.25) < 4.5 * error
    np.testing.assert_allclose(scores.linear_se, error, rtol=0.1)


def test_known_error_rate_of_two_gaussians():
    """Best rule: Phi(1) = 0.841 for means 2 apart. Within 4.5 binomial errors, and
    0.01 below it for the cost of fitting."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 10_000)
    means = rng.normal(2.0 * labels)[:, None]
    scores = probe_latents(means, labels, seed=0)
    assert abs(scores.linear_accuracy - 0.841) < 4.5 * scores.linear_se + 0.01
    assert scores.neighbour_accuracy < scores.linear_accuracy


def test_only_the_neighbours_see_a_ring():
    rng = np.random.default_rng(3)
    angle, labels = rng.uniform(0, 2 * np.pi, 600), rng.integers(0, 2, 600)
    means = (1 + labels)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    scores = probe_latents(means, labels, seed=0)
    assert scores.neighbour_accuracy > 0.95
    assert scores.linear_accuracy < 0.7


def test_latents_that_do_not_vary_change_nothing():
    means, labels = latents(noise=0.5)
    scores = probe_latents(means, labels, seed=0)
    wider = np.pad(means, [(0, 0), (0, 3)])
    assert probe_latents(wider, labels, seed=0) == scores


def test_the_scale_of_a_latent_does_not_matter_to_the_linear_probe():
    means, labels = latents(noise=0.5)
    scaled = means * np.array([1e-3, 1.0, 1e3, 1e5])
    np.testing.assert_allclose(
        probe_latents(scaled, labels, seed=0).linear_accuracy,
        probe_latents(means, labels, seed=0).linear_accuracy,
        atol=0.01,
    )


def test_the_seed_decides_the_halves():
    means, labels = latents(noise=0.5)
    first, again, other = (probe_latents(means, labels, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("num_images", "labels"),
    [
        (40, None),
        (40, np.zeros(40, int)),
        # The one of another class is among the images that would be scored.
        (60, np.eye(60, dtype=int)[59]),
        (9, np.arange(9) % 2),
    ],
)
def test_there_are_no_scores_where_nothing_can_be_fitted(num_images, labels):
    assert probe_latents(np.zeros((num_images, 2)), labels, seed=0) is None


def test_other_labels_than_images_are_refused():
    with pytest.raises(ValueError, match="39 labels for 40 images"):
        probe_latents(np.zeros((40, 2)), np.arange(39) % 2, seed=0)
