"""Tests of decompositions with known answers.

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
    """Draws means, log scales and noise without any structure."""
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
    assert result.parts.average_kl == 0
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
    noise = np.random.default_rng(1).normal(size=(400, 50, 2, 1)).astype(np.float32)
    draws = jax.jit(
        jax.vmap(lambda n: decompose_gaussian_kl(mean, log_scale, n, chunk=2))
    )(noise)
    np.testing.assert_allclose(
        draws.parts.average_kl, expected.pop("average_kl"), rtol=1e-5
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


def by_samples_alone(mean, log_scale, noise):
    """Returns the decomposition without the KL by formula."""

    def log_densities(image, noise):
        z = mean[image] + jnp.exp(log_scale[image]) * noise
        standardized = (z[None] - mean) * jnp.exp(-log_scale)
        log_q = -0.5 * (standardized**2 + np.log(2 * np.pi)) - log_scale
        return log_q, -0.5 * (z**2 + np.log(2 * np.pi))

    return decompose_kl(log_densities, noise, chunk=64)


def test_standard_errors_are_those_over_images():
    """q = N(1, 1): log q - log p = noise + 1/2, so the error is 1 / sqrt(N)."""
    noise = np.random.default_rng(5).normal(size=(1, 2000, 1))
    arrays = map(jnp.float32, (np.ones((2000, 1)), np.zeros((2000, 1)), noise))
    result = jax.jit(by_samples_alone)(*arrays)
    error = result.standard_errors.average_kl
    np.testing.assert_allclose(error * np.sqrt(2000), 1, atol=4.5 / np.sqrt(4000))
    assert abs(result.parts.average_kl - 0.5) < 4.5 * error
    assert result.parts.average_kl == result.sampled_kl
    np.testing.assert_allclose(result.parts.mutual_information, 0, atol=1e-6)


def test_an_average_kl_by_formula_has_the_error_of_its_images():
    """KL(N(m, 1) || N(0, 1)) = m^2 / 2."""
    mean = np.random.default_rng(5).normal(size=(500, 1))
    result = decompose(mean, np.zeros((500, 1)), draw(500, 1, 1)[2])
    kl = 0.5 * mean[:, 0] ** 2
    np.testing.assert_allclose(result.parts.average_kl, kl.mean(), rtol=1e-5)
    error = kl.std(ddof=1) / np.sqrt(500)
    np.testing.assert_allclose(result.standard_errors.average_kl, error, rtol=1e-4)
    assert result.sampled_kl != result.parts.average_kl


def correlated_means(spread, scale):
    """Returns 150 posteriors of two latents with correlated means."""
    rng = np.random.default_rng(8)
    mean = 0.3 + spread * rng.normal(size=(150, 2)) @ np.array([[1, 0.7], [0, 0.7]])
    return mean, np.log(scale) + 0.2 * rng.normal(size=(150, 2))


def by_grid(mean, log_scale):
    """Returns the parts by sums over a grid of z, in float64."""
    z = np.linspace(-18, 18, 1201)
    step = z[1] - z[0]
    log_q = scipy.stats.norm.logpdf(z[:, None, None], mean, np.exp(log_scale))
    q = np.exp(log_q)  # [points, N, 2]
    log_p = scipy.stats.norm.logpdf(z)
    joint = np.einsum("an,bn->ab", q[..., 0], q[..., 1]) / len(mean)
    marginals = q.mean(1)
    by_latent = [
        (own * (np.log(own) - log_p)).sum() * step
        for own in np.maximum(marginals.T, 1e-300)
    ]
    log_ratio = np.log(np.maximum(joint, 1e-300)) - log_p[:, None] - log_p[None]
    marginal_kl = (joint * log_ratio).sum() * step**2
    kl = 0.5 * (mean**2 + np.expm1(2 * log_scale)) - log_scale
    return {
        "mutual_information": kl.sum(1).mean() - marginal_kl,
        "marginal_kl": marginal_kl,
        "total_correlation": marginal_kl - sum(by_latent),
        "sum_of_dimensions": sum(by_latent),
    }


@pytest.mark.parametrize(
    ("spread", "scale"),
    [(0.05, 0.95), (0.7, 0.6), (1.0, 0.05), (2.0, 0.4), (0.1, 1.8)],
    ids=["collapsed", "in use", "all told apart", "far from the prior", "wide"],
)
def test_errors_cover_the_truth_and_the_formula_makes_them_smaller(spread, scale):
    """The truth is a sum over a grid; there are 200 runs with 4 samples per image.

    The errors are those of the choice of images too, so they cover these images' parts
    in at least 95 % of runs; here in 91 % at least, which chance misses once in 200.
    """
    arrays = [jnp.float32(array) for array in correlated_means(spread, scale)]
    noise = jax.random.normal(jax.random.key(0), (200, 4, 150, 2))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=0)
    def both(noise):
        controlled = decompose_gaussian_kl(*arrays, noise, chunk=64)
        return controlled, by_samples_alone(*arrays, noise)

    controlled, plain = both(noise)
    for name, truth in by_grid(*map(np.float64, arrays)).items():
        estimates, errors, without = (
            np.asarray(getattr(parts, name), np.float64)
            for parts in (controlled.parts, controlled.standard_errors, plain.parts)
        )
        sampling_error = estimates.std()
        assert abs(estimates.mean() - truth) < 4.5 * sampling_error / 200**0.5 + 1e-4
        assert np.mean(np.abs(estimates - truth) < 2 * errors + 1e-5) > 0.91
        assert sampling_error < 1.05 * without.std()


def test_any_density_gives_what_gaussians_give():
    """Joint densities of z instead of densities by latent of the noise."""
    mean, log_scale, noise = map(jnp.float32, draw(40, 3, 2))
    z = mean[None] + jnp.exp(log_scale)[None] * noise

    def log_densities(image, z):
        standardized = (z[None] - mean) * jnp.exp(-log_scale)
        log_q = (-0.5 * (standardized**2 + np.log(2 * np.pi)) - log_scale).sum(-1)
        return log_q[:, None], -0.5 * (z**2 + np.log(2 * np.pi)).sum(keepdims=True)

    kl = 0.5 * (mean**2 + jnp.expm1(2 * log_scale)) - log_scale
    joint = jax.jit(
        lambda z: decompose_kl(
            log_densities, z, chunk=9, closed_form_kl=kl.sum(1, keepdims=True)
        )
    )(z)
    by_latent = decompose(mean, log_scale, noise)
    for name in ("average_kl", "mutual_information", "marginal_kl"):
        for one, two in zip(joint[:2], by_latent[:2], strict=True):
            np.testing.assert_allclose(
                getattr(one, name), getattr(two, name), rtol=1e-4
            )
    assert joint.parts.total_correlation == 0
    np.testing.assert_allclose(joint.parts.dimension_kl, joint.parts.marginal_kl)


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
    """The padding may have any posterior; a padded model has the prior there."""
    arrays = draw(37, 5, 2)
    own = decompose(*(array[..., :3] for array in arrays))
    wide = decompose(*arrays, jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]))
    assert np.all(wide.parts.dimension_kl[3:] == 0)
    assert np.all(wide.standard_errors.dimension_kl[3:] == 0)
    for one, two in zip(own.parts[:4], wide.parts[:4], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_allclose(own.sampled_kl, wide.sampled_kl, rtol=1e-6)


@pytest.mark.parametrize("log_scale", [-20.0, 20.0])
def test_the_narrowest_and_widest_posteriors_are_not_lost_to_rounding(log_scale):
    """The narrowest has a scale of 2e-9, and the last digit of its mean is 1e-7."""
    mean, _, noise = draw(200, 2, 20)
    result = decompose(mean, np.full_like(mean, log_scale), noise)
    assert_sums_hold(result.parts)
    # Of log q - log p of z = mean + scale noise, over 200 images of 20 samples.
    scale = np.exp(log_scale)
    variance = (mean * scale) ** 2 + 0.5 * (scale**2 - 1) ** 2
    error = np.sqrt(variance.sum(1).mean() / 4000)
    assert abs(result.parts.average_kl - result.sampled_kl) < 4.5 * error
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
