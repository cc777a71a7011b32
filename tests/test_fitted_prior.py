"""Tests of fitted priors against aggregated posteriors that are known exactly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tests import linear_gaussian
from tests.test_training import assert_same
from vae_jax.fitted_prior import FITTABLE, fit_prior
from vae_jax.posteriors import make_posterior
from vae_jax.priors import make_prior

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

STEPS = {"num_steps": 1500, "batch_size": 200, "learning_rate": 0.03}


@pytest.fixture(scope="module")
def trained():
    """Returns a linear-Gaussian model, three images far apart, and their posteriors.

    q(z) is the mixture of three Gaussians with equal weights.
    """
    model, params, evidence = linear_gaussian.exact_model()
    x = 3 * evidence.rvs(3, random_state=4).astype(np.float32)
    posterior = model.encode(params, jnp.asarray(x))
    mean, scale = np.asarray(posterior.mean), np.exp(np.asarray(posterior.log_scale))
    return model, params, jnp.asarray(x), mean, scale


def fit(trained, name, key, **options):
    model, params, x, *_ = trained
    family = make_prior(name, (model.latent_dim,), **options)
    return fit_prior(model, params, family, key, x, **STEPS)


def aggregated_samples(mean, scale, rng, count=20_000):
    """Returns samples of q(z), ``[count, latent]``."""
    index = rng.integers(0, len(mean), count)
    return mean[index] + scale[index] * rng.normal(size=(count, mean.shape[1]))


def test_a_fitted_gaussian_has_the_moments_of_the_aggregated_posterior(trained):
    """It also raises the ELBO by the KL of this Gaussian from the prior it replaces.

    KL(q(z) || p(z)) - KL(q(z) || fitted) where the moments match. Adam's noise at a
    rate that ends at 0 is below 0.02 of a scale.
    """
    model, params, x, mean, scale = trained
    fitted, fitted_params = fit(trained, "gaussian", jax.random.key(0))
    variance = (scale**2).mean(0) + mean.var(0)
    prior = fitted.prior(fitted_params)
    error = (np.asarray(prior.mean) - mean.mean(0)) / np.sqrt(variance)
    assert np.all(np.abs(error) < 0.02)
    np.testing.assert_allclose(prior.log_scale, 0.5 * np.log(variance), atol=0.02)

    def mean_kl(model, params):
        kl = model.closed_form_kl(params, model.encode(params, x))
        return float(kl.sum(-1).mean())

    gain = mean_kl(model, params) - mean_kl(fitted, fitted_params)
    expected = 0.5 * (variance + mean.mean(0) ** 2 - 1 - np.log(variance)).sum()
    assert expected > 1
    assert gain == pytest.approx(expected, abs=0.002)


def test_a_fitted_mixture_is_the_aggregated_posterior(trained, key):
    """KL(q(z) || p(z)) falls from nats to its bias of fitting, below 0.01."""
    model, params, _, mean, scale = trained
    fitted, fitted_params = fit(trained, "mixture", jax.random.key(1), components=6)
    z = aggregated_samples(mean, scale, np.random.default_rng(0))
    each = scipy.stats.norm.logpdf(z[:, None], mean, scale).sum(-1)
    log_q = scipy.special.logsumexp(each, axis=1) - np.log(3)

    def kl(model, params):
        ratio = log_q - np.asarray(model.prior(params).log_prob(jnp.asarray(z)))
        return ratio.mean(), ratio.std() / np.sqrt(ratio.size)

    before, _ = kl(model, params)
    after, error = kl(fitted, fitted_params)
    assert before > 1
    assert error < 0.002
    assert -4.5 * error < after < 0.01 + 4.5 * error


@pytest.mark.slow
def test_a_fitted_flow_comes_closer_to_the_aggregated_posterior(trained):
    """It is closer than the best Gaussian, which has the same moments."""
    *_, mean, scale = trained
    z = aggregated_samples(mean, scale, np.random.default_rng(1))
    log_pz = {}
    for name in ("gaussian", "flow"):
        fitted, params = fit(trained, name, jax.random.key(2))
        log_pz[name] = float(fitted.prior(params).log_prob(jnp.asarray(z)).mean())
    assert log_pz["flow"] > log_pz["gaussian"] + 0.3


def test_only_the_prior_changes(trained):
    model, params, *_ = trained
    fitted, fitted_params = fit(trained, "gaussian", jax.random.key(0))
    assert_same(
        {**fitted_params, "prior": ()},
        {**jax.tree.map(jnp.asarray, params), "prior": ()},
    )
    assert (fitted.encoder, fitted.decoder) == (model.encoder, model.decoder)


def test_the_prior_of_a_ladder_is_refused(trained, key):
    """Its posterior depends on the prior."""
    model, params, x, *_ = trained
    ladder = dataclasses.replace(
        model, posterior_family=make_posterior("ladder", (1, 1), layer_widths=(4,))
    )
    family = make_prior("mixture", (model.latent_dim,))
    with pytest.raises(ValueError, match="Train with posterior 'bottom_up'"):
        fit_prior(ladder, params, family, key, x, **STEPS)


def test_the_prior_of_a_chain_from_noise_to_images_is_refused(trained, key):
    """It makes one chain with the posterior."""
    model, params, x, *_ = trained
    chain = dataclasses.replace(model, posterior_family=make_posterior("noise", (2,)))
    family = make_prior("diffusion", (model.latent_dim,))
    with pytest.raises(ValueError, match="Train with another posterior, such as 'dia"):
        fit_prior(chain, params, family, key, x, **STEPS)


def test_a_vamp_prior_is_refused_by_name(trained, key):
    assert "vamp" not in FITTABLE
    with pytest.raises(ValueError, match=r"'vamp' cannot be fitted .* 'mixture'"):
        fit(trained, "vamp", key)
