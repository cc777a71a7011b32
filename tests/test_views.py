import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vae_jax import views

pytestmark = pytest.mark.usefixtures("keys_are_used_once")


@pytest.mark.parametrize("levels", [17, 256])
def test_binary_draws_have_mean_k_over_levels_minus_one(key, levels):
    """False-failure rate: 1e-4 over all intensities together."""
    draws = 200_000
    k = jnp.tile(jnp.arange(levels, dtype=jnp.uint8)[None], (draws, 1))
    ones = np.asarray(views.observe("binary", key, k, levels).sum(0))
    probability = np.arange(levels) / (levels - 1)
    low, high = scipy.stats.binom.interval(1 - 1e-4 / levels, draws, probability)
    assert np.all((low <= ones) & (ones <= high))
    assert ones[0] == 0
    assert ones[-1] == draws


def test_binary_threshold_and_tie_add_up_to_the_exact_probability():
    """P(x=1) = (floor + fraction)/65536 is k/(levels-1) for every k, in integers."""
    for levels in (3, 17, 100, 256):
        k = np.arange(levels)
        threshold, remainder = divmod(k * 65536, levels - 1)
        np.testing.assert_array_equal(threshold * (levels - 1) + remainder, k * 65536)
        assert np.all(remainder < levels - 1)


def test_binary_draws_are_fresh_for_each_key_and_identical_for_the_same(key):
    k = jnp.full((64, 50), 8, jnp.uint8)
    first, second = jax.random.split(key)
    x = views.observe("binary", jax.random.clone(first), k, 17)
    np.testing.assert_array_equal(x, views.observe("binary", first, k, 17))
    assert np.any(x != views.observe("binary", second, k, 17))


def test_a_shared_draw_is_the_same_each_time_and_another_for_each_split():
    gray = np.full((20, 16), 128)
    validation, test, train = (
        views.shared_draw("binary", which, gray, 256)
        for which in (views.VALIDATION, views.TEST, views.TRAIN)
    )
    np.testing.assert_array_equal(
        views.shared_draw("binary", views.TEST, gray, 256), test
    )
    for one, other in ((validation, test), (validation, train), (test, train)):
        assert np.any(one != other)


def test_binary_view_of_binary_data_is_the_data(key):
    k = jnp.array([[0, 1, 1, 0]], jnp.uint8)
    np.testing.assert_array_equal(views.observe("binary", key, k, 2), k)


def test_continuous_view_stays_in_its_bin(key):
    k = jnp.tile(jnp.arange(256, dtype=jnp.uint8)[None], (5000, 1))
    x = np.asarray(views.observe("continuous", key, k, 256))
    np.testing.assert_array_equal(np.floor(x * 256), k)
    uniform = x * 256 - np.asarray(k)
    assert scipy.stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-4


def test_levels_view_is_the_integers(key):
    k = jnp.array([[0, 3, 16]], jnp.uint8)
    x = views.observe("levels", key, k, 17)
    assert x.dtype == jnp.int32
    np.testing.assert_array_equal(x, k)


@pytest.mark.parametrize("view", views.VIEWS)
def test_intensity_of_a_view_averages_to_that_of_the_integers(key, view):
    k = jnp.tile(jnp.arange(17, dtype=jnp.uint8)[None], (20_000, 1))
    x = views.observe(view, key, k, 17)
    intensity = np.asarray(views.to_intensity(view, x, 17).mean(0))
    np.testing.assert_allclose(intensity, np.arange(17) / 16, atol=0.016)


def test_bits_per_dim_of_a_uniform_density_is_log2_of_the_levels():
    log_mass = views.log_mass_bound("continuous", np.zeros(3), 64, 256)
    np.testing.assert_allclose(views.bits_per_dim(log_mass, 64), 8.0)


def test_masses_need_no_correction():
    np.testing.assert_array_equal(views.log_mass_bound("levels", np.ones(2), 64, 17), 1)


def test_unknown_view_is_refused_with_the_ones_there_are(key):
    with pytest.raises(ValueError, match=r"'grey'.*binary, levels, continuous"):
        views.observe("grey", key, jnp.zeros((1, 1), jnp.uint8), 17)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_pixel_statistics_agree_with_numpy(levels):
    generator = np.random.default_rng(levels)
    images = generator.integers(0, levels, (2500, 5)).astype(np.uint8)
    images[:, 0] = levels - 1  # A pixel that never varies.
    mean, std = views.pixel_statistics(images, levels)
    x = images / (levels - 1)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, x.std(axis=0), rtol=1e-6, atol=1e-9)
    assert (mean[0], std[0]) == (1, 0)
