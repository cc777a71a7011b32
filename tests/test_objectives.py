"""Bounds against the exact answers of a linear-Gaussian model, and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import linear_gaussian
from vae_jax.likelihoods import LIKELIHOODS, make_likelihood
from vae_jax.model import make_vae
from vae_jax.objectives import OBJECTIVES, elbo, elbo_log_weight, iwae


@pytest.fixture(scope="module")
def linear():
    model, params, evidence = linear_gaussian.exact_model()
    x = evidence.rvs(32, random_state=2).astype(np.float32)
    return model, params, jnp.asarray(x), evidence.logpdf(x)


def test_at_the_true_posterior_every_log_weight_is_log_px(key, linear):
    model, params, x, log_px = linear
    for num_samples in (1, 5):
        key, own = jax.random.split(key)
        terms = elbo_log_weight(model, params, own, x, num_samples=num_samples)
        np.testing.assert_allclose(terms.bound, log_px, atol=2e-5)


def test_at_the_true_posterior_the_importance_weighted_bound_is_tight(key, linear):
    model, params, x, log_px = linear
    terms = iwae(model, params, key, x, num_samples=7)
    np.testing.assert_allclose(terms.bound, log_px, atol=2e-5)


def test_at_the_true_posterior_the_analytic_elbo_is_log_px_on_average(key, linear):
    """Within 5 standard errors of the mean over 32 images x 20,000 samples."""
    model, params, x, log_px = linear
    count = 20_000
    reconstruction = elbo(model, params, key, x, num_samples=count)
    # E_q ||x - W z - b||^2 has a standard deviation of about 1.5 nats per sample.
    assert np.max(np.abs(reconstruction.bound - log_px)) < 5 * 1.5 / np.sqrt(count)
    assert abs(np.mean(reconstruction.bound - log_px)) < 5 * 1.5 / np.sqrt(32 * count)


def test_a_wrong_posterior_costs_exactly_its_kl(key, linear):
    """log p(x) - ELBO = KL(q || p(z|x)), which is m^2 / (2 s^2) for a shift by m."""
    model, params, x, log_px = linear
    params = jax.tree.map(jnp.copy, params)
    head = params["encoder"]["head"]
    scale = np.exp(20 * np.tanh(np.asarray(head["log_scale"]["bias"]) / 20))
    head["mean"]["bias"] += 2.0 * scale
    terms = elbo_log_weight(model, params, key, x, num_samples=20_000)
    gap = np.mean(log_px - np.asarray(terms.bound))
    assert gap == pytest.approx(3 * 2.0**2 / 2, abs=0.02)


def test_iwae_of_one_sample_is_the_log_weight_elbo(key, untrained):
    clone = jax.random.clone(key)
    one = iwae(*untrained[:2], key, untrained[2])
    other = elbo_log_weight(*untrained[:2], clone, untrained[2])
    np.testing.assert_allclose(one.bound, other.bound, rtol=1e-6)


def test_importance_weighted_bound_rises_with_samples(key, untrained):
    model, params, x = untrained
    bounds = []
    for num_samples in (1, 5, 50):
        keys = jax.random.split(jax.random.fold_in(key, num_samples), 200)
        run = jax.vmap(
            lambda key, k=num_samples: iwae(model, params, key, x, num_samples=k).bound
        )
        bounds.append(float(jax.jit(run)(keys).mean()))
    assert bounds[0] < bounds[1] < bounds[2]


def test_both_forms_of_the_elbo_have_the_same_expectation(key, untrained):
    """Within 4.5 standard errors, estimated from 400 batches: failure rate 7e-6."""
    model, params, x = untrained

    @jax.jit
    @jax.vmap
    def difference(key):
        first, second = jax.random.split(key)
        analytic = elbo(model, params, first, x, num_samples=50).bound.mean()
        return elbo_log_weight(
            model, params, second, x, num_samples=50
        ).bound.mean() - (analytic)

    differences = np.asarray(difference(jax.random.split(key, 400)))
    error = differences.std() / np.sqrt(differences.size)
    assert abs(differences.mean()) < 4.5 * error
    assert error < 0.03


@pytest.mark.parametrize("name", OBJECTIVES)
def test_beta_weighs_the_kl_and_nothing_else(key, untrained, name):
    model, params, x = untrained
    plain = OBJECTIVES[name].terms(model, params, jax.random.clone(key), x)
    heavy = OBJECTIVES[name].terms(model, params, key, x, beta=4.0)
    np.testing.assert_array_equal(heavy.reconstruction, plain.reconstruction)
    np.testing.assert_array_equal(heavy.kl, plain.kl)
    np.testing.assert_allclose(heavy.bound, plain.bound - 3.0 * plain.kl, rtol=1e-5)
    np.testing.assert_allclose(heavy.elbo, plain.bound, rtol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_jit_equals_eager(key, untrained, name):
    model, params, x = untrained
    eager = OBJECTIVES[name].terms(
        model, params, jax.random.clone(key), x, num_samples=3
    )
    jitted = jax.jit(
        lambda params, key, x: OBJECTIVES[name].terms(
            model, params, key, x, num_samples=3
        )
    )(params, key, x)
    for one, other in zip(eager, jitted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_are_per_image(key, untrained, name):
    model, params, x = untrained
    terms = OBJECTIVES[name].terms(model, params, key, x, num_samples=2)
    assert {term.shape for term in terms} == {(10,)}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradients_are_finite_where_training_begins(key, likelihood):
    model = make_vae(
        make_likelihood(likelihood, 256),
        image_shape=(3, 3, 1),
        latent_dim=2,
        widths=(4,),
    )
    params = model.init(jax.random.key(0), jnp.zeros(9), jnp.zeros(9))
    dtype = jnp.int32 if model.likelihood.view == "levels" else jnp.float32
    x = jnp.zeros((2, 9), dtype)

    def loss(params):
        return -elbo(model, params, key, x).bound.mean()

    for leaf in jax.tree.leaves(jax.grad(loss)(params)):
        assert np.all(np.isfinite(leaf))


def test_free_bits_charge_each_latent_at_least_so_much(untrained, key):
    model, params, x = untrained
    plain = elbo(model, params, jax.random.clone(key), x)
    free = elbo(model, params, key, x, beta=2.0, free_bits=0.3)
    per_latent = model.encode(params, x).kl_to_standard_normal()
    charged = np.maximum(per_latent, 0.3).sum(-1)
    assert np.all(charged >= plain.kl)
    assert np.any(charged > plain.kl + 0.1)
    np.testing.assert_allclose(free.kl, plain.kl, rtol=1e-6)
    np.testing.assert_allclose(
        free.bound, plain.reconstruction - 2 * charged, rtol=1e-5
    )
