import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from vae_jax.diagnostics import mmd_test


def repeat(key, num_tests, num_x, num_y, shift=0.0, scale=1.0, **options):
    """Tests N(0, I) against N(shift, scale^2 I) in two dimensions, all at once."""

    @jax.jit
    @jax.vmap
    def one(key):
        key_x, key_y, key_test = jax.random.split(key, 3)
        x = jax.random.normal(key_x, (num_x, 2))
        y = shift + scale * jax.random.normal(key_y, (num_y, 2))
        return mmd_test(key_test, x, y, **options)

    return one(jax.random.split(key, num_tests))


def test_it_is_the_closed_form_for_two_gaussians_on_average(key):
    """Unbiased: the mean of 2000 tests, within 4.5 standard errors (7e-6).

    E k(u, v) = h^2 / v exp(-|mean|^2 / (2 v)) in two dimensions, with v = h^2 plus the
    variances of u and v and their means' difference ``mean``.
    """
    bandwidth, shift, scale = 0.8, 0.3, 1.3

    def expected_kernel(variance, mean):
        total = bandwidth**2 + variance
        return bandwidth**2 / total * np.exp(-(2 * mean**2) / (2 * total))

    expected = (
        expected_kernel(2, 0)
        + expected_kernel(2 * scale**2, 0)
        - 2 * expected_kernel(1 + scale**2, shift)
    )
    result = repeat(
        key, 2000, 30, 20, shift, scale, num_permutations=1, bandwidth=bandwidth
    )
    estimates = np.asarray(result.squared_mmd)
    error = estimates.std() / np.sqrt(estimates.size)
    assert error < expected / 20
    assert abs(estimates.mean() - expected) < 4.5 * error


def test_it_is_the_definition(key):
    """The definition is double sums over pairs in float64, and the median distance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), rng.normal(1, 2, size=(14, 3))
    distances = scipy.spatial.distance.pdist(np.concatenate([x, y]))
    kernel = np.exp(
        -0.5
        * (scipy.spatial.distance.squareform(distances / np.median(distances))) ** 2
    )
    within_x = (kernel[:9, :9].sum() - 9) / (9 * 8)
    within_y = (kernel[9:, 9:].sum() - 14) / (14 * 13)
    expected = within_x + within_y - 2 * kernel[:9, 9:].mean()
    result = mmd_test(key, jnp.float32(x), jnp.float32(y), num_permutations=5)
    np.testing.assert_allclose(result.bandwidth, np.median(distances), rtol=1e-6)
    np.testing.assert_allclose(result.squared_mmd, expected, atol=1e-6)


def test_p_values_are_uniform_where_the_distributions_are_equal(key):
    """Chi-squared of 10 equal bins over 1000 tests; fails by chance one time in 1e5."""
    result = repeat(key, 1000, 20, 25, num_permutations=99)
    bins = np.floor((np.asarray(result.p_value) * 100 - 0.5) / 10).astype(int)
    assert scipy.stats.chisquare(np.bincount(bins, minlength=10)).pvalue > 1e-5


@pytest.mark.parametrize(("shift", "scale"), [(0.8, 1.0), (0.0, 0.4)])
def test_p_values_are_the_least_possible_where_they_differ(key, shift, scale):
    """At 100 samples each, both differences are far larger than any permuted one."""
    result = repeat(key, 3, 100, 100, shift, scale, num_permutations=199)
    np.testing.assert_allclose(result.p_value, 1 / 200, rtol=1e-6)


def test_the_p_value_counts_ties_and_the_observed_labelling(key):
    """Two pairs far apart: 2 of the 6 labellings are as extreme, so p is near 1/3.

    Of 4000 permutations, within 4.5 standard errors (7e-6).
    """
    x, y = jnp.array([[0.0], [0.1]]), jnp.array([[5.0], [5.1]])
    result = mmd_test(key, x, y, num_permutations=4000)
    error = np.sqrt(1 / 3 * 2 / 3 / 4000)
    np.testing.assert_allclose(result.p_value, 1 / 3, atol=4.5 * error + 1 / 4001)


def test_samples_that_are_all_equal_have_no_distance(key):
    result = mmd_test(key, jnp.ones((4, 2)), jnp.ones((3, 2)), num_permutations=9)
    assert (result.squared_mmd, result.p_value) == (0, 1)


def test_samples_that_are_not_numbers_have_no_p_value(key):
    x, y = jnp.full((4, 2), jnp.nan), jnp.ones((3, 2))
    assert np.isnan(mmd_test(key, x, y, num_permutations=9).p_value)


def test_padding_changes_nothing(key):
    rng = np.random.default_rng(1)
    x, y = (jnp.float32(rng.normal(size=(n, 2))) for n in (30, 40))
    run = jax.jit(functools.partial(mmd_test, num_permutations=50))
    own = run(jax.random.clone(key), x, y)
    padded = run(key, *(jnp.pad(points, [(0, 0), (0, 3)]) for points in (x, y)))
    for one, two in zip(own, padded, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize("shapes", [((1, 2), (5, 2)), ((5, 2), (5, 3))])
def test_samples_that_cannot_be_compared_are_refused(key, shapes):
    x, y = map(jnp.zeros, shapes)
    with pytest.raises(ValueError, match="at least 2 rows in each"):
        mmd_test(key, x, y, num_permutations=9)
