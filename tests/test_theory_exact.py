"""Tests of the parts of the theory's programs with exactly known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from experiments.theory import (
    coin,
    identity,
    marginalization,
    reconstruction,
    reparameterization,
)
from experiments.theory.models import load
from tests import linear_gaussian
from vae_jax import views
from vae_jax.evidence import LinearGaussian

# --- coin ---


def test_gradient_ascent_ends_at_the_share_of_heads():
    flips = jnp.array([1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(coin.climb(flips)[-1], 0.75, atol=1e-5)


def test_error_of_the_root_mean_square_error_of_a_binomial():
    """4,000 experiments with 200 repetitions give it to 1.1 %; 4 errors are allowed."""
    heads = np.random.default_rng(0).binomial(30, 0.1, (4_000, 200))
    rms = np.sqrt(((heads / 30 - 0.1) ** 2).mean(1))
    expected = coin.relative_error_of_rms(0.1, 30, 200)
    np.testing.assert_allclose(rms.std() / rms.mean(), expected, rtol=0.045)


# --- marginalization ---


def test_moments_of_the_weights_of_naive_averaging():
    mean, scale = np.array([0.7, -1.2]), np.array([0.3, 0.8])
    np.testing.assert_allclose(marginalization.log_moment(mean, scale, 1), 0, atol=1e-9)

    def second_moment(mean, scale):
        def integrand(z):
            posterior = scipy.stats.norm.pdf(z, mean, scale)
            return posterior**2 / scipy.stats.norm.pdf(z)

        return scipy.integrate.quad(integrand, mean - 10, mean + 10)[0]

    expected = sum(
        np.log(second_moment(*latent)) for latent in zip(mean, scale, strict=True)
    )
    np.testing.assert_allclose(
        marginalization.log_moment(mean, scale, 2), expected, rtol=1e-6
    )


def test_the_bound_on_the_chance_of_success_holds():
    mean, scale = np.array([2.5]), np.array([0.01])
    z = np.random.default_rng(1).normal(size=(20_000, 20))
    weights = scipy.stats.norm.pdf(z, mean, scale) / scipy.stats.norm.pdf(z)
    share = (weights.mean(1) > np.exp(-1)).mean()
    bound = marginalization.chance_of_success(mean, scale, 20, 1.0)
    assert share <= bound < 0.1


def test_an_average_of_one_group_is_the_mean_weight():
    log_weights = np.log(np.array([1.0, 3.0, 5.0, 7.0]))
    np.testing.assert_allclose(
        marginalization.averages(log_weights, 2), np.log([2.0, 6.0])
    )


# --- identity ---


@pytest.mark.parametrize(
    "rule",
    [identity.trapezoid(8.0, 41), identity.legendre(8.0, 40)],
    ids=["trapezoid", "legendre"],
)
def test_rules_of_the_square_integrate_a_density(rule):
    density = scipy.stats.norm.pdf(np.asarray(rule.nodes), [0.5, -1.0]).prod(1)
    total = (np.exp(np.asarray(rule.log_weights)) * density).sum()
    np.testing.assert_allclose(total, 1.0, atol=1e-5)


def test_the_three_terms_of_a_model_that_knows_them():
    """Parameters are rounded to float32, which moves log p(x) by some 1e-6 nats."""
    basis, offset = np.eye(6)[:, :2], np.full(6, 0.5)
    weights = basis @ np.array([[0.9, 0.5], [0.0, 0.4]])  # not orthogonal
    exact = LinearGaussian(weights, offset, linear_gaussian.SCALE**2)
    x = np.random.default_rng(2).uniform(size=(3, 6)).astype(np.float32)
    model, params = exact.to_vae(linear_gaussian.SHAPE, linear_gaussian.LEVELS)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        terms = identity.terms_by_quadrature(model, double, jnp.asarray(x, float))
        found = jax.tree.map(np.asarray, terms)
    np.testing.assert_allclose(found.log_px, exact.log_prob(x), atol=1e-4)
    expected = exact.elbo(x, *exact.mean_field(x))
    np.testing.assert_allclose(found.elbo, expected, atol=1e-4)
    gap = exact.mean_field_gap()
    assert gap > 0.1
    np.testing.assert_allclose(found.kl_to_true_posterior, gap, atol=1e-4)


# --- reconstruction ---


def test_the_spectrum_is_that_of_the_images_with_their_noise():
    """The trace of 1,300 images' noise is known to 0.3 % of it: 1e-5 of the whole."""
    images = load("digits")
    x = views.observe(
        "continuous", jax.random.key(0), jnp.asarray(images.train), images.levels
    )
    expected = np.asarray(x, np.float64).var(0).sum()
    np.testing.assert_allclose(
        reconstruction.spectrum(images).sum(), expected, rtol=1e-3
    )


def test_a_latent_just_above_the_variance_survives_but_is_not_active():
    eigenvalues = np.array([2.0, 1.005, 0.9])
    kept = reconstruction.expected_variances(eigenvalues, 1.0)
    np.testing.assert_allclose(kept, [0.5, 1 - 1 / 1.005, 0.0])
    assert reconstruction.num_active(eigenvalues, 1.0) == 1


# --- reparameterization ---


def test_the_exact_gradient_is_the_slope_of_the_elbo():
    exact = LinearGaussian(
        np.eye(6)[:, :2] * [0.9, 0.5], np.full(6, 0.5), linear_gaussian.SCALE**2
    )
    x = np.random.default_rng(3).uniform(size=(1, 6))
    (true_mean,), _ = exact.mean_field(x)
    parameters = np.array([0.3, -0.2, -0.5, 0.1])  # means, log-scales

    def elbo(parameters):
        return float(exact.elbo(x, parameters[:2], parameters[2:])[0])

    step = 1e-5
    slopes = [
        (elbo(parameters + step * e) - elbo(parameters - step * e)) / (2 * step)
        for e in np.eye(4)
    ]
    gradient = reparameterization.exact_gradient(
        np.diag(exact.posterior_precision),
        parameters[:2] - true_mean,
        np.exp(parameters[2:]),
    )
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6)


def test_the_variance_of_the_score_function_by_quadrature():
    """The reference is Gauss-Hermite, which is exact for this polynomial."""
    precision, distance = np.array([4.0, 9.0]), np.array([0.3, -0.2])
    scale, bound = np.array([0.6, 0.4]), 7.0
    rule = identity.hermite(10)
    noise, weights = np.asarray(rule.nodes), np.exp(np.asarray(rule.log_weights))
    offset = distance + scale * noise  # of z from the true mean
    log_weight = 0.5 * (noise**2 - precision * offset**2).sum(1)
    log_weight += bound - weights @ log_weight
    gradients = log_weight[:, None] * noise / scale
    expected = weights @ gradients**2 - (weights @ gradients) ** 2
    found = reparameterization.score_variance_of_means(
        precision, distance, scale, bound
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
