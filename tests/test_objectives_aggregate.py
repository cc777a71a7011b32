"""Tests of objectives that see the batch, against exact parts and distances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from tests.test_objectives import bernoulli_model, quick_jit, start, terms_of
from vae_jax.diagnostics import decompose_kl
from vae_jax.objectives import Batch

beta_tc, elbo, elbo_log_weight, mmd = (
    functools.partial(terms_of, name)
    for name in ("beta_tc", "elbo", "elbo_log_weight", "mmd")
)

pytestmark = pytest.mark.usefixtures("keys_are_used_once")


@pytest.fixture(scope="module")
def model():
    return bernoulli_model(2, widths=())


@pytest.fixture(scope="module")
def params(model):
    """Returns an encoder with images far apart and correlated latents."""
    params = start(model)
    head = params["encoder"]["head"]
    head["mean"]["kernel"] = jnp.array([[2.0, 2.0], [1.0, 0.5], [-1.0, 0.5], [1.5, 1]])
    head["log_scale"]["bias"] = jnp.array([-1.0, -0.5])
    return params


@pytest.fixture(scope="module")
def x():
    """Returns all 16 binary images of 4 pixels."""
    return jnp.asarray(np.indices((2,) * 4).reshape(4, -1).T, jnp.float32)


def correlation(model, params, x, num_images, num_samples=3):
    """Returns the total correlation in the bound, by image, nats."""

    @quick_jit
    def evaluate(params, x):
        return beta_tc(
            model,
            params,
            jax.random.key(1),
            x,
            beta=3.0,
            num_samples=num_samples,
            num_images=num_images,
        )

    terms = evaluate(params, x)
    return np.asarray(terms.elbo - terms.bound) / 2.0


def test_of_the_whole_set_the_total_correlation_is_exact(model, params, x):
    """The reference is the diagnostics' decomposition of the same samples."""
    batch = Batch(model, params, jax.random.key(1), x, num_samples=3)
    posterior, noise = batch.posterior, batch.noise
    scale = jnp.exp(posterior.log_scale)

    def log_densities(image, z):
        del image
        log_q = jax.scipy.stats.norm.logpdf(z[None], posterior.mean, scale)
        return log_q, jax.scipy.stats.norm.logpdf(z)

    parts = decompose_kl(log_densities, posterior.sample(noise), chunk=16).parts
    assert parts.total_correlation > 0.1
    assert correlation(model, params, x, 16).mean() == pytest.approx(
        float(parts.total_correlation), abs=1e-4
    )


def test_in_a_batch_an_images_own_posterior_counts_as_one_of_all(model, params, x):
    """NumPy loops compute the estimate: own weight 1/N, the others share the rest."""
    batch, num_images = np.asarray(x[3:8]), 40
    drawn = Batch(model, params, jax.random.key(1), jnp.asarray(batch))
    posterior = drawn.posterior
    z = np.asarray(posterior.sample(drawn.noise))[0]
    mean, scale = np.asarray(posterior.mean), np.exp(posterior.log_scale)
    expected = []
    for n in range(5):
        weights = np.full(5, (1 - 1 / num_images) / 4)
        weights[n] = 1 / num_images
        log_q = scipy.stats.norm.logpdf(z[n], mean, scale)
        joint = scipy.special.logsumexp(log_q.sum(1), b=weights)
        marginals = scipy.special.logsumexp(log_q, axis=0, b=weights[:, None])
        expected.append(joint - marginals.sum())
    found = correlation(model, params, jnp.asarray(batch), num_images, num_samples=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_where_q_ignores_x_the_total_correlation_is_zero(model, params, x):
    """This holds for any batch: the value does not depend on the number of images."""
    blind = jax.tree.map(jnp.copy, params)
    for part in blind["encoder"]["head"].values():
        part["kernel"] = jnp.zeros((4, 2))
    for num_images in (16, 50_000):
        found = correlation(model, blind, x, num_images)
        np.testing.assert_allclose(found, 0.0, atol=1e-5)


@pytest.mark.parametrize("num_images", [None, 15])
def test_a_batch_has_no_more_images_than_the_training_set(model, params, x, num_images):
    with pytest.raises(ValueError, match=f"num_images is {num_images}"):
        beta_tc(model, params, jax.random.key(0), x, num_images=num_images)


def test_total_correlation_needs_independent_latents(x):
    model = bernoulli_model(
        2, widths=(), posterior="inverse_autoregressive_flow", flow_widths=(3,)
    )
    with pytest.raises(ValueError, match="Choose the posterior 'diagonal'"):
        beta_tc(model, start(model), jax.random.key(0), x, num_images=16)


def test_one_image_alone_has_the_elbo(model, params, x):
    """Both are validated so; beta then weighs a total correlation of 0."""
    key, one = jax.random.key(1), x[:1]
    found = beta_tc(model, params, key, one, beta=3.0)
    np.testing.assert_allclose(
        found, elbo(model, params, jax.random.clone(key), one), rtol=1e-5
    )
    key = jax.random.key(1)
    found = mmd(model, params, key, one, beta=3.0, mmd_weight=100.0)
    expected = elbo_log_weight(model, params, jax.random.clone(key), one, beta=3.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- maximum mean discrepancy ---------------------------------------------------------


def expected_kernel(mean, variance):
    """E[2 / (2 + d^2)] of d ~ N(mean, variance), the kernel for one latent."""
    deviation = np.sqrt(variance)
    return scipy.integrate.quad(
        lambda d: 2 / (2 + d**2) * scipy.stats.norm.pdf(d, mean, deviation),
        mean - 12 * deviation,
        mean + 12 * deviation,
    )[0]


def exact_mmd(mean, scale):
    """Returns the squared MMD between N(mean, scale^2) and N(0, 1)."""
    return (
        expected_kernel(0, 2 * scale**2)
        + expected_kernel(0, 2.0)
        - 2 * expected_kernel(mean, scale**2 + 1)
    )


@pytest.fixture(scope="module")
def discrepancies():
    """Returns MMDs of 4,000 batches of 6, and their derivatives by the mean of q.

    There is one latent, and q = N(0.8, 0.5^2) for every image.
    """
    model = bernoulli_model(1, widths=())
    params = start(model)
    head = params["encoder"]["head"]
    for part in head.values():
        part["kernel"] = jnp.zeros((4, 1))
    head["log_scale"]["bias"] = jnp.full(1, 20 * np.arctanh(np.log(0.5) / 20))

    def discrepancy(mean, key):
        own = {"mean": head["mean"] | {"bias": mean[None]}}
        moved = params | {"encoder": {"head": head | own}}
        terms = mmd(model, moved, key, jnp.ones((6, 4)), beta=0.5, mmd_weight=100.0)
        return ((terms.reconstruction - 0.5 * terms.kl - terms.bound) / 100).mean()

    draw = jax.vmap(jax.value_and_grad(discrepancy), (None, 0))
    return quick_jit(draw)(0.8, jax.random.split(jax.random.key(2), 4000))


def test_the_discrepancy_and_its_gradient_are_unbiased(discrepancies):
    """Both are within 4.5 standard errors of quadrature: failure rate 1.4e-5."""
    step = 1e-3
    slope = (exact_mmd(0.8 + step, 0.5) - exact_mmd(0.8 - step, 0.5)) / (2 * step)
    for draws, exact in zip(discrepancies, (exact_mmd(0.8, 0.5), slope), strict=True):
        draws = np.asarray(draws, np.float64)
        error = draws.std(ddof=1) / np.sqrt(draws.size)
        assert abs(draws.mean() - exact) < 4.5 * error
        assert error < 0.1 * abs(exact)


def test_one_draw_of_each_images_posterior_is_compared(model, params, x):
    """NumPy loops over pairs give each of two samples' value, then their average."""
    key = jax.random.key(4)
    batch = Batch(model, params, jax.random.clone(key), x[:4], num_samples=2)
    z = np.asarray(batch.posterior.sample(batch.noise))
    terms = mmd(
        model, params, jax.random.clone(key), x[:4], num_samples=2, mmd_weight=1.0
    )
    drawn = np.asarray(
        model.prior(params).sample(jax.random.fold_in(key, 0), 8)
    ).reshape(2, 4, 2)

    def mean_kernel(one, other, same):
        return np.mean(
            [
                4 / (4 + ((a - b) ** 2).sum())
                for i, a in enumerate(one)
                for j, b in enumerate(other)
                if not (same and i == j)
            ]
        )

    expected = np.mean(
        [
            mean_kernel(q, q, True)
            + mean_kernel(p, p, True)
            - 2 * mean_kernel(q, p, False)
            for q, p in zip(z, drawn, strict=True)
        ]
    )
    np.testing.assert_allclose(terms.elbo - terms.bound, expected, atol=2e-5)
