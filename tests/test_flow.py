"""Tests of the likelihood of the probability flow, against normal data's answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.chains import CHAIN
from tests.test_samplers import ENDS, exact_chain
from tests.test_samplers import images as images  # A fixture.
from vae_jax.diffusion import ExactDenoiser
from vae_jax.evidence import flow_estimate, flow_log_prob, importance_estimate
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae

measure = jax.jit(flow_log_prob, static_argnames="num_probes")


def latents(chain, images, num):
    """Returns samples of q(z_0)."""
    rng = np.random.default_rng(1)
    x = rng.multivariate_normal(images.mean, images.covariance, num)
    noise = rng.standard_normal(x.shape)
    gamma = jnp.full(num, ENDS.gamma_min)
    return chain.family.process.noised(jnp.float32(x), gamma, jnp.float32(noise))


def exact_log_prob(process, images, z):
    """Returns log p(z_0) of the flow: it stretches each principal direction."""
    eigenvalues, directions = np.linalg.eigh(images.covariance)
    ends = [jnp.float32(end) for end in (ENDS.gamma_min, ENDS.gamma_max)]
    alphas, sigmas = (
        [float(part(end)) for end in ends] for part in (process.alpha, process.sigma)
    )
    variances = [a**2 * eigenvalues + s**2 for a, s in zip(alphas, sigmas, strict=True)]
    stretch = np.sqrt(variances[1] / variances[0])
    mean = images.mean @ directions
    end = (np.asarray(z) @ directions - alphas[0] * mean) * stretch + alphas[1] * mean
    size = float(process.size(ends[1]))
    log_normal = -0.5 * (end / size) ** 2 - np.log(size) - 0.5 * np.log(2 * np.pi)
    return (log_normal + np.log(stretch)).sum(1)


@pytest.mark.parametrize("preserves", [True, False])
def test_the_flow_of_normal_data_has_its_exact_density(images, preserves):
    chain = exact_chain(images, preserves_variance=preserves)
    z = latents(chain, images, 20)
    exact = exact_log_prob(chain.family.process, images, z)
    errors = []
    for tolerance in (1e-3, 1e-5):
        found = measure(chain, jax.random.key(0), z, tolerance=tolerance)
        errors.append(np.abs(found.log_prob - exact).max())
    assert errors[1] < 1e-4
    assert errors[1] < 0.1 * errors[0] < 0.01
    assert (found.evaluations < 200).all()


def test_random_directions_estimate_it_without_bias(images):
    chain = exact_chain(images)
    z = latents(chain, images, 1)
    exact = exact_log_prob(chain.family.process, images, z)
    many = jnp.broadcast_to(z, (500, 3))
    options = {"num_probes": 1, "tolerance": 1e-4}
    found = np.asarray(measure(chain, jax.random.key(0), many, **options).log_prob)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - exact) < 4 * error < 1


def test_a_latent_has_its_density_beside_any_others(images):
    chain = exact_chain(images)
    z = latents(chain, images, 4)
    whole, first = (measure(chain, jax.random.key(0), part) for part in (z, z[:1]))
    np.testing.assert_allclose(whole.log_prob[:1], first.log_prob, atol=1e-5)
    np.testing.assert_array_equal(whole.evaluations[:1], first.evaluations)


@pytest.fixture(scope="module")
def exact_model(images):
    """Returns a model of normal images with the best denoiser, and its parameters."""
    model = make_vae(
        make_likelihood("gaussian_pixel", 256),
        image_shape=(1, 3, 1),
        latent_dim=3,
        **CHAIN,
        denoiser=ExactDenoiser(images, **dataclasses.asdict(ENDS)),
        predicts="data",
        **dataclasses.asdict(ENDS),
    )
    half = jnp.full(3, 0.5)
    return model, model.init(jax.random.key(0), half, half)


def test_the_exact_flow_has_the_bound_of_the_exact_chain(images, exact_model):
    x = (jnp.float32(images.sample(1, 1)[0]) + 1) / 2
    keys = jax.random.split(jax.random.key(2), 1000)

    @jax.jit
    @jax.vmap
    def bounds(key):
        flow = flow_estimate(*exact_model, key, x, tolerance=1e-4)
        chain = importance_estimate(*exact_model, key, x, num_samples=64, chunk=64)
        return flow.bound, chain.elbo

    flow, chain = map(np.asarray, bounds(keys))
    error = np.hypot(flow.std(), chain.std()) / np.sqrt(len(keys))
    # At -log SNR = 9 the last layer has a KL of less than 1e-3 to its prior.
    assert abs(flow.mean() - chain.mean()) < 4 * error < 0.5


def test_a_solver_that_fails_gives_no_number(images):
    chain = exact_chain(images)
    z = latents(chain, images, 2).at[0].set(jnp.nan)
    found = measure(chain, jax.random.key(0), z, tolerance=1e-3).log_prob
    np.testing.assert_array_equal(np.isnan(found), [True, False])


def test_bad_arguments_are_refused(images, exact_model):
    chain = exact_chain(images)
    with pytest.raises(ValueError, match=r"num_probes is -1: "):
        flow_log_prob(chain, jax.random.key(0), jnp.zeros((1, 3)), num_probes=-1)
    with pytest.raises(ValueError, match=r"tolerance is 0: it must be above 0"):
        flow_log_prob(chain, jax.random.key(0), jnp.zeros((1, 3)), tolerance=0)
    vae = make_vae(
        make_likelihood("bernoulli", 2),
        image_shape=(1, 3, 1),
        latent_dim=2,
        widths=(4,),
    )
    half = jnp.full(3, 0.5)
    params = vae.init(jax.random.key(0), half, half)
    with pytest.raises(ValueError, match=r"only a chain of images .* 'noise'"):
        flow_estimate(vae, params, jax.random.key(0), half)
