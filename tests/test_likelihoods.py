"""Tests of likelihoods against independent references and their own contract.

The references are written from the textbook definition of each family and evaluated
by mpmath with 60 digits, so that they share neither formulas nor rounding with the
library. Errors are relative where a value exceeds 1 in magnitude, absolute below.
"""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats

from vae_jax.likelihoods import LIKELIHOODS, Gaussian, make_likelihood, numerics

NAMES = tuple(LIKELIHOODS)
BY_VIEW = {
    view: tuple(name for name in NAMES if make_likelihood(name, 2).view == view)
    for view in ("binary", "levels", "continuous")
}
EXTREME = (-1e4, -87.0, -3.0, -0.5, 0.0, 0.4, 2.0, 30.0, 1e4)
mpf = mpmath.mpf


@pytest.fixture(autouse=True)
def sixty_digits():
    with mpmath.workdps(60):
        yield


def exact(value):
    """Returns the exact number that a float32 stores, as an mpmath number."""
    return mpf(float(np.float32(value)))


def mp_bounded_exp(log_value, low, high):
    return mpf(low) + 1 / (1 / mpf(high) + mpmath.exp(-log_value))


def mp_scale(log_scale):
    return mp_bounded_exp(log_scale, "1e-5", "1e5")


def mp_concentration(log_value):
    return mp_bounded_exp(log_value, "1e-3", "1e4")


def mp_edges(k, levels, loc, scale):
    low = -mpmath.inf if k == 0 else (mpf(k) / levels - loc) / scale
    high = mpmath.inf if k == levels - 1 else (mpf(k + 1) / levels - loc) / scale
    return low, high


def mp_log_logistic_mass(k, levels, loc, scale):
    # By logarithms throughout: a difference of sigmoids at 1e9 needs 1e9 digits.
    low, high = mp_edges(k, levels, loc, scale)
    log_mass = -mpmath.log1p(mpmath.exp(-high)) - mpmath.log1p(mpmath.exp(low))
    return log_mass + mpmath.log(-mpmath.expm1(low - high))


def mp_log_normal_mass(k, levels, loc, scale):
    low, high = mp_edges(k, levels, loc, scale)
    if low + high < 0:
        low, high = -high, -low  # Into the upper tail, where erfc keeps its digits.
    root = mpmath.sqrt(2)
    return mpmath.log((mpmath.erfc(low / root) - mpmath.erfc(high / root)) / 2)


def mp_log_prob(name, outputs, x, levels):
    """Returns log p(x) of one pixel by definition; outputs and x exact numbers."""
    first = outputs[0]
    if name == "bernoulli":
        return -mpmath.log1p(mpmath.exp(-first if x == 1 else first))
    if name == "continuous_bernoulli":
        if first == 0:
            return mpf(0)
        return first * x + mpmath.log(first / mpmath.expm1(first))
    if name.startswith("gaussian"):
        scale = exact(0.1) if name == "gaussian_fixed" else mp_scale(outputs[1])
        square = ((x - first) / scale) ** 2
        return -square / 2 - mpmath.log(scale * mpmath.sqrt(2 * mpmath.pi))
    if name == "laplace":
        scale = mp_scale(outputs[1])
        return -abs(x - first) / scale - mpmath.log(2 * scale)
    if name == "beta":
        alpha, beta = map(mp_concentration, outputs)
        eps = mpf("1e-4")
        inner = eps / 2 + (1 - eps) * x
        return (
            mpmath.log(1 - eps)
            + (alpha - 1) * mpmath.log(inner)
            + (beta - 1) * mpmath.log(1 - inner)
            - mp_log_beta(alpha, beta)
        )
    if name == "discretized_logistic":
        return mp_log_logistic_mass(x, levels, first, mp_scale(outputs[1]))
    if name == "discretized_gaussian":
        return mp_log_normal_mass(x, levels, first, mp_scale(outputs[1]))
    if name == "logistic_mixture":
        count = len(outputs) // 3
        logits, locs, log_scales = (
            outputs[i * count : (i + 1) * count] for i in range(3)
        )
        total = sum(mpmath.exp(logit) for logit in logits)
        masses = (
            mpmath.exp(
                logit + mp_log_logistic_mass(x, levels, loc, mp_scale(log_scale))
            )
            for logit, loc, log_scale in zip(logits, locs, log_scales, strict=True)
        )
        return mpmath.log(sum(masses) / total)
    if name == "categorical":
        return outputs[x] - mpmath.log(sum(mpmath.exp(logit) for logit in outputs))
    assert name == "beta_binomial"
    a, b = map(mp_concentration, outputs)
    n = levels - 1
    return (
        mpmath.log(mpmath.binomial(n, x))
        + mp_log_beta(x + a, n - x + b)
        - mp_log_beta(a, b)
    )


def mp_log_beta(a, b):
    return mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)


def channels(likelihood):
    return likelihood.pixel_outputs + likelihood.shared_outputs


def make(name, levels=17):
    # Fewer components than the default keep the 60-digit references quick.
    options = {"components": 2} if name == "logistic_mixture" else {}
    return make_likelihood(name, levels, **options)


def typical_outputs(likelihood, num_pixels, seed=0):
    """Returns outputs [C, D] such as a trained decoder might give."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=(channels(likelihood), num_pixels))
    family = type(likelihood).__name__
    if family in ("Gaussian", "Laplace", "DiscretizedLogistic", "DiscretizedGaussian"):
        locs, log_scales = outputs[:1], outputs[1:]
        outputs = np.concatenate([0.5 + 0.2 * locs, -2.0 + 0.5 * log_scales])
    if family == "LogisticMixture":
        logits, locs, log_scales = np.split(outputs, 3)
        outputs = np.concatenate([logits, 0.5 + 0.3 * locs, -2.0 + 0.5 * log_scales])
    return jnp.asarray(outputs, jnp.float32)


def typical_x(likelihood, num_pixels, seed=1):
    rng = np.random.default_rng(seed)
    if likelihood.view == "binary":
        return jnp.asarray(rng.integers(0, 2, num_pixels), jnp.float32)
    if likelihood.view == "levels":
        return jnp.asarray(rng.integers(0, likelihood.levels, num_pixels), jnp.int32)
    return jnp.asarray(rng.random(num_pixels), jnp.float32)


def extreme_cases(likelihood, count=400):
    """Returns outputs [C, N] and x [N]: extreme outputs, and pixels at both ends."""
    rng = np.random.default_rng(5)
    outputs = rng.choice(EXTREME, (channels(likelihood), count))
    moderate = rng.random(count) < 0.5
    outputs = np.where(moderate, rng.normal(0, 3, outputs.shape), outputs)
    last = likelihood.levels - 1
    if likelihood.view == "binary":
        x = rng.integers(0, 2, count).astype(np.float32)
    elif likelihood.view == "levels":
        x = rng.choice([0, 1, last // 2, last - 1, last], count).astype(np.int32)
    else:
        x = rng.choice([0.0, 1e-7, 0.25, 0.7, 1.0], count).astype(np.float32)
    return jnp.asarray(outputs, jnp.float32), jnp.asarray(x)


# Compiled whole: operation by operation, compiling would take most of the time here.
# That eager evaluation agrees has a test of its own.
@functools.partial(jax.jit, static_argnums=0)
def log_prob(likelihood, outputs, x):
    return likelihood.log_prob(outputs, x)


@functools.partial(jax.jit, static_argnums=0)
def mean(likelihood, outputs):
    return likelihood.mean(outputs)


@functools.partial(jax.jit, static_argnums=0)
def sample(likelihood, key, outputs):
    return likelihood.sample(key, outputs)


@functools.partial(jax.jit, static_argnums=0)
def gradient(likelihood, outputs, x):
    return jax.grad(lambda outputs: jnp.sum(per_pixel(likelihood, outputs, x)))(outputs)


def per_pixel(likelihood, outputs, x):
    """Returns log p of each pixel alone, [N], for outputs [C, N] and x [N]."""
    return log_prob(likelihood, outputs.T[:, :, None], x[:, None])


# More than twice the largest error of 1500 such cases measured on a CPU.
TOLERANCE = dict.fromkeys(NAMES, 1e-6) | {"beta": 1e-5, "beta_binomial": 1e-4}


def assert_equals_reference(name, likelihood, outputs, x):
    actual = np.asarray(per_pixel(likelihood, outputs, x), np.float64)
    number = int if likelihood.view == "levels" else exact
    for case in range(x.size):
        pixel = [exact(value) for value in np.asarray(outputs[:, case])]
        pixel_x = number(np.asarray(x)[case])
        expected = float(mp_log_prob(name, pixel, pixel_x, likelihood.levels))
        error = abs(actual[case] - expected) / max(1.0, abs(expected))
        assert error <= TOLERANCE[name], (outputs[:, case], x[case], expected)


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("name", NAMES)
def test_log_prob_equals_reference_from_typical_to_extreme_outputs(name, levels):
    if name == "categorical" and levels == 256:
        levels = 16  # The same formula, at a size that 60 digits handle quickly.
    likelihood = make(name, levels)
    assert_equals_reference(name, likelihood, *extreme_cases(likelihood))


@pytest.mark.parametrize("name", ["discretized_logistic", "discretized_gaussian"])
def test_bins_from_a_hair_to_the_whole_line_equal_reference(name):
    """The cases are all switches between formulas, bin edges and middles, two tails."""
    likelihood = make(name, 256)
    log_scales = np.linspace(-11.0, 9.0, 21)
    locs = np.array([-40.0, -0.3, 0.0, 0.25, 0.25 + 0.5 / 256, 0.7, 1.0, 30.0])
    loc, log_scale, x = np.meshgrid(locs, log_scales, [0, 64, 66, 200, 255])
    outputs = jnp.asarray([loc.ravel(), log_scale.ravel()], jnp.float32)
    assert_equals_reference(name, likelihood, outputs, jnp.asarray(x.ravel()))


@pytest.mark.parametrize("eta", [1e-30, 1e-6, 1e-3, 0.5, 0.999, 1.0, 1.001, 3.0, 100.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_continuous_bernoulli_equals_reference_near_its_singularity(eta, sign):
    likelihood = make("continuous_bernoulli")
    x = jnp.array([0.0, 1e-4, 0.3, 0.5, 0.9, 1.0])
    outputs = jnp.full((1, 6), sign * eta)
    assert_equals_reference("continuous_bernoulli", likelihood, outputs, x)


def test_log_densities_equal_scipy():
    outputs = jnp.array([[0.3, -1.0, 0.8], [-2.0, 0.5, 1.0]])
    x = jnp.array([0.2, 0.0, 1.0])
    loc, scale = np.float64(outputs[0]), np.exp(np.float64(outputs[1]))
    expected = {
        "gaussian_pixel": scipy.stats.norm(loc, scale).logpdf(x),
        "laplace": scipy.stats.laplace(loc, scale).logpdf(x),
        "beta": scipy.stats.beta(np.exp(loc), scale).logpdf(0.00005 + 0.9999 * x),
    }
    for name, value in expected.items():
        # SciPy knows no bounds: the scales differ by 1e-5 of 0.13, or 1e-3 of 0.37.
        np.testing.assert_allclose(
            per_pixel(make(name), outputs, x), value, rtol=1e-2, atol=1e-2
        )


@pytest.mark.parametrize("name", NAMES)
def test_extreme_outputs_give_finite_values_and_gradients(name):
    likelihood = make(name, 256)
    outputs, x = extreme_cases(likelihood)
    assert np.all(np.isfinite(per_pixel(likelihood, outputs, x)))
    assert np.all(np.isfinite(gradient(likelihood, outputs, x)))
    assert np.all(np.isfinite(mean(likelihood, outputs)))
    assert np.all(np.isfinite(sample(likelihood, jax.random.key(0), outputs)))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_derivatives_of_the_reference(name):
    likelihood = make(name, 17)
    outputs, x = typical_outputs(likelihood, 6), typical_x(likelihood, 6)
    if name == "continuous_bernoulli":
        outputs = outputs.at[0, 0].set(0.0)
    if name == "discretized_gaussian":  # Middle and edge of a bin exactly at the mean.
        outputs = outputs.at[0, :2].set(jnp.array([8.5, 8.0]) / 17)
        x = x.at[:2].set(8)
    actual = np.asarray(gradient(likelihood, outputs, x))
    number = int if likelihood.view == "levels" else exact
    step = mpf("1e-20")
    for pixel in range(6):
        at = [exact(value) for value in np.asarray(outputs[:, pixel])]
        for channel in range(len(at)):
            above, below = list(at), list(at)
            above[channel] += step
            below[channel] -= step
            args = number(np.asarray(x)[pixel]), likelihood.levels
            difference = mp_log_prob(name, above, *args) - mp_log_prob(
                name, below, *args
            )
            expected = float(difference / (2 * step))
            error = abs(actual[channel, pixel] - expected) / max(1, abs(expected))
            assert error < 2e-5, (channel, pixel, expected)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("name", BY_VIEW["levels"] + BY_VIEW["binary"])
def test_masses_sum_to_one_and_to_their_mean(name, levels):
    likelihood = make(name, levels)
    outputs = typical_outputs(likelihood, 7)
    values = 2 if likelihood.view == "binary" else levels
    dtype = jnp.float32 if likelihood.view == "binary" else jnp.uint8
    x = jnp.broadcast_to(jnp.arange(values, dtype=dtype)[:, None, None], (values, 7, 1))
    log_masses = log_prob(likelihood, outputs.T[:, :, None], x)  # [values, 7]
    masses = np.exp(np.asarray(log_masses, np.float64))
    tolerance = 2e-5 if "beta" in name else 2e-6
    np.testing.assert_allclose(masses.sum(axis=0), 1.0, atol=tolerance)
    expected = np.arange(values) @ masses
    actual = mean(likelihood, outputs)
    np.testing.assert_allclose(actual, expected, rtol=3e-5, atol=1e-5)


def density_grid(name, likelihood, outputs):
    """Returns midpoints [N], weights [N] and densities [N, pixels] in float64."""
    if name == "beta":
        # The support of x; finer towards its ends, where a Beta can be steep.
        margin = likelihood.eps / (2 * (1 - likelihood.eps))
        angle = (np.arange(20_000) + 0.5) / 20_000
        x = -margin + (1 + 2 * margin) * (3 * angle**2 - 2 * angle**3)
        weight = (1 + 2 * margin) * 6 * angle * (1 - angle) / 20_000
    else:
        low, high = (0.0, 1.0) if "bernoulli" in name else (-9.0, 10.0)
        x = low + (high - low) * (np.arange(20_000) + 0.5) / 20_000
        weight = np.full(20_000, (high - low) / 20_000)
    pixel_x = jnp.asarray(x, jnp.float32)[:, None, None]
    log_density = log_prob(likelihood, outputs.T[:, :, None], pixel_x)
    return x, weight, np.exp(np.asarray(log_density, np.float64))


@pytest.mark.parametrize("name", BY_VIEW["continuous"])
def test_densities_integrate_to_one_and_to_their_mean(name):
    likelihood = make(name)
    outputs = typical_outputs(likelihood, 5)
    if name == "beta":
        outputs = outputs + 1.0  # Away from concentrations whose density is infinite.
    x, weight, density = density_grid(name, likelihood, outputs)
    np.testing.assert_allclose(weight @ density, 1.0, atol=1e-4)
    np.testing.assert_allclose(
        (weight * x) @ density, mean(likelihood, outputs), atol=1e-4
    )


def test_mean_of_binary_and_of_extreme_continuous_bernoulli():
    logits = jnp.array([[-1e4, -1.0, 0.0, 2.0, 1e4]])
    expected = [0.0, 1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-2)), 1.0]
    np.testing.assert_allclose(make("bernoulli").mean(logits), expected, rtol=1e-6)
    for eta in (-1e4, -1.0, -0.999, -1e-3, 0.0, 1e-3, 0.999, 1.0, 20.0, 1e4):
        t = exact(eta)
        expected = 1 / -mpmath.expm1(-t) - 1 / t if eta else mpf("0.5")
        actual = mean(make("continuous_bernoulli"), jnp.array([[eta]]))
        np.testing.assert_allclose(actual, [float(expected)], rtol=1e-6)


# Samples are tested at a false-failure rate of 1e-6 per pixel. The keys are fixed, so
# a test that passes once always passes, and this is the chance that a right sampler
# would have failed when the keys were chosen.
FALSE_FAILURE_RATE = 1e-6
NUM_SAMPLES = 20_000


def draw(likelihood, outputs, seed=3):
    repeated = jnp.broadcast_to(outputs[None], (NUM_SAMPLES, *outputs.shape))
    return np.asarray(sample(likelihood, jax.random.key(seed), repeated))


@pytest.mark.parametrize("name", BY_VIEW["levels"] + BY_VIEW["binary"])
def test_samples_of_masses_fit_by_chi_square(name):
    likelihood = make(name, 17)
    outputs = typical_outputs(likelihood, 6)
    samples = draw(likelihood, outputs)
    binary = likelihood.view == "binary"
    assert samples.dtype == (np.float32 if binary else np.int32)
    values = np.arange(2 if binary else 17)
    x = jnp.asarray(values, jnp.float32 if binary else jnp.int32)[:, None, None]
    masses = np.exp(np.float64(log_prob(likelihood, outputs.T[:, :, None], x)))
    assert set(np.unique(samples)) <= set(values)
    for pixel in range(6):
        expected = NUM_SAMPLES * masses[:, pixel]
        counts = (samples[:, pixel, None] == values).sum(axis=0)
        common = expected >= 5  # The rest is pooled: chi-square needs full cells.
        pooled = [
            np.append(cells[common], cells[~common].sum() + 1e-3)
            for cells in (counts, expected)
        ]
        pooled[1] *= pooled[0].sum() / pooled[1].sum()
        p_value = scipy.stats.chisquare(*pooled).pvalue
        assert p_value > FALSE_FAILURE_RATE, (pixel, counts, expected)


@pytest.mark.parametrize("name", BY_VIEW["continuous"])
def test_samples_of_densities_fit_by_kolmogorov_smirnov(name):
    likelihood = make(name)
    outputs = typical_outputs(likelihood, 6)
    if name == "beta":
        outputs = outputs + 1.0
    samples = draw(likelihood, outputs)
    x, weight, density = density_grid(name, likelihood, outputs)
    for pixel in range(6):
        cumulative = np.cumsum(weight * density[:, pixel])

        def distribution(value, cumulative=cumulative):
            return np.interp(value, x, cumulative)

        p_value = scipy.stats.kstest(samples[:, pixel], distribution).pvalue
        assert p_value > FALSE_FAILURE_RATE, pixel


@pytest.mark.parametrize("name", NAMES)
def test_sampling_repeats_with_the_key_and_differs_between_draws(name):
    likelihood = make(name, 17)
    outputs = jnp.zeros((channels(likelihood), 6))
    first = draw(likelihood, outputs)
    np.testing.assert_array_equal(first, draw(likelihood, outputs))
    assert not np.array_equal(first, draw(likelihood, outputs, seed=4))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[:, 0], first[:, 1])


@pytest.mark.parametrize("name", NAMES)
def test_initial_outputs_have_the_mean_and_roughly_the_spread_of_the_data(name):
    levels = 17
    likelihood = make(name, levels)
    pixel_mean = jnp.array([0.0, 0.02, 0.3, 0.5, 0.8, 1.0])
    pixel_std = jnp.array([0.0, 0.1, 0.3, 0.35, 0.25, 0.0])
    outputs = jax.jit(likelihood.initial_outputs)(pixel_mean, pixel_std)
    assert outputs.shape == (channels(likelihood), 6)
    assert outputs.dtype == jnp.float32
    assert np.all(np.isfinite(outputs))
    inner = np.clip(pixel_mean, 1e-3, 1 - 1e-3)
    expected = {
        "binary": inner,
        "levels": (levels - 1) * inner,
        "continuous": ((levels - 1) * np.asarray(pixel_mean) + 0.5) / levels,
    }[likelihood.view]
    np.testing.assert_allclose(
        mean(likelihood, outputs), expected, rtol=2e-3, atol=1e-3 * expected.max()
    )
    if "bernoulli" not in name and name != "gaussian_fixed":
        spread = draw(likelihood, outputs).std(axis=0) * expected.max() ** -1
        inside = slice(2, 5)  # Near 0 and 1 the distributions are deliberately wider.
        ratio = spread[inside] / pixel_std[inside]
        assert np.all((ratio > 0.6) & (ratio < 1.5)), ratio


@pytest.mark.parametrize("log_scale", [-5.0, -3.0, -1.0])
def test_density_averaged_over_the_bin_is_its_mass_and_its_log_a_bound(log_scale):
    levels, bins, grid = 17, jnp.arange(1, 16), 400
    u = (jnp.arange(grid) + 0.5) / grid
    outputs = jnp.stack([jnp.full((1,), 0.44), jnp.full((1,), log_scale)])
    x = (bins[None, :] + u[:, None]) / levels  # [grid, bins]
    log_density = log_prob(make("gaussian_pixel", levels), outputs, x[..., None])
    log_density = np.asarray(log_density, np.float64) - math.log(levels)
    log_mass = log_prob(make("discretized_gaussian", levels), outputs, bins[:, None])
    log_mass = np.asarray(log_mass, np.float64)
    heavy = log_mass > -60  # Beyond, exp underflows in the average that is the check.
    average = scipy.special.logsumexp(log_density, axis=0) - math.log(grid)
    np.testing.assert_allclose(average[heavy], log_mass[heavy], atol=3e-3)
    assert np.all(log_density.mean(axis=0) < log_mass)


def test_gaussian_scale_shared_by_pixels_is_the_same_density_as_per_pixel():
    outputs = jnp.stack([jnp.linspace(-1, 1, 9), jnp.full((9,), -1.3)])
    x = jnp.linspace(0, 1, 9)
    values = [
        log_prob(make(f"gaussian_{scale}"), outputs, x)
        for scale in ("shared", "pixel", "optimal")
    ]
    assert values[0] == values[1] == values[2]
    fixed = make_likelihood("gaussian_fixed", 17, fixed_scale=math.exp(-1.3) + 1e-5)
    np.testing.assert_allclose(fixed.log_prob(outputs[:1], x), values[0], rtol=1e-5)


def test_optimal_shared_scale_maximises_the_log_density():
    likelihood = make("gaussian_optimal")
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.normal(size=(3, 4, 2, 9)), jnp.float32)  # [S, B, C, D]
    x = jnp.asarray(rng.random((4, 9)), jnp.float32)
    best = likelihood.optimal_shared(outputs, x)
    assert best.shape == (1,)

    @jax.jit
    def total(log_scale):
        filled = outputs.at[..., 1, :].set(log_scale)
        return jnp.mean(likelihood.log_prob(filled, x))

    assert abs(jax.grad(total)(best[0])) < 1e-4
    for shift in (-0.1, 0.1):
        assert total(best[0] + shift) < total(best[0]) - 1e-2
    rms = np.sqrt(np.mean((np.asarray(x) - np.asarray(outputs)[..., 0, :]) ** 2))
    np.testing.assert_allclose(numerics.bounded_exp(best[0]), rms, rtol=1e-6)


def test_only_the_optimal_gaussian_fits_its_shared_scale():
    assert [name for name in NAMES if make(name).fits_shared] == ["gaussian_optimal"]
    outputs, x = jnp.zeros((2, 3)), jnp.zeros(3)
    for name in ("gaussian_shared", "laplace"):
        with pytest.raises(NotImplementedError, match="no shared parameters to fit"):
            make(name).optimal_shared(outputs, x)


@pytest.mark.parametrize("name", NAMES)
def test_jit_vmap_and_broadcasting_agree_with_eager_evaluation(name):
    likelihood = make(name)
    samples, batch, pixels = 2, 3, 5
    flat = typical_outputs(likelihood, samples * batch * pixels)
    outputs = flat.reshape(-1, samples, batch, pixels).transpose(1, 2, 0, 3)
    x = typical_x(likelihood, batch * pixels).reshape(batch, pixels)
    eager = likelihood.log_prob(outputs, x)
    assert eager.shape == (samples, batch)
    assert eager.dtype == jnp.float32

    mapped = jax.jit(jax.vmap(jax.vmap(likelihood.log_prob), in_axes=(0, None)))
    pixelwise = log_prob(likelihood, outputs.swapaxes(-1, -2)[..., None], x[..., None])
    for other in (
        log_prob(likelihood, outputs, x),
        mapped(outputs, x),
        jnp.sum(pixelwise, axis=-1),
    ):
        np.testing.assert_allclose(eager, other, rtol=3e-6, atol=3e-6)
    # Fewer axes on the other side: one set of outputs, many images.
    one_outputs = log_prob(likelihood, outputs[0, 0], x)
    np.testing.assert_allclose(one_outputs[0], eager[0, 0], rtol=3e-6, atol=3e-6)

    expected_shape = (samples, batch, pixels)
    assert jax.eval_shape(likelihood.mean, outputs).shape == expected_shape
    drawn = jax.eval_shape(likelihood.sample, jax.random.key(0), outputs)
    assert drawn.shape == expected_shape


@pytest.mark.parametrize("name", BY_VIEW["levels"])
def test_levels_may_be_bytes_or_int32(name):
    likelihood = make(name, 256)
    outputs = typical_outputs(likelihood, 6)
    x = jnp.array([0, 1, 127, 128, 254, 255])
    expected = log_prob(likelihood, outputs, x)
    assert log_prob(likelihood, outputs, x.astype(jnp.uint8)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_equal_descriptions_are_equal_and_hash_alike(name):
    first, second = make(name), make(name)
    assert first == second
    assert hash(first) == hash(second)
    assert first != make(name, 18)


def test_bounded_exp_is_bounded_near_identity_and_inverted_by_bounded_log():
    log_values = np.array([-1e4, -20.0, -6.0, -3.0, 0.0, 3.0, 6.0, 20.0, 1e4])
    log_values = log_values.astype(np.float32)
    bounded_exp = jax.jit(numerics.bounded_exp)
    values = np.asarray(bounded_exp(log_values))
    assert np.all(np.diff(values) >= 0)
    np.testing.assert_allclose(values[[0, -1]], [1e-5, 1e5], rtol=1e-6)
    np.testing.assert_allclose(values[2:7], np.exp(log_values[2:7]), rtol=5e-3)
    inverse = numerics.bounded_log(jnp.asarray(values[2:7]))
    np.testing.assert_allclose(inverse, log_values[2:7], atol=1e-5)
    beyond = numerics.bounded_log(jnp.array([1e-12, 1e12]))
    np.testing.assert_allclose(bounded_exp(beyond), [1e-5, 1e5], rtol=2e-3)
    slopes = jax.vmap(jax.grad(numerics.bounded_exp))(jnp.asarray(log_values))
    assert np.all(np.isfinite(slopes))


def test_stirling_correction_equals_reference():
    z = np.logspace(-3, 5, 60).astype(np.float32)
    for value, actual in zip(
        z, np.asarray(numerics.stirling_correction(jnp.asarray(z))), strict=True
    ):
        t = exact(value)
        leading = (t - 0.5) * mpmath.log(t) - t + mpmath.log(2 * mpmath.pi) / 2
        expected = float(mpmath.loggamma(t) - leading)
        assert abs(actual - expected) < 5e-7 * max(1.0, abs(expected)), value


def test_unknown_names_name_the_nearest_and_all_known_ones():
    with pytest.raises(
        ValueError, match="likelihood is 'bernouli': it is unknown"
    ) as error:
        make_likelihood("bernouli", 2)
    message = str(error.value)
    assert "did you mean 'bernoulli'?" in message
    assert all(name in message for name in NAMES)


@pytest.mark.parametrize(
    ("name", "levels", "options", "message"),
    [
        ("bernoulli", 1, {}, "levels is 1: it must be a whole number of at least 2"),
        ("beta", 256, {"eps": 0.1}, "eps is 0.1: likelihood 'beta' has no such"),
        ("gaussian_fixed", 256, {"scale": "pixel"}, "no such option"),
        (
            "gaussian_fixed",
            256,
            {"fixed_scale": 0.0},
            "fixed_scale is 0.0: it must be above 0",
        ),
        (
            "gaussian_fixed",
            256,
            {"fixed_scale": math.nan},
            "fixed_scale is nan: it must be finite",
        ),
        *(
            (name, 256, {"fixed_scale": 0.1}, "or choose 'gaussian_fixed'")
            for name in ("gaussian_pixel", "gaussian_shared", "gaussian_optimal")
        ),
        (
            "logistic_mixture",
            256,
            {"components": 0},
            "components is 0: .* at least",
        ),
        ("logistic_mixture", 256, {"component": 3}, "no such option. Leave it out"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(name, levels, options, message):
    with pytest.raises(ValueError, match=message):
        make_likelihood(name, levels, **options)


def test_unknown_gaussian_scale_is_refused():
    with pytest.raises(ValueError, match="scale is 'tied': it is unknown"):
        Gaussian(256, scale="tied")


@pytest.mark.parametrize("name", NAMES)
def test_outputs_with_a_wrong_number_of_channels_are_refused(name):
    likelihood = make(name)
    outputs = jnp.zeros((channels(likelihood) + 1, 4))
    x = jnp.zeros(4, jnp.int32 if likelihood.view == "levels" else jnp.float32)
    with pytest.raises(ValueError, match="needs outputs of shape"):
        likelihood.log_prob(outputs, x)
    with pytest.raises(ValueError, match="needs outputs of shape"):
        likelihood.mean(outputs)
    with pytest.raises(ValueError, match="needs outputs of shape"):
        likelihood.sample(jax.random.key(0), outputs)


@pytest.mark.parametrize("output", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_exact_where_a_bin_begins_at_the_location(name, output):
    """Logits of exactly 0 and edges exactly at the mean: kinks of |x| inside."""
    likelihood = make_likelihood(name, 16)
    outputs = jnp.full(
        (likelihood.pixel_outputs + likelihood.shared_outputs, 1), output
    )

    @jax.jit
    def log_prob(outputs, x):
        return likelihood.log_prob(outputs, x).sum()

    gradient = jax.jit(jax.grad(log_prob))
    step = 1e-6
    with jax.enable_x64(True):
        outputs = np.asarray(outputs, np.float64)
        for k in range(16):
            x = {"binary": float(k > 8), "levels": k, "continuous": (k + 0.5) / 16}
            x = jnp.array([x[likelihood.view]])
            slope = gradient(outputs, x)
            for i in range(len(outputs)):
                change = np.zeros_like(outputs)
                change[i] = step
                rise = log_prob(outputs + change, x) - log_prob(outputs - change, x)
                np.testing.assert_allclose(slope[i, 0], rise / (2 * step), atol=1e-4)


@pytest.mark.parametrize("outside", [-1, 16])
@pytest.mark.parametrize(
    "name", [name for name in NAMES if make(name).view == "levels"]
)
def test_integers_that_are_no_levels_have_no_mass(name, outside):
    """A formula that gives plausible numbers there would score too well."""
    likelihood = make_likelihood(name, 16)
    outputs = jnp.zeros((channels(likelihood), 3))
    assert np.isfinite(likelihood.log_prob(outputs, jnp.array([0, 7, 15])))
    assert np.isnan(likelihood.log_prob(outputs, jnp.array([0, 7, outside])))


@pytest.mark.parametrize(
    "name", [name for name in NAMES if make(name).view == "levels"]
)
def test_levels_are_integers(name):
    """A continuous image would score as well as its formula likes."""
    likelihood = make_likelihood(name, 16)
    outputs = jnp.zeros((channels(likelihood), 3))
    with pytest.raises(ValueError, match=r"x is float32.*integers in \[0, 15\]"):
        likelihood.log_prob(outputs, jnp.array([0.0, 0.5, 1.0]))


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("bernoulli", [0.0, 1.0, 1.0], [0.0, 0.5, 1.0]),
        ("bernoulli", [0.0, 1.0, 1.0], [0.0, 2.0, 1.0]),
        ("continuous_bernoulli", [0.0, 0.5, 1.0], [0.0, 2.0, 1.0]),
        ("continuous_bernoulli", [0.0, 0.5, 1.0], [0.0, -0.1, 1.0]),
        ("beta", [0.0, 0.5, 1.0], [0.0, 2.0, 1.0]),
    ],
)
def test_images_beyond_the_support_have_no_density(name, inside, outside):
    likelihood = make_likelihood(name, 256)
    outputs = jnp.ones((4, channels(likelihood), 3))
    assert np.all(np.isfinite(likelihood.log_prob(outputs, jnp.array(inside))))
    assert np.all(np.isnan(likelihood.log_prob(outputs, jnp.array(outside))))


@pytest.mark.parametrize("name", NAMES)
def test_images_of_another_size_are_refused(name):
    """One pixel would be held against all parameters."""
    likelihood = make(name)
    outputs = jnp.zeros((channels(likelihood), 4))
    dtype = jnp.int32 if likelihood.view == "levels" else jnp.float32
    with pytest.raises(ValueError, match="differ in their number of pixels"):
        likelihood.log_prob(outputs, jnp.zeros((2, 1), dtype))
