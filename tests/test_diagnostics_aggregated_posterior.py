"""Decompositions with known answers.

Statistical tests allow 4.5 standard errors: each fails by chance with probability 7e-6.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from vae_jax.diagnostics import decompose_gaussian_kl, decompose_kl


def decompose(mean, log_scale, noise, latent_mask=None, chunk=64):
    arrays = (jnp.asarray(array, jnp.float32) for array in (mean, log_scale, noise))
    function = functools.partial(decompose_gaussian_kl, chunk=chunk)
    return jax.jit(function)(*arrays, latent_mask)


def draw(num_images, latent_dim, num_samples):
    """Means, log scales and noise without any structure."""
    rng = np.random.default_rng(0)
    mean = rng.normal(0, 1, (num_images, latent_dim))
    log_scale = rng.normal(-1, 0.5, (num_images, latent_dim))
    return mean, log_scale, rng.normal(size=(num_samples, num_images, latent_dim))


def assert_sums_hold(parts, rtol=1e-5):
    np.testing.assert_allclose(
        parts.mutual_information + parts.marginal_kl, parts.average_kl, rtol=rtol
    )
    np.testing.assert_allclose(
        parts.total_correlation + parts.dimension_kl.sum(), parts.marginal_kl, rtol=rtol
    )


def test_the_parts_add_up():
    result = decompose(*draw(60, 5, 3))
    assert_sums_hold(result.parts)
    assert result.parts.mutual_information <= np.log(60)
    assert result.parts.total_correlation > 0.01


def test_posteriors_that_are_the_prior_have_no_kl_of_any_kind():
    noise = draw(30, 4, 3)[2]
    result = decompose(np.zeros((30, 4)), np.zeros((30, 4)), noise)
    assert result.closed_form_kl == 0
    for value in jax.tree.leaves(result):
        np.testing.assert_allclose(value, 0, atol=1e-6)


def test_posteriors_that_do_not_overlap_tell_the_image():
    """Means 800 scales apart: I(n; z) = log N for every sample."""
    mean = np.linspace(-2, 2, 50)[:, None]
    result = decompose(mean, np.full_like(mean, np.log(1e-4)), draw(50, 1, 2)[2])
    np.testing.assert_allclose(result.parts.mutual_information, np.log(50), rtol=1e-5)
    np.testing.assert_allclose(result.standard_errors.mutual_information, 0, atol=1e-5)
    np.testing.assert_allclose(result.parts.total_correlation, 0, atol=1e-5)


def test_two_components_agree_with_quadrature():
    means, scales = np.array([-0.7, 1.1]), np.array([0.6, 0.3])
    z = np.linspace(-8, 8, 100_001)
    own = scipy.stats.norm.logpdf(z, means[:, None], scales[:, None])  # [2, points]
    log_q = scipy.special.logsumexp(own, axis=0) - np.log(2)
    log_p = scipy.stats.norm.logpdf(z)
    expected = {
        "average_kl": np.trapezoid(np.exp(own) * (own - log_p), z).mean(),
        "mutual_information": np.trapezoid(np.exp(own) * (own - log_q), z).mean(),
        "marginal_kl": np.trapezoid(np.exp(log_q) * (log_q - log_p), z),
    }
    mean, log_scale = jnp.float32(means)[:, None], jnp.log(jnp.float32(scales))[:, None]
    noise = np.random.default_rng(1).normal(size=(20_000, 1, 2, 1)).astype(np.float32)
    draws = jax.jit(
        jax.vmap(lambda n: decompose_gaussian_kl(mean, log_scale, n, chunk=2))
    )(noise)
    np.testing.assert_allclose(
        draws.closed_form_kl[0], expected["average_kl"], rtol=1e-5
    )
    for name, value in expected.items():
        estimates = np.asarray(getattr(draws.parts, name))
        error = estimates.std() / np.sqrt(estimates.size)
        assert error < 0.01
        assert abs(estimates.mean() - value) < 4.5 * error


def test_a_mixture_that_factorises_has_no_total_correlation():
    """All pairs of 6 components in one latent and 5 in the other: a product."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 6)), rng.normal(size=(2, 5))
    pairs = np.stack(
        [np.repeat(first, 5, axis=1), np.tile(second, (1, 6))], axis=-1
    )  # [mean and log scale, 30, 2]
    result = decompose(*pairs, draw(30, 2, 10)[2])
    np.testing.assert_allclose(result.parts.total_correlation, 0, atol=1e-5)
    np.testing.assert_allclose(result.standard_errors.total_correlation, 0, atol=1e-5)
    assert result.parts.marginal_kl > 0.1


def test_total_correlation_of_a_gaussian_is_that_of_its_correlation():
    """4096 components of N(0, C - s^2 I), q(z) = N(0, C): -1/2 log det C = 0.511.

    Evenly spread (Sobol) means leave a bias below 0.01 nats.
    """
    correlation, scale = 0.8, 0.4
    spread = np.array([[1, correlation], [correlation, 1]]) - scale**2 * np.eye(2)
    points = scipy.stats.qmc.Sobol(2, seed=3).random_base2(12)
    mean = scipy.stats.norm.ppf(points) @ np.linalg.cholesky(spread).T
    noise = np.random.default_rng(4).normal(size=(1, *mean.shape))
    result = decompose(mean, np.full_like(mean, np.log(scale)), noise, chunk=256)
    error = result.standard_errors.total_correlation
    assert error < 0.02
    expected = -0.5 * np.log(1 - correlation**2)
    assert abs(result.parts.total_correlation - expected) < 4.5 * error + 0.01
    np.testing.assert_allclose(result.parts.dimension_kl, 0, atol=4.5 * error + 0.01)


def test_standard_errors_are_those_over_images():
    """q = N(1, 1): log q - log p = noise + 1/2, so the error is 1 / sqrt(N)."""
    noise = np.random.default_rng(5).normal(size=(1, 2000, 1))
    result = decompose(np.ones((2000, 1)), np.zeros((2000, 1)), noise)
    error = result.standard_errors.average_kl
    np.testing.assert_allclose(error * np.sqrt(2000), 1, atol=4.5 / np.sqrt(4000))
    assert abs(result.parts.average_kl - 0.5) < 4.5 * error
    np.testing.assert_allclose(result.closed_form_kl, 0.5, rtol=1e-6)
    np.testing.assert_allclose(result.parts.mutual_information, 0, atol=1e-6)


def test_any_density_gives_what_gaussians_give():
    """Joint densities of z instead of densities by latent of the noise."""
    mean, log_scale, noise = map(jnp.float32, draw(40, 3, 2))
    z = mean[None] + jnp.exp(log_scale)[None] * noise

    def log_densities(image, z):
        standardized = (z[None] - mean) * jnp.exp(-log_scale)
        log_q = (-0.5 * (standardized**2 + np.log(2 * np.pi)) - log_scale).sum(-1)
        return log_q[:, None], -0.5 * (z**2 + np.log(2 * np.pi)).sum(keepdims=True)

    joint = jax.jit(functools.partial(decompose_kl, log_densities, chunk=9))(z)
    by_latent = decompose(mean, log_scale, noise)
    for name in ("average_kl", "mutual_information", "marginal_kl"):
        for one, two in zip(joint[:2], by_latent[:2], strict=True):
            np.testing.assert_allclose(
                getattr(one, name), getattr(two, name), rtol=1e-4
            )
    assert joint.parts.total_correlation == 0
    assert joint.parts.dimension_kl == joint.parts.marginal_kl
    assert np.isnan(joint.closed_form_kl)


@pytest.mark.parametrize("chunk", [1, 7, 180, 10_000])
def test_the_parts_do_not_depend_on_the_chunk(chunk):
    arguments = draw(60, 4, 3)
    reference = decompose(*arguments, chunk=13)
    for one, two in zip(
        jax.tree.leaves(reference),
        jax.tree.leaves(decompose(*arguments, chunk=chunk)),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_padding_contributes_exactly_nothing():
    """Whatever its posterior; that of a padded model is the prior."""
    arrays = draw(37, 5, 2)
    own = decompose(*(array[..., :3] for array in arrays))
    wide = decompose(*arrays, jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]))
    assert np.all(wide.parts.dimension_kl[3:] == 0)
    assert np.all(wide.standard_errors.dimension_kl[3:] == 0)
    for one, two in zip(own.parts[:4], wide.parts[:4], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_allclose(own.closed_form_kl, wide.closed_form_kl, rtol=1e-6)


@pytest.mark.parametrize("log_scale", [-20.0, 20.0])
def test_the_narrowest_and_widest_posteriors_are_not_lost_to_rounding(log_scale):
    """The narrowest, of scale 2e-9, about means whose last digit is 1e-7."""
    mean, _, noise = draw(200, 2, 20)
    result = decompose(mean, np.full_like(mean, log_scale), noise)
    assert_sums_hold(result.parts)
    error = result.standard_errors.average_kl
    assert abs(result.parts.average_kl - result.closed_form_kl) < 4.5 * error
    information = np.log(200) if log_scale < 0 else 0
    np.testing.assert_allclose(
        result.parts.mutual_information, information, rtol=1e-5, atol=1e-5
    )


def test_posteriors_of_all_widths_at_once_stay_finite():
    mean, _, noise = draw(40, 3, 2)
    log_scale = np.random.default_rng(6).choice([-20.0, 0.0, 20.0], mean.shape)
    result = decompose(mean, log_scale, noise)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result))
    assert 0 < result.parts.mutual_information <= np.log(40) * (1 + 1e-6)


def test_one_image_and_one_latent_carry_no_information():
    result = decompose(np.array([[0.5]]), np.array([[-1.0]]), draw(1, 1, 5)[2])
    assert result.parts.mutual_information == 0
    assert result.parts.total_correlation == 0
    np.testing.assert_allclose(result.parts.average_kl, result.parts.marginal_kl)
    assert np.isnan(result.standard_errors.average_kl)


def test_it_maps_over_models():
    """Stacked models, as a population keeps them."""
    mean, log_scale, noise = map(jnp.float32, draw(20, 2, 1))
    function = functools.partial(decompose_gaussian_kl, chunk=8)
    stacked = jax.jit(jax.vmap(function, (0, None, None)))(
        jnp.stack([mean, 2 * mean]), log_scale, noise
    )
    alone = decompose(2 * mean, log_scale, noise)
    np.testing.assert_allclose(
        stacked.parts.mutual_information[1], alone.parts.mutual_information, rtol=1e-5
    )
