"""Likelihoods of the levels view: masses of the integers x = k in {0..levels-1}.

The discretized families integrate a continuous density over the dequantisation bin
[k, k + 1) / levels; the first and the last bin extend to infinity. So location and
scale are in the units of the continuous view. The log-mass is never below the mean
log-density of the same distribution in the bin, minus log(levels).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.checks import Count
from vae_jax.likelihoods.continuous import (
    MIN_INITIAL_STD,
    concentrations,
    initial_concentrations,
)
from vae_jax.likelihoods.interface import Likelihood, View, inner_mean
from vae_jax.likelihoods.numerics import (
    align,
    bounded_exp,
    bounded_log,
    log_logistic_mass,
    log_normal_mass,
    log_ratio,
    solve_increasing,
    stirling_correction,
    sum_pixels,
)

_LOGISTIC_STD = math.pi / math.sqrt(3.0)  # of the logistic with scale 1


@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic(Likelihood):
    """Logistic integrated over each bin: P(k) = F((k+1)/levels) - F(k/levels), a mass.

    F(t) = sigmoid((t - loc) / s), with F = 0 below the first bin and 1 above the last.
    There are two outputs per pixel: loc, and log s, which ``bounded_exp`` maps to s in
    (1e-5, 1e5). Both are in units of the [0, 1] intensity. Sources: Kingma et al. 2016
    (inverse autoregressive flow); for the edge bins, Salimans et al. 2017 (PixelCNN++),
    equation 2 and the text below it.
    """

    view: ClassVar[View] = "levels"

    @property
    def pixel_outputs(self) -> int:
        return 2

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-mass ``[...]`` of integer images x ``[..., D]``, in nats.

        It is NaN for an image with a pixel that is none of 0, ..., levels - 1.
        """
        loc, log_scale, k = align(*self._channels(outputs), _as_float(x))
        log_mass = log_logistic_mass(k, self.levels, loc, bounded_exp(log_scale))
        return _sum_levels(log_mass, x, self.levels)

    def mean(self, outputs: jax.Array) -> jax.Array:
        loc, log_scale = self._channels(outputs)
        scale = bounded_exp(log_scale)
        return _mean_from_survival(
            lambda edge: jax.nn.sigmoid((loc - edge) / scale), self.levels, loc
        )

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        loc, log_scale = self._channels(outputs)
        noise = jax.random.logistic(key, loc.shape)
        return _bin_of(loc + bounded_exp(log_scale) * noise, self.levels)

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        loc, std = self._continuous_moments(pixel_mean, pixel_std)
        scale = jnp.maximum(std, MIN_INITIAL_STD) / _LOGISTIC_STD
        outputs = jnp.stack([loc, bounded_log(scale)])
        return _shift_to_mean(self, outputs, slice(0, 1), pixel_mean)


@dataclasses.dataclass(frozen=True)
class DiscretizedGaussian(Likelihood):
    """Gaussian integrated over each bin: P(k) = F((k+1)/levels) - F(k/levels), a mass.

    F(t) = Phi((t - loc) / s), with F = 0 below the first bin and 1 above the last.
    There are two outputs per pixel: loc, and log s, which ``bounded_exp`` maps to s in
    (1e-5, 1e5). Both are in units of the [0, 1] intensity. Source for the edge bins:
    Ho, Jain and Abbeel 2020 (denoising diffusion), equation 13.
    """

    view: ClassVar[View] = "levels"

    @property
    def pixel_outputs(self) -> int:
        return 2

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-mass ``[...]`` of integer images x ``[..., D]``, in nats.

        It is NaN for an image with a pixel that is none of 0, ..., levels - 1.
        """
        loc, log_scale, k = align(*self._channels(outputs), _as_float(x))
        log_mass = log_normal_mass(k, self.levels, loc, bounded_exp(log_scale))
        return _sum_levels(log_mass, x, self.levels)

    def mean(self, outputs: jax.Array) -> jax.Array:
        loc, log_scale = self._channels(outputs)
        scale = bounded_exp(log_scale)
        return _mean_from_survival(
            lambda edge: jax.scipy.special.ndtr((loc - edge) / scale), self.levels, loc
        )

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        loc, log_scale = self._channels(outputs)
        noise = jax.random.normal(key, loc.shape)
        return _bin_of(loc + bounded_exp(log_scale) * noise, self.levels)

    def readout(self, mean: jax.Array, std: jax.Array) -> jax.Array:
        """See ``Likelihood``: the mass of the noise's distribution in each bin."""
        loc, scale = self._continuous_units(mean, std)
        return jnp.stack([loc, bounded_log(scale)], axis=-2)

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        loc, std = self._continuous_moments(pixel_mean, pixel_std)
        scale = jnp.maximum(std, MIN_INITIAL_STD)
        outputs = jnp.stack([loc, bounded_log(scale)])
        return _shift_to_mean(self, outputs, slice(0, 1), pixel_mean)


@dataclasses.dataclass(frozen=True)
class LogisticMixture(Likelihood):
    """Mixture of discretized logistics: P(k) = sum_j w_j P_j(k), a mass.

    Each P_j is a ``DiscretizedLogistic``, and w = softmax(logits). With K components
    there are 3 K outputs per pixel: K logits, K locations and K log-scales, in this
    order; units as in ``DiscretizedLogistic``. Source: Salimans et al. 2017
    (PixelCNN++), equations 1 and 2.

    Attributes:
        components: K, the number of logistics that are mixed at each pixel.
    """

    view: ClassVar[View] = "levels"
    components: Count = 5

    @property
    def pixel_outputs(self) -> int:
        return 3 * self.components

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-mass ``[...]`` of integer images x ``[..., D]``, in nats.

        It is NaN for an image with a pixel that is none of 0, ..., levels - 1.
        """
        logits, loc, scale = self._mixture(outputs)  # [..., K, D] each
        logits, loc, scale, k = align(logits, loc, scale, _as_float(x)[..., None, :])
        log_masses = log_logistic_mass(k, self.levels, loc, scale)
        log_weights = jax.nn.log_softmax(logits, axis=-2)
        log_mass = jax.nn.logsumexp(log_weights + log_masses, axis=-2)
        return _sum_levels(log_mass, x, self.levels)

    def mean(self, outputs: jax.Array) -> jax.Array:
        logits, loc, scale = self._mixture(outputs)
        means = _mean_from_survival(
            lambda edge: jax.nn.sigmoid((loc - edge) / scale), self.levels, loc
        )
        return jnp.sum(jax.nn.softmax(logits, axis=-2) * means, axis=-2)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        component_key, noise_key = jax.random.split(key)
        logits, loc, scale = self._mixture(outputs)
        component = jax.random.categorical(component_key, logits, axis=-2)
        chosen = component[..., None, :]
        loc = jnp.take_along_axis(loc, chosen, axis=-2)[..., 0, :]
        scale = jnp.take_along_axis(scale, chosen, axis=-2)[..., 0, :]
        noise = jax.random.logistic(noise_key, loc.shape)
        return _bin_of(loc + scale * noise, self.levels)

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        # Components are spread over one standard deviation to each side. Otherwise they
        # would all start with the same gradient. Their widths give the rest of the
        # data's spread.
        mean, std = self._continuous_moments(pixel_mean, pixel_std)
        std = jnp.maximum(std, MIN_INITIAL_STD)
        count = self.components
        offsets = (2.0 * np.arange(count, dtype=np.float32) + 1.0 - count) / count
        loc = mean[None] + std[None] * jnp.asarray(offsets)[:, None]
        within = math.sqrt(1.0 - float(np.mean(offsets**2)))
        log_scale = bounded_log(within * std / _LOGISTIC_STD)
        outputs = jnp.concatenate(
            [
                jnp.zeros_like(loc),
                loc,
                jnp.broadcast_to(log_scale[None], loc.shape),
            ]
        )
        return _shift_to_mean(self, outputs, slice(count, 2 * count), pixel_mean)

    def _mixture(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns logits, locations and scales of the components, [..., K, D] each."""
        self._check(outputs)
        logits, loc, log_scale = jnp.split(outputs, 3, axis=-2)
        return logits, loc, bounded_exp(log_scale)


@dataclasses.dataclass(frozen=True)
class Categorical(Likelihood):
    """Categorical: P(k) = softmax(logits)_k, a mass without an order of levels.

    There are ``levels`` outputs per pixel, the logits. Source: van den Oord,
    Kalchbrenner and Kavukcuoglu 2016 (PixelRNN).
    """

    view: ClassVar[View] = "levels"

    @property
    def pixel_outputs(self) -> int:
        return self.levels

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-mass ``[...]`` of integer images x ``[..., D]``, in nats.

        It is NaN for an image with a pixel that is none of 0, ..., levels - 1.
        """
        self._check(outputs)
        logits, k = align(outputs, x[..., None, :])
        level = self._column(logits.ndim)
        # The gradient of a masked sum needs no scatter; that of a gather does.
        log_masses = jax.nn.log_softmax(logits, axis=-2)
        log_mass = jnp.sum(jnp.where(k == level, log_masses, 0.0), axis=-2)
        return _sum_levels(log_mass, x, self.levels)

    def mean(self, outputs: jax.Array) -> jax.Array:
        self._check(outputs)
        level = self._column(outputs.ndim)
        return jnp.sum(jax.nn.softmax(outputs, axis=-2) * level, axis=-2)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        self._check(outputs)
        return jax.random.categorical(key, outputs, axis=-2).astype(jnp.int32)

    def readout(self, mean: jax.Array, std: jax.Array) -> jax.Array:
        """See ``Likelihood``: the odds of the levels under the noise."""
        level = self._column(mean.ndim + 1) / (self.levels - 1)
        distance = (level - mean[..., None, :]) / std[..., None, :]
        return -0.5 * distance**2

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        # These are the log-masses of a discretized logistic with the same moments.
        start = DiscretizedLogistic(self.levels).initial_outputs(pixel_mean, pixel_std)
        loc, log_scale = start[:, None]  # [1, D] each
        k = self._column(2).astype(loc.dtype)
        return log_logistic_mass(k, self.levels, loc, bounded_exp(log_scale))

    def _column(self, rank: int) -> jax.Array:
        """Returns the levels along axis -2 of an array of the given rank."""
        return jnp.arange(self.levels).reshape((1,) * (rank - 2) + (-1, 1))


@dataclasses.dataclass(frozen=True)
class BetaBinomial(Likelihood):
    """Beta-binomial: P(k) = C(n, k) B(k + a, n - k + b) / B(a, b), n = levels - 1.

    A mass: of the number of successes in n draws with a probability ~ Beta(a, b).
    There are two outputs per pixel, log a and log b; ``bounded_exp`` maps them to a and
    b in (1e-3, 1e4). Sources: Skellam 1948; for pixels, Townsend, Bird and Barber 2019
    (bits back with asymmetric numeral systems).

    The beta functions are written with ``stirling_correction``. Their large terms are
    combined so that no term is bigger than n, for all values of a and b:

        a log1p(k / a) + b log1p((n - k) / b) - (a + b) log1p(n / (a + b))
        + k log((k + a) / (n + a + b)) + (n - k) log((n - k + b) / (n + a + b)) + ...
    """

    view: ClassVar[View] = "levels"

    @property
    def pixel_outputs(self) -> int:
        return 2

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-mass ``[...]`` of integer images x ``[..., D]``, in nats.

        It is NaN for an image with a pixel that is none of 0, ..., levels - 1.
        """
        _require_integers(x, self.levels)
        n = self.levels - 1
        a, b, x = align(*concentrations(self._channels(outputs)), x)
        k = _as_float(x)
        rest = n - k
        prior, posterior = a + b, n + a + b
        mean, rest_mean = (k + a) / posterior, (rest + b) / posterior
        # Relative to the binomial at its mode, whose constants are exact: the rest of
        # the terms k log and (n - k) log is then zero where the mass is largest.
        excess = (rest * a - k * b) / posterior
        log_mass = (
            jnp.take(jnp.asarray(_log_binomial_modes(n)), x, mode="clip")
            + k * log_ratio(n * mean, jnp.maximum(k, 1.0), excess)
            + rest * log_ratio(n * rest_mean, jnp.maximum(rest, 1.0), -excess)
            + a * jnp.log1p(k / a)
            + b * jnp.log1p(rest / b)
            - prior * jnp.log1p(n / prior)
            + 0.5 * jnp.log(a / mean * (b / rest_mean) / (prior * posterior))
        )
        for positive, negative in ((k + a, a), (rest + b, b), (prior, posterior)):
            log_mass = log_mass + stirling_correction(positive)
            log_mass = log_mass - stirling_correction(negative)
        return _sum_levels(log_mass, x, self.levels)

    def mean(self, outputs: jax.Array) -> jax.Array:
        a, b = concentrations(self._channels(outputs))
        return (self.levels - 1) * (a / (a + b))

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        probability_key, count_key = jax.random.split(key)
        a, b = concentrations(self._channels(outputs))
        probability = jax.random.beta(probability_key, a, b)
        count = jax.random.binomial(count_key, self.levels - 1, probability)
        return count.astype(jnp.int32)

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        mean = inner_mean(pixel_mean)
        # Var(k / n) = mean (1 - mean) (n + total) / (n (1 + total)), total = a + b.
        n = self.levels - 1
        overdispersion = n * pixel_std**2 / (mean * (1.0 - mean))
        total = (n - overdispersion) / jnp.maximum(overdispersion - 1.0, 1e-3)
        return initial_concentrations(mean, total)


@functools.lru_cache
def _log_binomial_modes(n: int) -> np.ndarray:
    """Returns log(C(n, k) q^k (1 - q)^(n - k)) at q = k / n for k = 0..n."""

    def entropy_term(count: int) -> float:
        return count * math.log(count / n) if count else 0.0

    log_masses = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + entropy_term(k)
        + entropy_term(n - k)
        for k in range(n + 1)
    ]
    return np.asarray(log_masses, np.float32)


def _sum_levels(log_mass: jax.Array, x: jax.Array, levels: int) -> jax.Array:
    """Returns the sum of log-masses over pixels; NaN if a pixel of x is no level.

    Args:
        log_mass: log-masses, ``[..., D]``, nats.
        x: integers, ``[..., D]``.
        levels: number of levels.

    Returns:
        ``[...]``.
    """
    _require_integers(x, levels)
    return sum_pixels(log_mass, (x >= 0) & (x <= levels - 1))


def _require_integers(x: jax.Array, levels: int) -> None:
    """Raises ValueError unless x has an integer type: levels are no intensities."""
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"x is {x.dtype}, but a likelihood of levels is one of integers in [0, "
            f"{levels - 1}]: give the integers, or choose a likelihood of the "
            "continuous view."
        )


def _as_float(x: jax.Array) -> jax.Array:
    """Returns integer levels as float32, which the formulas need."""
    return x.astype(jnp.float32)


def _bin_of(value: jax.Array, levels: int) -> jax.Array:
    """Returns the index (int32) of the bin that a continuous value falls into."""
    return jnp.clip(jnp.floor(value * levels), 0, levels - 1).astype(jnp.int32)


def _mean_from_survival(
    survival: Callable[[jax.Array], jax.Array], levels: int, loc: jax.Array
) -> jax.Array:
    """Returns E[k] = sum_{j=1}^{levels-1} P(k >= j), without an axis for the levels.

    Args:
        survival: maps the lower edge j / levels of a bin to P(k >= j), which has the
            shape of loc.
        levels: number of bins.
        loc: any array with the shape and dtype of the result.
    """

    def add(j: jax.Array, total: jax.Array) -> jax.Array:
        return total + survival(j.astype(loc.dtype) / levels)

    total: jax.Array = jax.lax.fori_loop(1, levels, add, jnp.zeros_like(loc))
    return total


def _shift_to_mean(
    likelihood: Likelihood, outputs: jax.Array, locs: slice, pixel_mean: jax.Array
) -> jax.Array:
    """Returns outputs ``[C, D]`` with locations shifted to give the mean of the data.

    The edge bins absorb the tails, so loc and the mean of k differ near 0 and 1.

    Args:
        likelihood: the likelihood that the outputs belong to.
        outputs: ``[C, D]``, with locations that are roughly right.
        locs: the channels that are locations.
        pixel_mean: wanted mean of k / (levels - 1), ``[D]``.
    """

    def shifted(shift: jax.Array) -> jax.Array:
        return outputs.at[locs].add(shift[None])

    target = (likelihood.levels - 1) * inner_mean(pixel_mean)
    shift = solve_increasing(
        lambda shift: likelihood.mean(shifted(shift)), target, -8.0, 8.0
    )
    return shifted(shift)
