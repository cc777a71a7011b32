"""Tests of the parts of the theory's programs about diffusion models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from experiments.theory import (
    noise_chain,
)
from experiments.theory.models import exact_chain
from vae_jax.diffusion import GaussianImages
from vae_jax.distributions import DiagonalGaussian


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
