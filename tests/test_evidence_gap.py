import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import linear_gaussian
from vae_jax import population
from vae_jax.evidence import importance_estimate, inference_gap
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.per_image import map_images

pytestmark = pytest.mark.usefixtures("keys_are_used_once")

MEAN_SHIFT, LOG_SCALE_SHIFT = 0.2, 0.3


# These programs are small: optimising them takes longer than running them.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": "0"}
)


def gaps(model, params, key, x, log_px, **changes):
    options = {
        "num_steps": 300,
        "learning_rate": 0.01,
        "num_samples": 8,
        "num_eval_samples": 2000,
        "chunk": 500,
        **changes,
    }
    run = functools.partial(inference_gap, model, params, **options)
    return jit(lambda *arrays: map_images(run, *arrays, batch_size=100))(
        key, x, jnp.asarray(log_px, jnp.float32)
    )


@pytest.fixture
def shifted():
    """Returns a correlated linear-Gaussian VAE whose encoder has a known error."""
    exact = linear_gaussian.correlated_gaussian()
    model, params = exact.to_vae(linear_gaussian.SHAPE, linear_gaussian.LEVELS)
    head = params["encoder"]["head"]
    head["mean"]["bias"] = head["mean"]["bias"] + MEAN_SHIFT
    head["log_scale"]["bias"] = head["log_scale"]["bias"] + LOG_SCALE_SHIFT
    x = linear_gaussian.marginal(exact).rvs(16, random_state=0).astype(np.float32)
    return exact, model, params, x


def test_both_parts_are_exact_on_a_linear_gaussian_model(key, shifted):
    """Each of 16 images within 5 standard errors and 0.02 nats for the optimiser.

    48 figures at 5 standard errors: a false failure in about 4e4 runs.
    """
    exact, model, params, x = shifted
    result = gaps(model, params, key, jnp.asarray(x), exact.log_prob(x))
    mean, log_scale = exact.mean_field(x)
    best = exact.elbo(x, mean, log_scale)
    elbo = exact.elbo(x, mean + MEAN_SHIFT, log_scale + LOG_SCALE_SHIFT)
    for actual, expected, error in (
        (result.best_elbo, best, result.best_elbo_error),
        (result.amortization, best - elbo, result.amortization_error),
        (result.approximation, exact.mean_field_gap(), result.best_elbo_error),
    ):
        assert np.all(np.abs(actual - expected) < 5 * error + 0.02)
    total = result.amortization + result.approximation
    np.testing.assert_allclose(total, exact.log_prob(x) - result.elbo, atol=1e-5)


def test_an_exact_posterior_has_no_gap_of_either_kind(key):
    """Adam still moves, since rounding leaves a small gradient."""
    model, params, evidence = linear_gaussian.exact_model()
    x = evidence.rvs(8, random_state=2).astype(np.float32)
    result = gaps(model, params, key, jnp.asarray(x), evidence.logpdf(x), num_steps=50)
    np.testing.assert_allclose(result.amortization, 0, atol=1e-3)
    np.testing.assert_allclose(result.approximation, 0, atol=1e-3)


def test_the_last_rise_tells_that_the_optimiser_has_not_arrived(key, shifted):
    """It is significant after 10 short steps, on every image."""
    exact, model, params, x = shifted
    result = gaps(
        model,
        params,
        key,
        jnp.asarray(x),
        exact.log_prob(x),
        num_steps=10,
        learning_rate=1e-3,
    )
    assert np.all(result.last_rise > 5 * result.last_rise_error)
    assert np.all(result.num_steps == 10)


def test_the_parts_do_not_depend_on_the_chunk(key, shifted):
    exact, model, params, x = shifted
    run = functools.partial(
        gaps,
        model,
        params,
        x=jnp.asarray(x[:3]),
        log_px=exact.log_prob(x[:3]),
        num_steps=5,
        num_eval_samples=50,
    )
    whole = run(key=jax.random.clone(key), chunk=50)
    parts = run(key=key, chunk=7)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_padded_member_has_the_same_parts(key, untrained):
    model, params, x = untrained
    wide = make_vae(model.likelihood, image_shape=(4, 4, 1), latent_dim=5, widths=(9,))
    padded = population.pad(params, population.param_shapes(wide))
    options = {"num_steps": 50, "num_eval_samples": 100}
    log_px = jnp.zeros(10)
    alone = gaps(model, params, jax.random.clone(key), x, log_px, **options)
    mask = jnp.asarray(population.latent_mask(3, 5))
    along = gaps(wide, padded, key, x, log_px, latent_mask=mask, **options)
    for one, other in zip(alone, along, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_it_splits_the_gap_of_a_likelihood_that_is_not_gaussian(key):
    """Both parts of a categorical model with far from optimal q are positive.

    log p(x) is estimated with 5,000 samples, and each part is above its standard error
    five-fold.
    """
    model = make_vae(
        make_likelihood("categorical", 5),
        image_shape=(2, 2, 1),
        latent_dim=2,
        widths=(),
    )
    params = model.init(jax.random.key(0), jnp.full(4, 0.5), jnp.full(4, 0.3))
    params["decoder"]["output"]["kernel"] *= 6
    x = jax.random.randint(jax.random.key(1), (6, 4), 0, 5)
    estimate_key, gap_key = jax.random.split(key)
    estimate = functools.partial(
        importance_estimate, model, params, num_samples=5000, chunk=1000
    )
    log_px = jit(lambda key, x: map_images(estimate, key, x, batch_size=6))(
        estimate_key, x
    ).log_px
    result = gaps(model, params, gap_key, x, log_px)
    assert np.all(result.amortization > 5 * result.amortization_error)
    assert np.all(result.approximation > 5 * result.best_elbo_error)


def test_too_few_steps_are_refused(key, untrained):
    model, params, x = untrained
    with pytest.raises(ValueError, match="num_steps is 4"):
        gaps(model, params, key, x, jnp.zeros(10), num_steps=4)
