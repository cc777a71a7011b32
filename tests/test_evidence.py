import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tests import linear_gaussian
from vae_jax.evidence import LinearGaussian, importance_bias, importance_estimate
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.objectives import IWAE
from vae_jax.per_image import map_images

pytestmark = pytest.mark.usefixtures("keys_are_used_once")


def estimate(model, params, key, x, **options):
    run = functools.partial(importance_estimate, model, params, **options)
    return jax.jit(lambda key, x: map_images(run, key, x, batch_size=1000))(key, x)


def test_at_the_true_posterior_the_estimate_is_exact_and_all_weights_equal(key):
    model, params, evidence = linear_gaussian.exact_model()
    x = evidence.rvs(16, random_state=2).astype(np.float32)
    result = estimate(model, params, key, jnp.asarray(x), num_samples=10, chunk=4)
    np.testing.assert_allclose(result.log_px, evidence.logpdf(x), atol=2e-5)
    np.testing.assert_allclose(result.effective_sample_size, 10, rtol=1e-4)
    np.testing.assert_allclose(result.largest_weight, 0.1, rtol=1e-4)


def test_a_poor_posterior_still_reaches_the_exact_answer(key):
    """Mean over 64 images within 4.5 standard errors plus 0.005 nats of bias."""
    model, params, evidence = linear_gaussian.exact_model()
    x = evidence.rvs(64, random_state=5).astype(np.float32)
    bias = params["encoder"]["head"]["log_scale"]["bias"]
    params["encoder"]["head"]["log_scale"]["bias"] = bias + 0.3
    result = estimate(model, params, key, jnp.asarray(x), num_samples=4000, chunk=500)
    error = np.asarray(result.log_px) - evidence.logpdf(x)
    assert abs(error.mean()) < 4.5 * error.std() / 8 + 0.005
    assert np.all(result.effective_sample_size < 4000)
    assert np.all(error > -0.5)


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_the_estimate_does_not_depend_on_the_chunk(key, untrained, chunk):
    model, params, x = untrained
    whole = estimate(model, params, jax.random.clone(key), x, num_samples=50, chunk=50)
    other = estimate(model, params, key, x, num_samples=50, chunk=chunk)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
    jax.tree.map(close, whole, other)


def test_rounding_does_not_add_up_over_chunks(key):
    """Of 500 log-likelihoods near -5000, all but equal: sums that run over chunks of 1
    are 0.02 nats off. Two units in the last place are 0.001.
    """
    model = make_vae(
        make_likelihood("discretized_logistic", 256),
        image_shape=(28, 28, 1),
        latent_dim=4,
        widths=(8,),
    )
    params = model.init(jax.random.key(1), jnp.full(784, 0.5), jnp.full(784, 0.3))
    params["decoder"] = jax.tree.map(lambda leaf: 0.01 * leaf, params["decoder"])
    x = jax.random.randint(jax.random.key(2), (3, 784), 0, 256)
    same_key = jax.random.clone(key)
    whole = estimate(model, params, same_key, x, num_samples=500, chunk=500)
    alone = estimate(model, params, key, x, num_samples=500, chunk=1)
    assert np.all(whole.log_px < -4096)
    for one, two in zip(whole[:3], alone[:3], strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-3)


def test_the_estimate_is_the_log_mean_weight_of_its_samples(key, untrained):
    """So are its diagnostics; the reference is SciPy in double precision."""
    model, params, x = untrained
    count = 23
    result = estimate(
        model, params, jax.random.clone(key), x[:3], num_samples=count, chunk=5
    )
    posterior = model.encode(params, x[:3])
    for i in range(3):
        image_key = jax.random.fold_in(key, i)
        noise = jnp.stack(
            [
                jax.random.normal(jax.random.fold_in(image_key, sample), (3,))
                for sample in range(count)
            ]
        )
        z = np.asarray(posterior.sample(noise[:, None])[:, i], np.float64)
        logits = np.asarray(model.decode(params, jnp.asarray(z, jnp.float32)))
        mean, scale = np.asarray(posterior.mean[i]), np.exp(posterior.log_scale[i])
        probability = scipy.special.expit(np.float64(logits[:, 0]))
        reconstruction = scipy.stats.bernoulli.logpmf(x[i], probability).sum(-1)
        log_weight = reconstruction + (
            scipy.stats.norm.logpdf(z) - scipy.stats.norm.logpdf(z, mean, scale)
        ).sum(-1)
        weight = np.exp(log_weight - scipy.special.logsumexp(log_weight))
        expected = {
            "log_px": scipy.special.logsumexp(log_weight) - np.log(count),
            "reconstruction": reconstruction.mean(),
            "effective_sample_size": 1 / (weight**2).sum(),
            "largest_weight": weight.max(),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(
                getattr(result, name)[i], value, rtol=1e-5, err_msg=name
            )


def test_the_estimate_of_an_image_does_not_depend_on_the_others(key, untrained):
    model, params, x = untrained
    all_images = estimate(
        model, params, jax.random.clone(key), x, num_samples=9, chunk=9
    )
    first = estimate(model, params, key, x[:5], num_samples=9, chunk=9)
    np.testing.assert_allclose(all_images.log_px[:5], first.log_px, rtol=1e-6)


def test_it_is_the_iwae_bound_on_average(key, untrained):
    """Means over 400 keys of two estimators of L_5, within 4.5 standard errors."""
    model, params, x = untrained

    @jax.jit
    @jax.vmap
    def difference(key):
        first, second = jax.random.split(key)
        streamed = estimate(model, params, first, x, num_samples=5, chunk=2).log_px
        return jnp.mean(streamed - IWAE(num_samples=5)(model, params, second, x).bound)

    differences = np.asarray(difference(jax.random.split(key, 400)))
    error = differences.std() / np.sqrt(differences.size)
    assert abs(differences.mean()) < 4.5 * error


def test_more_samples_never_lower_the_bound_on_average(key, untrained):
    model, params, x = untrained
    bounds = [
        float(
            estimate(
                model,
                params,
                jax.random.fold_in(key, count),
                jnp.tile(x, (50, 1)),
                num_samples=count,
                chunk=100,
            ).log_px.mean()
        )
        for count in (1, 10, 100)
    ]
    assert bounds[0] < bounds[1] < bounds[2]


def test_weights_stay_finite_where_densities_are_extreme(key):
    """A density of about e^(+-1e5) neither overflows nor turns into NaN."""
    model = make_vae(
        make_likelihood("gaussian_fixed", 256, fixed_scale=1e-3),
        image_shape=(4, 4, 1),
        latent_dim=2,
        widths=(),
    )
    params = model.init(jax.random.key(0), jnp.full(16, 0.5), jnp.full(16, 0.1))
    x = jnp.ones((3, 16))
    result = estimate(model, params, key, x, num_samples=20, chunk=6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    assert np.all(np.asarray(result.largest_weight) <= 1)


# --- bias -----------------------------------------------------------------------------


def bias_of(estimate):
    return importance_bias(estimate.last_doubling, estimate.doubling_before)


def linear_model(scale, correlation):
    """Returns a model of 10 latents whose exact posterior is correlated, unlike q(z|x).

    It also returns 1000 images of the model, and their log p(x).
    """
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(20, 10)) + correlation * rng.normal(size=(20, 1))
    exact = LinearGaussian(scale * weights, np.full(20, 0.5), 0.3**2)
    z, noise = rng.normal(size=(1000, 10)), 0.3 * rng.normal(size=(1000, 20))
    x = (z @ exact.weights.T + exact.offset + noise).astype(np.float32)
    return *exact.to_vae((4, 5, 1), 256), jnp.asarray(x), exact.log_prob(x)


@pytest.mark.parametrize("num_samples", [100, 500])
def test_the_bias_of_uneven_weights_is_seen_in_them(key, num_samples):
    """0.36 nats with 100 samples, 0.25 with 500: more than the error over images.

    A fall of 1/k, by which the rise of the last doubling is all, misses both.
    """
    model, params, x, log_px = linear_model(0.2, 0.5)
    result = estimate(model, params, key, x, num_samples=num_samples, chunk=100)
    error = np.std(result.log_px) / np.sqrt(1000)
    lacking = np.mean(log_px - result.log_px)
    bias, _ = bias_of(result)
    assert np.median(result.effective_sample_size) > 10
    assert np.mean(result.last_doubling) < error < bias
    assert 0.5 * lacking < bias < 1.5 * lacking


def test_a_model_that_fits_shows_no_bias(key):
    """It is 0.003 nats, within 4.5 standard errors of estimate and truth."""
    model, params, x, log_px = linear_model(0.05, 0.0)
    result = estimate(model, params, key, x, num_samples=100, chunk=100)
    lacking = log_px - result.log_px
    bias, bias_se = bias_of(result)
    assert bias < 0.1 * np.std(result.log_px) / np.sqrt(1000)
    assert 0 < bias_se < 0.002
    error = np.hypot(bias_se, lacking.std() / np.sqrt(1000))
    assert abs(bias - lacking.mean()) < 4.5 * error


@pytest.mark.parametrize("power", [0.4, 0.7, 1.0])
def test_a_gap_that_falls_as_a_power_of_the_samples_is_found(power):
    gaps = 3.0 * np.array([25.0, 50.0, 100.0]) ** -power
    before, last = -np.diff(gaps)
    bias, error = importance_bias(np.full(7, last), np.full(7, before))
    assert bias == pytest.approx(gaps[-1])
    assert error == pytest.approx(0, abs=1e-9)


def test_a_jackknife_error_is_that_of_the_mean_where_the_power_is_given():
    """The rises do not fall, so bias and error are four times those of the last one."""
    rises = np.random.default_rng(0).normal(3, 0.1, 50)
    bias, error = importance_bias(rises, rises)
    assert bias == pytest.approx(4 * rises.mean())
    assert error == pytest.approx(4 * rises.std(ddof=1) / np.sqrt(50))
    assert np.isnan(importance_bias(rises[:1], rises[:1])[1])


def test_weights_that_are_equal_have_no_bias():
    assert importance_bias(np.zeros(3), np.zeros(3)) == (0, 0)


def test_a_bias_needs_four_samples(key, untrained):
    model, params, x = untrained

    def rises(num_samples):
        key_again = jax.random.clone(key)
        result = estimate(model, params, key_again, x, num_samples=num_samples, chunk=3)
        return result.last_doubling, result.doubling_before

    for few in (1, 3):
        assert np.all(np.isnan(rises(few)))
    assert np.all(np.isfinite(rises(4)))
    # From 4n samples; the remaining ones are not used.
    np.testing.assert_allclose(rises(7), rises(4), atol=1e-6)
