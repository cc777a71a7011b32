import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vae_jax.posteriors import DiagonalGaussian, latent_noise
from vae_jax.priors import StandardNormal

POSTERIOR = DiagonalGaussian(
    jnp.array([[0.3, -1.2, 4.0]]), jnp.array([[-0.5, 0.7, -3.0]])
)


def test_log_prob_is_scipys(key):
    z = jax.random.normal(key, (7, 1, 3))
    expected = scipy.stats.norm.logpdf(
        z, POSTERIOR.mean, np.exp(POSTERIOR.log_scale)
    ).sum(-1)
    np.testing.assert_allclose(POSTERIOR.log_prob(z), expected, rtol=1e-5)


def test_prior_log_prob_is_scipys(key):
    z = jax.random.normal(key, (7, 3))
    expected = scipy.stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(StandardNormal(3).log_prob(z), expected, rtol=1e-5)


def test_kl_is_the_mean_log_ratio_within_four_standard_errors(key):
    """False-failure rate 6e-5, were the key not fixed."""
    z = POSTERIOR.sample(latent_noise(key, 200_000, 1, 3))
    ratio = np.asarray(POSTERIOR.log_prob(z) - StandardNormal(3).log_prob(z))
    error = ratio.std() / np.sqrt(ratio.size)
    exact = float(POSTERIOR.kl_to_standard_normal().sum())
    assert abs(ratio.mean() - exact) < 4 * error


def test_kl_of_the_prior_is_exactly_zero_and_stationary():
    zero = jnp.zeros(2)

    def kl(mean, raw):
        posterior = DiagonalGaussian.from_outputs(mean, raw)
        return posterior.kl_to_standard_normal().sum()

    assert kl(zero, zero) == 0
    for gradient in jax.grad(kl, (0, 1))(zero, zero):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_extreme_encoder_outputs_stay_finite(raw):
    def kl(raw):
        posterior = DiagonalGaussian.from_outputs(jnp.zeros(1), raw)
        return posterior.kl_to_standard_normal().sum()

    value, gradient = jax.value_and_grad(kl)(jnp.array([raw]))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_noise_of_a_narrow_latent_is_that_of_a_wide_one(key):
    narrow = latent_noise(jax.random.clone(key), 2, 5, 3)
    wide = latent_noise(key, 2, 5, 8)
    assert narrow.shape == (2, 5, 3)
    np.testing.assert_array_equal(narrow, wide[..., :3])


def test_samples_have_the_posteriors_moments(key):
    """Within 4.5 standard errors of each of 6 moments: false-failure rate 4e-5."""
    count = 100_000
    z = np.asarray(POSTERIOR.sample(latent_noise(key, count, 1, 3)))[:, 0]
    scale = np.exp(np.asarray(POSTERIOR.log_scale[0]))
    mean_error = np.abs(z.mean(0) - np.asarray(POSTERIOR.mean[0]))
    assert np.all(mean_error < 4.5 * scale / np.sqrt(count))
    assert np.all(np.abs(z.std(0) / scale - 1) < 4.5 / np.sqrt(2 * count))
