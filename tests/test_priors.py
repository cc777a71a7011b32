"""Tests of priors against SciPy's densities and exact moments."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from vae_jax import views
from vae_jax.distributions import DiagonalGaussian
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.objectives import OBJECTIVES
from vae_jax.priors import PRIORS, make_prior

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

# Each program runs once or twice: not worth optimising.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": "0"}
)

LATENTS, COMPONENTS, LEVELS = 2, 4, 17


def build(prior, components=COMPONENTS):
    has_components = "components" in PRIORS.options(prior)
    return make_vae(
        make_likelihood("bernoulli", LEVELS),
        image_shape=(4, 4, 1),
        latent_dim=LATENTS,
        widths=(6,),
        prior=prior,
        prior_options={"components": components} if has_components else {},
    )


class Exact(NamedTuple):
    """A mixture of diagonal Gaussians, in NumPy."""

    weights: np.ndarray  # [components]
    mean: np.ndarray  # [components, latent]
    scale: np.ndarray

    def log_prob(self, z):
        z = np.asarray(z, np.float64)[..., None, :]
        each = scipy.stats.norm.logpdf(z, self.mean, self.scale).sum(-1)
        return scipy.special.logsumexp(each + np.log(self.weights), axis=-1)

    def moments(self):
        """Returns mean and variance of each latent."""
        mean = self.weights @ self.mean
        return mean, self.weights @ (self.scale**2 + self.mean**2) - mean**2


def bounded(raw):
    return np.exp(20 * np.tanh(np.asarray(raw, np.float64) / 20))


@pytest.fixture(scope="module", params=["gaussian", "mixture", "vamp"])
def moved(request, images):
    """Returns a model whose prior's parameters differ from the initial ones."""
    model = build(request.param)
    statistics = jnp.full(16, 0.4), jnp.full(16, 0.3)
    params = jit(model.init)(jax.random.key(1), *statistics, images)
    # An encoder whose posteriors differ.
    params["encoder"] = jax.tree.map(lambda leaf: 3 * leaf, params["encoder"])
    params["prior"] = jax.tree.map(
        lambda leaf: leaf + 0.5 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape),
        params["prior"],
    )
    own = params["prior"]
    if request.param == "gaussian":
        mean, scale = np.asarray(own["mean"])[None], bounded(own["log_scale"])[None]
        return model, params, Exact(np.ones(1), mean, scale)
    if request.param == "mixture":
        weights = scipy.special.softmax(np.asarray(own["logits"], np.float64))
        mean, scale = np.asarray(own["mean"]), bounded(own["log_scale"])
        return model, params, Exact(weights, mean, scale)
    binary = scipy.special.expit(own["pseudo_inputs"])
    posterior = model.encode(params, jnp.asarray(binary))
    scales = np.exp(np.asarray(posterior.log_scale))
    equal = np.full(COMPONENTS, 1 / COMPONENTS)
    return model, params, Exact(equal, np.asarray(posterior.mean), scales)


@pytest.mark.parametrize("leading", [(), (5,), (2, 5), (2, 1, 3)])
def test_log_prob_is_scipys(key, moved, leading):
    model, params, exact = moved
    z = 2 * jax.random.normal(key, (*leading, LATENTS))
    actual = model.prior(params).log_prob(z)
    assert actual.shape == leading
    np.testing.assert_allclose(actual, exact.log_prob(z), rtol=1e-4, atol=1e-5)


def test_samples_have_the_priors_moments(key, moved):
    """Within 4.5 standard errors of 4 moments, 3 priors: failure rate 8e-5."""
    model, params, exact = moved
    count = 50_000
    z = np.asarray(model.prior(params).sample(key, count))
    assert z.shape == (count, LATENTS)
    mean, variance = exact.moments()
    squares = (z - mean) ** 2
    assert np.all(np.abs(z.mean(0) - mean) < 4.5 * z.std(0) / np.sqrt(count))
    error = squares.std(0) / np.sqrt(count)
    assert np.all(np.abs(squares.mean(0) - variance) < 4.5 * error)


def test_kl_to_a_gaussian_prior_is_that_of_two_gaussians(moved):
    model, params, exact = moved
    posterior = DiagonalGaussian(jnp.array([[0.3, -1.0]]), jnp.array([[-0.7, 0.4]]))
    if not model.has_closed_form_kl:
        with pytest.raises(ValueError, match="elbo_log_weight"):
            model.closed_form_kl(params, posterior)
        return
    mean, scale = np.asarray(posterior.mean), np.exp(np.asarray(posterior.log_scale))
    ratio = scale / exact.scale
    shift = (mean - exact.mean) / exact.scale
    expected = 0.5 * (ratio**2 + shift**2 - 1) - np.log(ratio)
    actual = model.closed_form_kl(params, posterior)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("objective", ["elbo_log_weight", "iwae"])
def test_objectives_reach_every_parameter_of_the_prior(key, moved, images, objective):
    model, params, _ = moved
    x = views.observe("binary", jax.random.key(5), jnp.asarray(images[:8]), LEVELS)

    @jit
    def gradient(prior):
        def loss(prior):
            terms = OBJECTIVES.make(objective, num_samples=3)(
                model, {**params, "prior": prior}, key, x
            )
            return -terms.bound.mean()

        return jax.grad(loss)(prior)

    for leaf in jax.tree.leaves(gradient(params["prior"])):
        assert np.all(np.isfinite(leaf))
        assert np.count_nonzero(leaf) > 0.5 * leaf.size


def test_extreme_parameters_and_latents_keep_gradients_finite(moved):
    model, params, _ = moved

    def log_prob(prior, z):
        return model.prior({**params, "prior": prior}).log_prob(z).sum()

    gradient = jit(jax.value_and_grad(log_prob, (0, 1)))
    z = jnp.array([[0.0, 100.0], [-100.0, 1.0]])
    for extreme in (-1e4, 1e4):
        prior = jax.tree.map(lambda leaf, e=extreme: leaf + e, params["prior"])
        value, gradients = gradient(prior, z)
        for leaf in jax.tree.leaves((value, gradients)):
            assert np.all(np.isfinite(leaf))


def fresh(prior, key, images, components=COMPONENTS):
    return build(prior, components).prior_family.init(key, images, LEVELS)


def test_a_gaussian_prior_starts_at_the_standard_normal(key, images):
    family, standard = (
        make_prior(name, (LATENTS,)) for name in ("gaussian", "standard_normal")
    )
    own = family.init(key, images, LEVELS)
    prior = family.at({"prior": own}, None)
    z = jnp.array([[0.3, -2.0], [1.0, 4.0]])
    np.testing.assert_allclose(prior.log_prob(z), standard.log_prob(z), rtol=1e-6)


def test_a_mixture_starts_spread_out_with_the_moments_of_the_standard_normal(key):
    """Means and variances of 2,000 components: within 4.5 standard errors."""
    own = fresh("mixture", key, np.zeros((0, 16)), components=2000)
    weights = np.full(2000, 1 / 2000)
    mixture = Exact(weights, np.asarray(own["mean"]), bounded(own["log_scale"]))
    mean, variance = mixture.moments()
    assert np.all(np.abs(mean) < 4.5 / np.sqrt(2000))
    assert np.all(np.abs(variance - 1) < 4.5 * np.sqrt(2 / 2000))
    assert len(np.unique(own["mean"], axis=0)) == 2000


def test_a_vamp_prior_starts_at_different_training_images(key, images):
    images = images[:COMPONENTS]  # so that each is taken once
    raw = fresh("vamp", key, images)["pseudo_inputs"]
    intensity = np.sort(scipy.special.expit(raw), axis=0)
    expected = np.sort(np.clip(images / 16, 0.05, 0.95), axis=0)
    np.testing.assert_allclose(intensity, expected, atol=1e-6)


def test_a_black_pseudo_input_can_become_brighter(key):
    model = build("vamp", 1)
    black = jnp.zeros((1, 16), jnp.uint8)
    params = jit(model.init)(key, jnp.full(16, 0.4), jnp.full(16, 0.3), black)

    def log_prob(prior):
        return model.prior({**params, "prior": prior}).log_prob(jnp.ones(LATENTS))

    gradient = jit(jax.grad(log_prob))(params["prior"])["pseudo_inputs"]
    assert np.all(np.asarray(gradient) != 0)


@pytest.mark.parametrize("count", [0, 3])
def test_more_pseudo_inputs_than_images_are_refused(key, images, count):
    with pytest.raises(ValueError, match=f"components is 4, .* and {count} were given"):
        fresh("vamp", key, images[:count])


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_a_mixture_of_nothing_is_refused(prior):
    with pytest.raises(ValueError, match=r"components is 0: .* at least 1"):
        build(prior, 0)
