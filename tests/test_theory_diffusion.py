"""Tests of the parts of the theory's programs about diffusion models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from experiments.theory import (
    diffusion_bound,
    flows,
    memorization,
    noise_chain,
    scores,
)
from experiments.theory.models import GAMMA, chain, exact_chain
from vae_jax.diffusion import GaussianImages
from vae_jax.distributions import DiagonalGaussian

SNR = np.exp(-np.array(GAMMA))


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def images():
    """Returns a normal distribution of images of three values."""
    factor = 0.4 * np.random.default_rng(0).standard_normal((3, 3))
    return GaussianImages(
        np.array([0.2, -0.1, 0.3]), factor @ factor.T + np.eye(3) / 50
    )


# --- noise_chain ---


def test_moments_of_a_quadratic_function_of_normals():
    def function(noise):
        return jnp.stack([3 + noise[0] + 2 * noise[0] * noise[1], noise[1] ** 2])

    (mixed, square) = noise_chain.moments(function, 2)
    assert_allclose(mixed, (3, 1 + 4))
    assert_allclose(square, (1, 2))


def test_kl_of_normals():
    q = DiagonalGaussian(jnp.array([[1.0, 0.0]]), jnp.log(jnp.array([[1.0, 2.0]])))
    p = DiagonalGaussian(jnp.array([[0.0, 0.0]]), jnp.log(jnp.array([[2.0, 2.0]])))
    assert_allclose(noise_chain.kl(q, p), [np.log(2) + 2 / 8 - 0.5])


def test_two_forms_have_the_mean_of_the_closed_form(images):
    x, steps = np.array([0.3, 0.2, -0.5]), 3
    prior = exact_chain(images, noise_steps=steps)

    def elbos(noise):
        terms = noise_chain.two_forms(prior, jnp.asarray(x), noise.reshape(-1, 3))
        return -terms.sum(1)

    consistency, denoising, mistake = noise_chain.moments(elbos, 3 * (steps + 1))
    exact = noise_chain.elbo(images, x, steps)
    assert_allclose([consistency.mean, denoising.mean], exact, rtol=1e-10)
    cost = noise_chain.cost_of_mistake(images, steps)
    assert_allclose(exact - mistake.mean, cost, rtol=1e-8)


# --- diffusion_bound ---


def test_points_have_the_moments_of_a_standard_normal():
    points = diffusion_bound.points(3)
    assert_allclose(points.mean(0), 0, atol=1e-12)
    assert_allclose(points.T @ points / len(points), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("steps", [2, 0])
def test_the_mean_of_the_library_is_the_closed_form(images, steps):
    x = np.array([0.3, 0.2, -0.5])
    prior = exact_chain(images, noise_steps=steps)
    exact = images.diffusion_limit(x, *SNR)
    if steps:
        exact = images.diffusion_term(x, np.exp(-np.linspace(*GAMMA, steps + 1)))
    assert_allclose(diffusion_bound.of_one_image(prior, x), exact, rtol=1e-10)


def test_no_schedule_is_quieter_than_the_best(images):
    x = np.array([0.3, 0.2, -0.5])
    _, table = diffusion_bound._schedules(images, x)
    least = diffusion_bound.least_variance(images, x)
    assert 0 < least < min(row["variance"] for row in table)


def test_one_step_with_the_exact_variance_costs_no_more_than_many(images):
    one, three = (
        diffusion_bound.diffusion_with_exact_steps(images, steps) for steps in (1, 3)
    )
    ratios = (1 + SNR[0] * images.eigenvalues) / (1 + SNR[1] * images.eigenvalues)
    assert_allclose([one, three], 0.5 * np.log(ratios).sum(), rtol=1e-10)


# --- scores ---


def test_a_mixture_with_noise_is_a_density():
    own = scores.mixture([0.3, 0.7], [-1.0, 1.5], 0.1).noised(0.5)
    z, weight = scores.line()
    assert_allclose(jnp.exp(own.log_prob(z)).sum() * weight, 1, rtol=1e-10)


def test_walkers_between_equal_parts_reach_either_by_where_they_start():
    own = scores.mixture([0.5, 0.5], [-3.0, 3.0], 1.0)
    found = [scores.share_by_start(own, jnp.array([at])) for at in (-5.0, 0.0, 3.0)]
    assert_allclose(found, [1, 0.5, 0], atol=1e-6)


def test_langevin_has_the_mean_of_its_recursion():
    z = jnp.full(1000, 2.0)
    found = scores.langevin(lambda z: -z, jax.random.key(0), z, 0.1, 3)
    assert abs(found.mean() - 2 * 0.9**3) < 4 * np.sqrt(0.6 / 1000)


# --- flows ---


@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_solver_has_its_order(order):
    def error(steps):
        y = flows.solve(lambda t, y: t * y, jnp.ones(1), (0.0, 1.0), steps, order)
        return abs(float(y[0]) - np.exp(0.5))

    assert_allclose(np.log2(error(32) / error(64)), order, atol=0.1)


# --- memorization ---


def test_the_best_denoiser_of_one_image_says_that_image():
    images = np.array([[0.5, -0.5]])
    prior = chain(memorization.FiniteDenoiser(images), 2)
    found = prior.denoised(jnp.ones((1, 2)), jnp.zeros(1))
    assert_allclose(found.x, images)
    ratios = memorization.log_ratios(images, images, 0.0, np.ones((1, 2)))
    assert_allclose(ratios, 0, atol=1e-12)


def test_the_best_denoiser_of_two_images_weighs_them():
    prior = chain(memorization.FiniteDenoiser(np.array([[-1.0], [1.0]])), 1)
    z, gamma = jnp.array([[0.3]]), jnp.array([1.0])
    alpha = np.sqrt(1 / (1 + np.e))
    expected = np.tanh(np.exp(-1) * 0.3 / alpha)
    assert_allclose(prior.denoised(z, gamma).x, [[expected]], rtol=1e-10)


def test_the_bound_of_a_finite_set_is_the_exact_one():
    images = np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -0.7]])
    prior = chain(memorization.FiniteDenoiser(images), 2)
    found, error = memorization.bound(prior, images, jax.random.key(0))
    exact, own_error = memorization.exact_bound(images, images, 0)
    assert abs(found - exact) < 4 * np.hypot(error, own_error)
