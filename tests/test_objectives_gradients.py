"""Tests of gradient estimators against exact gradients, and of their noise.

The models are linear-Gaussian, so log p(x|z) is quadratic in z, and a mean over the
points of ``cubature`` is its exact expectation under any Gaussian.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests import linear_gaussian
from tests.test_objectives import quick_jit, terms_of
from vae_jax.evidence import LinearGaussian
from vae_jax.objectives import OBJECTIVES, STL, Elbo, ElboLogWeight, Thermodynamic

DRAWS = 4000


def cubature(latents):
    """Returns noise points ``[2 latents, 1, latents]`` with means exact to degree 3."""
    points = np.sqrt(latents) * np.eye(latents, dtype=np.float32)
    return jnp.asarray(np.concatenate([points, -points]))[:, None]


def gradient_draws(model, params, x, key, bounds):
    """Returns gradients ``[DRAWS, parameters]`` of each bound, on the same noise.

    Args:
        model: the VAE.
        params: its parameters.
        x: images, whose mean bound is differentiated.
        key: of all draws.
        bounds: functions of (model, params, key, x) by name, which give terms.
    """

    @quick_jit
    @jax.vmap
    def draw(key):
        def flat_gradient(bound):
            gradient = jax.grad(
                lambda params: bound(
                    model, params, jax.random.clone(key), x
                ).bound.mean()
            )(params)
            return ravel_pytree(gradient)[0]

        return {name: flat_gradient(bound) for name, bound in bounds.items()}

    draws = draw(jax.random.split(key, DRAWS))
    return {name: np.asarray(values, np.float64) for name, values in draws.items()}


def largest_deviation(draws, exact):
    """Returns the largest deviation of a parameter, in standard errors of the mean."""
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    return np.max(np.abs(draws.mean(0) - exact) / (error + 1e-5))


def of_encoder(params, flat):
    """Returns the encoder's part of flattened gradients ``[..., parameters]``."""
    marked = jax.tree.map(np.zeros_like, params)
    marked |= {"encoder": jax.tree.map(np.ones_like, params["encoder"])}
    return flat[..., np.asarray(ravel_pytree(marked)[0], bool)]


@pytest.fixture(scope="module")
def wrong():
    """Returns a model whose q is wrong by 1/4 standard deviation, and one image."""
    model, params, evidence = linear_gaussian.exact_model()
    x = jnp.asarray(evidence.rvs(1, random_state=3), jnp.float32)[None]
    return model, linear_gaussian.shifted(params, 0.25), x


@pytest.fixture(scope="module")
def draws(wrong):
    """Returns the gradients of each estimator at the wrong q."""

    def option(name, **options):
        return functools.partial(terms_of, name, **options)

    bounds = {
        "elbo_log_weight": option("elbo_log_weight", num_samples=4),
        "stl": option("stl", num_samples=4),
        "thermodynamic": option("thermodynamic", num_samples=4),
    }
    for beta in (0.5, 1.0):
        bounds[f"iwae {beta}"] = option("iwae", num_samples=4, beta=beta)
        bounds[f"dreg {beta}"] = option("dreg", num_samples=4, beta=beta)
    for samples in (8, 128):
        bounds[f"iwae of {samples}"] = option("iwae", num_samples=samples)
        bounds[f"dreg of {samples}"] = option("dreg", num_samples=samples)
    model, params, x = wrong
    return gradient_draws(model, params, x, jax.random.key(1), bounds)


@pytest.mark.parametrize("name", ["elbo_log_weight", "stl", "thermodynamic"])
def test_gradients_of_the_elbo_are_unbiased(wrong, draws, name):
    """Within 4.5 standard errors for each of 66 parameters: failure rate 5e-4."""
    model, params, x = wrong

    def exact(params):
        posterior = model.encode(params, x)
        z = posterior.sample(cubature(3))
        reconstruction = model.log_likelihood(params, x, z).mean()
        return reconstruction - model.closed_form_kl(params, posterior).sum()

    expected = np.asarray(ravel_pytree(quick_jit(jax.grad(exact))(params))[0])
    assert np.abs(of_encoder(params, expected)).max() > 0.1
    assert largest_deviation(draws[name], expected) < 4.5


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_the_doubly_reparameterized_gradient_is_unbiased(draws, beta):
    """Within 4.5 standard errors for each of 66 parameters: failure rate 5e-4.

    Of differences between the estimators on the same noise.
    """
    difference = draws[f"dreg {beta}"] - draws[f"iwae {beta}"]
    assert largest_deviation(difference, 0.0) < 4.5
    assert np.abs(difference).max() > 0.1


def test_the_doubly_reparameterized_gradient_is_less_noisy(wrong, draws):
    params = wrong[1]
    for one, other in (
        ("dreg 1.0", "iwae 1.0"),
        ("dreg of 8", "iwae of 8"),
        ("dreg of 128", "iwae of 128"),
    ):
        quiet, noisy = (
            of_encoder(params, draws[name]).var(0).sum() for name in (one, other)
        )
        assert quiet < 0.7 * noisy


def test_more_samples_drown_the_gradient_for_q_but_for_double_reparameterization(
    wrong, draws
):
    """Signal to noise: k^(-1/2) of IWAE (Rainforth et al. 2018), k^(1/2) of DReG.

    Samples rise from 8 to 128, so the ratios are 1/4 and 4. Both have the same
    expectation, which the less noisy one estimates.
    """
    params = wrong[1]

    def signal_to_noise(name, samples):
        signal = of_encoder(params, draws[f"dreg of {samples}"]).mean(0)
        noise = of_encoder(params, draws[f"{name} of {samples}"]).std(0)
        return np.linalg.norm(signal) / np.linalg.norm(noise)

    for name, expected in (("iwae", 1 / 4), ("dreg", 4.0)):
        change = signal_to_noise(name, 128) / signal_to_noise(name, 8)
        assert change == pytest.approx(expected, rel=0.3)


def test_sticking_the_landing_has_no_variance_at_the_true_posterior():
    """Other estimators have some variance there."""
    model, params, evidence = linear_gaussian.exact_model()
    x = jnp.asarray(evidence.rvs(1, random_state=3), jnp.float32)[None]
    draws = gradient_draws(
        model,
        params,
        x,
        jax.random.key(2),
        {"stl": STL(), "elbo": Elbo(), "elbo_log_weight": ElboLogWeight()},
    )
    noise = {
        name: of_encoder(params, values).std(0).max() for name, values in draws.items()
    }
    assert noise["stl"] < 1e-3
    assert min(noise["elbo"], noise["elbo_log_weight"]) > 0.3


# --- the thermodynamic integral -------------------------------------------------------

PARTITIONS = (1, 2, 5)


@pytest.fixture(scope="module")
def one_latent():
    """Returns a model of one latent with a wrong q, an image, and its log p(x)."""
    exact = LinearGaussian(np.array([[0.5], [-0.3]]), np.array([0.4, 0.6]), 0.09)
    model, params = exact.to_vae((1, 2, 1), 16)
    x = np.array([[0.9, 0.1]])
    params = linear_gaussian.shifted(params, 1.0)
    return model, params, jnp.asarray(x, jnp.float32), float(exact.log_prob(x)[0])


def riemann_sum(model, params, x, partitions):
    """Returns the exact left Riemann sum, by quadrature over z."""
    z = jnp.linspace(-6, 6, 4001)[:, None, None]
    log_q = model.encode(params, x).log_prob(z)[:, 0]
    log_joint = (model.log_likelihood(params, x, z) + model.prior(params).log_prob(z))[
        :, 0
    ]
    points = np.geomspace(0.01, 1, partitions) if partitions > 1 else np.ones(1)
    points = np.concatenate([[0.0], points]).astype(np.float32)

    def add(total, interval):
        point, width = interval
        density = jax.nn.softmax(log_q + point * (log_joint - log_q))
        return total + width * (density * (log_joint - log_q)).sum(), None

    return jax.lax.scan(add, 0.0, (points[:-1], np.diff(points)))[0]


@pytest.fixture(scope="module")
def integrated(one_latent):
    """Returns exact values of the sums, and their gradients."""
    model, params, x, _ = one_latent
    return [
        quick_jit(jax.value_and_grad(lambda p, n=n: riemann_sum(model, p, x, n)))(
            params
        )
        for n in PARTITIONS
    ]


@pytest.fixture(scope="module")
def estimated(one_latent):
    """Returns values and gradients of 40 draws of 2,000 samples each."""
    model, params, x, _ = one_latent

    @quick_jit
    @jax.vmap
    def draw(key):
        return [
            jax.value_and_grad(
                lambda params, n=n: Thermodynamic(num_samples=2000, partitions=n)(
                    model, params, jax.random.clone(key), x
                ).bound[0]
            )(params)
            for n in PARTITIONS
        ]

    return draw(jax.random.split(jax.random.key(5), 40))


@pytest.mark.parametrize("index", range(len(PARTITIONS)))
def test_the_covariance_gradient_is_that_of_the_riemann_sum(
    integrated, estimated, index
):
    """Within 4.5 standard errors, for a value and 8 parameters: failure rate 1e-3.

    A standard error from 40 draws has Student's t: 4.5 is exceeded at 6e-5 each.
    """
    value, gradient = integrated[index]
    values, gradients = estimated[index]
    values = np.asarray(values, np.float64)
    assert largest_deviation(values[:, None], float(value)) < 4.5
    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(gradients)
    expected = np.asarray(ravel_pytree(gradient)[0])
    assert largest_deviation(np.asarray(flat, np.float64), expected) < 4.5
    assert np.abs(expected).max() > 0.1


def test_thermodynamic_bounds_rise_from_the_elbo_towards_log_px(one_latent, integrated):
    """This tests exact values; a test above covers each estimate."""
    model, params, x, log_px = one_latent
    z = model.encode(params, x).sample(cubature(1))
    exact_elbo = model.log_likelihood(params, x, z).mean() - (
        model.closed_form_kl(params, model.encode(params, x)).sum()
    )
    few, some, more = (float(value) for value, _ in integrated)
    assert few == pytest.approx(float(exact_elbo), abs=1e-4)
    many = float(riemann_sum(model, params, x, 300))
    assert few < some < more < many < log_px
    assert many == pytest.approx(log_px, abs=0.02 * (log_px - few))


def test_a_covariance_needs_two_samples():
    with pytest.raises(
        ValueError, match="num_samples is 1: 'thermodynamic' needs at least 2"
    ):
        OBJECTIVES.make("thermodynamic", num_samples=1)
