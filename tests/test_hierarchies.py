"""Tests of several stochastic layers; linear ones are a joint Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vae_jax.distributions import latent_noise
from vae_jax.evidence import importance_estimate
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.objectives import IWAE, ElboLogWeight
from vae_jax.posteriors import (
    make_posterior,
)
from vae_jax.priors import make_prior

LAYERS = (3, 2)
SCALE = 0.3


def build(posterior, likelihood="gaussian_fixed", layer_widths=(), widths=()):
    model = make_vae(
        make_likelihood(likelihood, 256, **_options(likelihood)),
        image_shape=(2, 3, 1),
        latent_dim=LAYERS[0],
        upper_layers=LAYERS[1:],
        layer_widths=layer_widths,
        widths=widths,
        activation="tanh",
        posterior=posterior,
    )
    return model, model.init(jax.random.key(1), jnp.full(6, 0.5), jnp.full(6, 0.3))


def _options(likelihood):
    return {"fixed_scale": SCALE} if likelihood == "gaussian_fixed" else {}


@pytest.fixture(scope="module")
def linear():
    """Returns a chain of linear Gaussians z2 -> z1 -> x, and its p(x) by SciPy.

    Without hidden layers, a network is its linear output.
    """
    model, params = build("bottom_up")
    rng = np.random.default_rng(0)
    down = rng.normal(size=(2, 3)).astype(np.float32)
    own_scale = np.array([0.5, 0.8, 1.2], np.float32)
    head = params["prior"]["0"]["head"]
    head["mean"] = {"kernel": jnp.asarray(down), "bias": jnp.array([0.1, -0.2, 0.3])}
    head["log_scale"]["bias"] = jnp.asarray(20 * np.arctanh(np.log(own_scale) / 20))
    weights = rng.normal(size=(3, 6)).astype(np.float32) * 0.3
    params["decoder"]["output"]["kernel"] = jnp.asarray(weights)
    mean_z1 = np.array([0.1, -0.2, 0.3])
    offset = np.asarray(params["decoder"]["bias"]["pixels"][0])
    weights, down = weights.astype(np.float64), down.astype(np.float64)
    covariance_z1 = down.T @ down + np.diag(own_scale.astype(np.float64) ** 2)
    evidence = scipy.stats.multivariate_normal(
        mean_z1 @ weights + offset,
        weights.T @ covariance_z1 @ weights + SCALE**2 * np.eye(6),
    )
    joint = scipy.stats.multivariate_normal(
        np.concatenate([mean_z1, np.zeros(2)]),
        np.block([[covariance_z1, down.T], [down, np.eye(2)]]),
    )
    return model, params, evidence, joint


def test_the_prior_is_the_joint_gaussian(linear, key):
    """Its 15 covariances are within 5 standard errors: failure rate 1e-5."""
    model, params, _, joint = linear
    prior = model.prior(params)
    z = jnp.asarray(joint.rvs(20, random_state=1), jnp.float32)
    np.testing.assert_allclose(prior.log_prob(z), joint.logpdf(z), rtol=1e-4)
    count = 50_000
    drawn = np.asarray(prior.sample(key, count))
    spread = np.sqrt(np.diag(joint.cov))
    error = 1.5 * np.outer(spread, spread) / np.sqrt(count)
    assert np.all(np.abs(np.cov(drawn.T) - joint.cov) < 5 * error)
    np.testing.assert_allclose(drawn.mean(0), joint.mean, atol=0.03)


def test_log_px_is_that_of_the_marginal(linear, key):
    """It is estimated with 20,000 weights, within 4.5 standard errors."""
    model, params, evidence, _ = linear
    x = evidence.rvs(4, random_state=2).astype(np.float32)
    # Any posterior will do; a wide one keeps the weights bounded.
    estimate = jax.jit(
        jax.vmap(
            lambda key, x: importance_estimate(
                model, params, key, x, num_samples=20_000, chunk=2000
            )
        )
    )(jax.random.split(key, 4), x)
    error = 1 / np.sqrt(estimate.effective_sample_size)
    assert np.all(np.abs(estimate.log_px - evidence.logpdf(x)) < 4.5 * error)


@pytest.mark.parametrize("posterior", ["bottom_up", "ladder"])
def test_samples_have_the_density_that_comes_with_them(posterior, key):
    model, params = build(posterior, layer_widths=(4,), widths=(5,))
    x = jax.random.uniform(jax.random.key(3), (7, 6))
    q = model.encode(params, x)
    z, log_q = q.sample_and_log_prob(latent_noise(key, 3, 7, 5))
    assert z.shape == (3, 7, 5)
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-5, atol=1e-5)


def test_bottom_up_is_a_product_of_its_conditionals(key):
    model, params = build("bottom_up", layer_widths=(4,), widths=(5,))
    x = jax.random.uniform(jax.random.key(3), (2, 6))
    q = model.encode(params, x)
    z = q.sample(latent_noise(key, 1, 2, 5))
    first = q.values[0]
    expected = scipy.stats.norm.logpdf(
        z[0, :, :3], first.mean, np.exp(first.log_scale)
    ).sum(-1)
    layer = params["posterior"]["1"]
    h = np.tanh(
        z[0, :, :3] @ layer["Dense_0"]["kernel"] + layer["Dense_0"]["bias"][None]
    )
    mean = h @ layer["head"]["mean"]["kernel"] + layer["head"]["mean"]["bias"][None]
    expected += scipy.stats.norm.logpdf(z[0, :, 3:], mean, 1.0).sum(-1)
    np.testing.assert_allclose(q.log_prob(z)[0], expected, rtol=1e-4)


def test_a_ladder_without_information_from_below_is_the_prior(key):
    """Without information from below (a large scale), the generative path decides."""
    model, params = build("ladder", layer_widths=(4,))
    x = jax.random.uniform(jax.random.key(3), (2, 6))
    params["encoder"]["head"]["log_scale"]["bias"] += 15.0
    top = params["posterior"]["1"]["head"]
    top["mean"]["kernel"] *= 0
    top["log_scale"]["kernel"] *= 0
    q = model.encode(params, x)
    z, log_q = q.sample_and_log_prob(latent_noise(key, 4, 2, 5))
    np.testing.assert_allclose(log_q, model.prior(params).log_prob(z), rtol=1e-3)


def test_a_ladder_merges_by_precision(key):
    model, params = build("ladder", layer_widths=(4,))
    x = jax.random.uniform(jax.random.key(3), (2, 6))
    q = model.encode(params, x)
    z = q.sample(latent_noise(key, 1, 2, 5))
    own = q.values[0][0]
    generative = model.prior_family.conditional(0)
    prior_mean = generative.at(params["prior"]["0"], z[0, :, 3:]).mean
    precision = np.exp(-2 * own.log_scale)
    mean = (precision * own.mean + prior_mean) / (precision + 1)
    expected = scipy.stats.norm.logpdf(z[0, :, :3], mean, (precision + 1) ** -0.5)
    top = q.values[0][1]
    upper = scipy.stats.norm.logpdf(z[0, :, 3:], top.mean, np.exp(top.log_scale))
    np.testing.assert_allclose(
        q.log_prob(z)[0], expected.sum(-1) + upper.sum(-1), rtol=1e-4
    )


@pytest.mark.parametrize("posterior", ["bottom_up", "ladder"])
def test_a_step_along_the_gradient_raises_the_bound(posterior, key):
    model, params = build(posterior, "bernoulli", layer_widths=(4,), widths=(5,))
    x = jax.random.bernoulli(jax.random.key(3), 0.3, (20, 6)).astype(jnp.float32)

    @jax.jit
    def bound(params):
        own = jax.random.clone(key)
        terms = IWAE(num_samples=3)(model, params, own, x)
        return terms.bound.mean()

    before, gradient = jax.value_and_grad(bound)(params)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient["posterior"]))
    after = bound(jax.tree.map(lambda p, g: p + 1e-2 * g, params, gradient))
    assert after > before


def test_an_inactive_upper_layer_has_its_expectation_without_noise(key):
    """Active units compare it with a threshold of 0.01."""
    model, params = build("bottom_up", layer_widths=(4,), widths=(5,))
    params["posterior"]["1"]["head"]["mean"]["kernel"] *= 0
    q = model.encode(params, jax.random.uniform(jax.random.key(3), (7, 6)))
    upper = q.expectation(latent_noise(key, 10, 7, 5))[:, 3:]
    np.testing.assert_array_equal(upper, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_posterior("ladder", (3,)), "at least two stochastic layers"),
        (lambda: make_posterior("diagonal", LAYERS), "choose one of bottom_up, ladder"),
        (lambda: make_prior("vamp", LAYERS), "Choose 'standard_normal'"),
        (
            lambda: make_posterior("upwards", (3,)),
            "posterior is 'upwards': it is unknown",
        ),
        (lambda: make_prior("flat", (3,)), "prior is 'flat': it is unknown"),
        (lambda: make_posterior("ladder", LAYERS, layer_widths=()), "at least one"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_alternative(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- at the exact posterior -----------------------------------------------------------

OWN_SCALE = np.array([0.5, 0.8, 1.2])
DOWN = np.array([[0.0, 0.0, 0.9], [-0.7, 0.0, 0.0]])
SHIFT = np.array([0.1, -0.2, 0.3])
LENGTHS = np.array([0.9, 0.5, 0.7])


def affine(kernel, bias=0.0):
    kernel = jnp.asarray(kernel, jnp.float32)
    return {
        "kernel": kernel,
        "bias": jnp.zeros(kernel.shape[1]) + jnp.asarray(bias, jnp.float32),
    }


def constant_log_scale(scale, inputs):
    return affine(np.zeros((inputs, len(scale))), 20 * np.arctanh(np.log(scale) / 20))


def linear_network(kernel, bias, scale, inputs, width=6):
    """Returns a layer of relu and a next one, together linear in the first input."""
    size = len(kernel)
    hidden, head = np.zeros((inputs, width)), np.zeros((width, kernel.shape[1]))
    hidden[:size, :size], hidden[:size, size : 2 * size] = np.eye(size), -np.eye(size)
    head[:size], head[size : 2 * size] = kernel, -kernel
    return {
        "Dense_0": affine(hidden),
        "head": {"mean": affine(head, bias), "log_scale": constant_log_scale(scale, 6)},
    }


@pytest.mark.parametrize("posterior", ["bottom_up", "ladder"])
def test_at_the_exact_posterior_every_log_weight_is_log_px(posterior, key):
    """z2 -> z1 -> x, each linear in the last with one cause for each latent, so that
    the posterior of a layer is diagonal, in either order."""
    model = make_vae(
        make_likelihood("gaussian_fixed", 256, fixed_scale=SCALE),
        image_shape=(2, 3, 1),
        latent_dim=3,
        upper_layers=(2,),
        layer_widths=(6,),
        widths=(),
        activation="relu",
        posterior=posterior,
    )
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 3)))
    weights, offset = (basis * LENGTHS).T, np.linspace(0.3, 0.7, 6)
    covariance = DOWN.T @ DOWN + np.diag(OWN_SCALE**2)
    evidence = scipy.stats.multivariate_normal(
        SHIFT @ weights + offset,
        weights.T @ covariance @ weights + SCALE**2 * np.eye(6),
    )
    # x gives z1 with noise of this variance.
    seen, noise = weights.T / LENGTHS**2, (SCALE / LENGTHS) ** 2

    def of_z2(variance):
        """Kernel, bias and scale of z2 given z1 and noise, of variances in sum."""
        precision = 1 + (DOWN**2 / variance).sum(1)
        kernel = (DOWN / variance).T / precision
        return kernel, -SHIFT @ kernel, precision**-0.5

    def of_x(kernel, bias):
        """A linear function of x as one of its intensity."""
        bias = bias - offset @ kernel + (0.5 / 256) * kernel.sum(0)
        return affine(255 / 256 * kernel, bias)

    if posterior == "bottom_up":
        variance = np.diag(covariance)
        precision = 1 / noise + 1 / variance
        heads = {
            "mean": of_x(seen / noise / precision, SHIFT / variance / precision),
            "log_scale": constant_log_scale(precision**-0.5, 6),
        }
        upper = linear_network(*of_z2(OWN_SCALE**2), inputs=3)
    else:
        kernel, bias, scale = of_z2(OWN_SCALE**2 + noise)
        features = np.pad(seen @ kernel, [(0, 0), (0, 4)])
        heads = {
            "mean": of_x(seen, 0.0),
            "log_scale": constant_log_scale(noise**0.5, 6),
            "features": of_x(features, np.pad(bias, (0, 4))),
        }
        upper = linear_network(np.eye(2), 0.0, scale, inputs=6)
    params = {
        "encoder": {"head": heads},
        "decoder": {
            "output": {"kernel": jnp.asarray(weights, jnp.float32)},
            "bias": {"pixels": jnp.asarray(offset[None], jnp.float32)},
        },
        "shared": jnp.zeros(0),
        "posterior": {"1": upper},
        "prior": {"0": linear_network(DOWN, SHIFT, OWN_SCALE, inputs=2)},
    }
    fresh = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(6), jnp.zeros(6))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, fresh)
    x = evidence.rvs(8, random_state=2).astype(np.float32)
    terms = ElboLogWeight(num_samples=3)(model, params, key, x)
    np.testing.assert_allclose(terms.bound, evidence.logpdf(x), atol=5e-5)
