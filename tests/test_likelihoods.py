"""Likelihoods against independent references, and against their own contract.

The references are written from the textbook definition of each family and evaluated
by mpmath with 60 digits, so that they share neither formulas nor rounding with the
library. Errors are relative where a value exceeds 1 in magnitude, absolute below.
"""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.stats

from vae_jax.likelihoods import LIKELIHOODS, make_likelihood, numerics

NAMES = tuple(LIKELIHOODS)
BY_VIEW = {
    view: tuple(name for name in NAMES if LIKELIHOODS[name].cls.view == view)
    for view in ('binary', 'levels', 'continuous')
}
EXTREME = (-1e4, -87.0, -3.0, -0.5, 0.0, 0.4, 2.0, 30.0, 1e4)
mpf = mpmath.mpf


@pytest.fixture(autouse=True)
def sixty_digits():
    with mpmath.workdps(60):
        yield


def exact(value):
    """Returns the very number that a float32 stores, as an mpmath number."""
    return mpf(float(np.float32(value)))


def mp_bounded_exp(log_value, low, high):
    return mpf(low) + 1 / (1 / mpf(high) + mpmath.exp(-log_value))


def mp_scale(log_scale):
    return mp_bounded_exp(log_scale, '1e-5', '1e5')


def mp_concentration(log_value):
    return mp_bounded_exp(log_value, '1e-3', '1e4')


def mp_sigmoid(t):
    # Of the form whose exponential is below one: 60 digits do not hold 1 + e^1e9.
    return 1 / (1 + mpmath.exp(-t)) if t > 0 else mpmath.exp(t) / (1 + mpmath.exp(t))


def mp_upper_normal(t):
    return mpmath.erfc(t / mpmath.sqrt(2)) / 2


def mp_bin_mass(upper_tail, k, levels, loc, scale):
    """Returns the mass of bin k from upper tails, mirrored into the smaller ones."""
    low = -mpmath.inf if k == 0 else (mpf(k) / levels - loc) / scale
    high = mpmath.inf if k == levels - 1 else (mpf(k + 1) / levels - loc) / scale
    if low + high < 0 or high == mpmath.inf and low < 0 or low == -mpmath.inf:
        low, high = -high, -low
    tail_low = mpf(1) if low == -mpmath.inf else upper_tail(low)
    tail_high = mpf(0) if high == mpmath.inf else upper_tail(high)
    return tail_low - tail_high


def mp_log_logistic_mass(k, levels, loc, scale):
    # Differences of sigmoids at 1e9 would need 1e9 digits: the tails are exponential,
    # so take their common factor out first.
    low = None if k == 0 else (mpf(k) / levels - loc) / scale
    high = None if k == levels - 1 else (mpf(k + 1) / levels - loc) / scale
    log_lower = mpf(0) if high is None else -mpmath.log1p(mpmath.exp(-high))
    log_upper = mpf(0) if low is None else -mpmath.log1p(mpmath.exp(low))
    between = mpf(0)
    if low is not None and high is not None:
        between = mpmath.log(-mpmath.expm1(low - high))
    return log_lower + log_upper + between


def mp_log_normal_mass(k, levels, loc, scale):
    """Returns the log-mass by working precision large enough for the cancellation."""
    with mpmath.workdps(120):
        return mpmath.log(mp_bin_mass(mp_upper_normal, k, levels, loc, scale))


def mp_log_prob(name, outputs, x, levels):
    """Returns log p(x) of one pixel by definition; outputs and x exact numbers."""
    first = outputs[0]
    if name == 'bernoulli':
        return -mpmath.log1p(mpmath.exp(-first if x == 1 else first))
    if name == 'continuous_bernoulli':
        if first == 0:
            return mpf(0)
        return first * x + mpmath.log(first / mpmath.expm1(first))
    if name.startswith('gaussian'):
        scale = exact(0.1) if name == 'gaussian_fixed' else mp_scale(outputs[1])
        square = ((x - first) / scale) ** 2
        return -square / 2 - mpmath.log(scale * mpmath.sqrt(2 * mpmath.pi))
    if name == 'laplace':
        scale = mp_scale(outputs[1])
        return -abs(x - first) / scale - mpmath.log(2 * scale)
    if name == 'beta':
        alpha, beta = map(mp_concentration, outputs)
        eps = mpf('1e-4')
        inner = eps / 2 + (1 - eps) * x
        return (
            mpmath.log(1 - eps)
            + (alpha - 1) * mpmath.log(inner)
            + (beta - 1) * mpmath.log(1 - inner)
            - mp_log_beta(alpha, beta)
        )
    if name == 'discretized_logistic':
        return mp_log_logistic_mass(x, levels, first, mp_scale(outputs[1]))
    if name == 'discretized_gaussian':
        return mp_log_normal_mass(x, levels, first, mp_scale(outputs[1]))
    if name == 'logistic_mixture':
        count = len(outputs) // 3
        logits, locs, log_scales = (outputs[i * count : (i + 1) * count] for i in range(3))
        total = sum(mpmath.exp(logit) for logit in logits)
        masses = (
            mpmath.exp(logit + mp_log_logistic_mass(x, levels, loc, mp_scale(log_scale)))
            for logit, loc, log_scale in zip(logits, locs, log_scales, strict=True)
        )
        return mpmath.log(sum(masses) / total)
    if name == 'categorical':
        return outputs[x] - mpmath.log(sum(mpmath.exp(logit) for logit in outputs))
    assert name == 'beta_binomial'
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
    options = {'components': 2} if name == 'logistic_mixture' else {}
    return make_likelihood(name, levels, **options)


def typical_outputs(likelihood, num_pixels, seed=0):
    """Returns outputs [C, D] such as a trained decoder might give."""
    key = jax.random.key(seed)
    outputs = jax.random.normal(key, (channels(likelihood), num_pixels))
    family = type(likelihood).__name__
    if family in ('Gaussian', 'Laplace', 'DiscretizedLogistic', 'DiscretizedGaussian'):
        spread = jnp.array([0.2, 0.5])[: channels(likelihood), None]
        centre = jnp.array([0.5, -2.0])[: channels(likelihood), None]
        outputs = centre + spread * outputs
    if family == 'LogisticMixture':
        kind = np.repeat(np.arange(3), likelihood.components)
        outputs = (
            np.array([0.0, 0.5, -2.0], np.float32)[kind][:, None]
            + np.array([1.0, 0.3, 0.5], np.float32)[kind][:, None] * outputs
        )
    return outputs


def typical_x(likelihood, num_pixels, seed=1):
    key = jax.random.key(seed)
    if likelihood.view == 'binary':
        return jax.random.bernoulli(key, 0.5, (num_pixels,)).astype(jnp.float32)
    if likelihood.view == 'levels':
        return jax.random.randint(key, (num_pixels,), 0, likelihood.levels)
    return jax.random.uniform(key, (num_pixels,))


def extreme_cases(likelihood, count=150):
    """Returns outputs [C, N] and x [N]: extreme outputs, and pixels at both ends."""
    rng = np.random.default_rng(5)
    outputs = rng.choice(EXTREME, (channels(likelihood), count))
    moderate = rng.random(count) < 0.5
    outputs = np.where(moderate, rng.normal(0, 3, outputs.shape), outputs)
    last = likelihood.levels - 1
    if likelihood.view == 'binary':
        x = rng.integers(0, 2, count).astype(np.float32)
    elif likelihood.view == 'levels':
        x = rng.choice([0, 1, last // 2, last - 1, last], count).astype(np.int32)
    else:
        x = rng.choice([0.0, 1e-7, 0.25, 0.7, 1.0], count).astype(np.float32)
    return jnp.asarray(outputs, jnp.float32), jnp.asarray(x)


def per_pixel(likelihood, outputs, x):
    """Returns log p of each pixel alone, [N], for outputs [C, N] and x [N]."""
    return likelihood.log_prob(outputs.T[:, :, None], x[:, None])


# Measured on a CPU: the largest error is below a third of each tolerance.
TOLERANCE = {name: 1e-6 for name in NAMES} | {'beta': 1e-4, 'beta_binomial': 1e-4}


@pytest.mark.parametrize('levels', [2, 256])
@pytest.mark.parametrize('name', NAMES)
def test_log_prob_equals_sixty_digit_reference_also_at_extremes(name, levels):
    if name == 'categorical' and levels == 256:
        levels = 16  # The same formula at a size that 60 digits handle quickly.
    likelihood = make(name, levels)
    outputs, x = extreme_cases(likelihood)
    actual = np.asarray(per_pixel(likelihood, outputs, x), np.float64)
    number = int if likelihood.view == 'levels' else exact
    for case in range(x.size):
        pixel = [exact(value) for value in np.asarray(outputs[:, case])]
        expected = float(mp_log_prob(name, pixel, number(x[case]), levels))
        error = abs(actual[case] - expected) / max(1.0, abs(expected))
        assert error <= TOLERANCE[name], (outputs[:, case], x[case], expected)
