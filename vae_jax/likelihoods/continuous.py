"""Likelihoods of the continuous view: densities of x = (k + u) / levels in [0, 1].

Such a log-density, averaged over the noise u, minus D log(levels) is a lower bound on
the log-mass of the integers k (Theis, van den Oord and Bethge 2016, section 3.1). This
puts all families here and in ``levels`` on one scale.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from vae_jax.checks import Range
from vae_jax.likelihoods.interface import Likelihood, View, inner_mean
from vae_jax.likelihoods.numerics import (
    LOG_SQRT_2PI,
    align,
    bounded_exp,
    bounded_log,
    log_ratio,
    magnitude,
    polynomial,
    solve_increasing,
    stirling_correction,
    sum_pixels,
)

GAUSSIAN_SCALES = ("shared", "pixel", "optimal")

# A narrower start would make the first, random, reconstructions astronomically
# unlikely at pixels that hardly vary in the data.
MIN_INITIAL_STD = 0.05

# Below the lower bound, x^(alpha - 1) is a spike at 0. Above the upper bound, the
# distribution is narrower than one of 256 levels.
CONCENTRATION_BOUNDS = (1e-3, 1e4)

# The series of log(sinh(t/2) / (t/2)) in powers of t^2, and of its derivative divided
# by t. For |t| < 1 the errors are below 3e-9.
_LOG_SINHC = (0.0, 1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800)
_LOG_SINHC_SLOPE = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160)


class _Gaussian(Likelihood):
    """p(x) = exp(-(x - loc)^2 / (2 s^2)) / (s sqrt(2 pi)), a density.

    The first output is loc itself, with no squashing, so that a linear decoder is
    exactly probabilistic PCA (Tipping and Bishop 1999). The scale s is in units of x.
    """

    view: ClassVar[View] = "continuous"

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-density ``[...]`` of images x ``[..., D]``, in nats."""
        loc, scale, x = align(*self._loc_scale(outputs), x)
        standardised = (x - loc) / scale
        log_density = -0.5 * standardised**2 - jnp.log(scale) - LOG_SQRT_2PI
        return jnp.sum(log_density, axis=-1)

    def mean(self, outputs: jax.Array) -> jax.Array:
        return self._channels(outputs)[0]

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        loc, scale = self._loc_scale(outputs)
        return loc + scale * jax.random.normal(key, loc.shape)

    @abc.abstractmethod
    def _loc_scale(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns loc and scale, each ``[..., D]``, of outputs ``[..., C, D]``."""


@dataclasses.dataclass(frozen=True)
class FixedGaussian(_Gaussian):
    """Gaussian with a constant scale.

    Attributes:
        fixed_scale: the standard deviation, in units of x.
    """

    fixed_scale: Annotated[float, Range(above=0)] = 0.1

    @property
    def pixel_outputs(self) -> int:
        return 1

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        loc, _ = self._continuous_moments(pixel_mean, pixel_std)
        return loc[None]

    def _loc_scale(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        (loc,) = self._channels(outputs)
        return loc, jnp.full_like(loc, self.fixed_scale)


@dataclasses.dataclass(frozen=True)
class Gaussian(_Gaussian):
    """Gaussian with a scale that is fitted to the data.

    - 'shared': one parameter for all pixels, learned by gradient;
    - 'pixel': an output of the decoder for each pixel;
    - 'optimal': one parameter for all pixels, set to its maximum-likelihood value by
      ``optimal_shared`` (optimal sigma-VAE; Rybkin, Daniilidis and Levine 2021). Within
      ``log_prob`` it is a parameter like any other, so p(x | z) stays a density.

    Parameters are log-scales; ``bounded_exp`` maps them to scales in (1e-5, 1e5).

    Attributes:
        scale: one of ``GAUSSIAN_SCALES``.
    """

    scale: Annotated[str, GAUSSIAN_SCALES] = "shared"

    @property
    def pixel_outputs(self) -> int:
        return 2 if self.scale == "pixel" else 1

    @property
    def shared_outputs(self) -> int:
        return 2 - self.pixel_outputs

    @property
    def fits_shared(self) -> bool:
        return self.scale == "optimal"

    @property
    def has_readout(self) -> bool:
        return self.scale == "pixel"

    def readout(self, mean: jax.Array, std: jax.Array) -> jax.Array:
        """See ``Likelihood``; only with a scale for each pixel."""
        if not self.has_readout:
            return super().readout(mean, std)
        loc, scale = self._continuous_units(mean, std)
        return jnp.stack([loc, bounded_log(scale)], axis=-2)

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        loc, std = self._continuous_moments(pixel_mean, pixel_std)
        return jnp.stack([loc, bounded_log(jnp.maximum(std, MIN_INITIAL_STD))])

    def optimal_shared(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-scale ``[1]`` whose scale is the RMS of x - loc.

        Args:
            outputs: ``[..., C, D]``; only loc is read.
            x: data, ``[..., D]``; the mean is over all axes.
        """
        if not self.fits_shared:
            return super().optimal_shared(outputs, x)
        loc, x = align(self.mean(outputs), x)
        return bounded_log(jnp.sqrt(jnp.mean((x - loc) ** 2)))[None]

    def _loc_scale(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        loc, log_scale = self._channels(outputs)
        return loc, bounded_exp(log_scale)


@dataclasses.dataclass(frozen=True)
class Laplace(Likelihood):
    """Laplace: p(x) = exp(-|x - loc| / s) / (2 s), a density.

    There are two outputs per pixel: loc, and the log-scale, which ``bounded_exp`` maps
    to a scale in (1e-5, 1e5). Both are in units of x. The best loc is the median of the
    data, so the absolute error is the natural distance.
    """

    view: ClassVar[View] = "continuous"

    @property
    def pixel_outputs(self) -> int:
        return 2

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-density ``[...]`` of images x ``[..., D]``, in nats."""
        loc, log_scale, x = align(*self._channels(outputs), x)
        scale = bounded_exp(log_scale)
        return -jnp.sum(magnitude(x - loc) / scale + jnp.log(2.0 * scale), axis=-1)

    def mean(self, outputs: jax.Array) -> jax.Array:
        return self._channels(outputs)[0]

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        loc, log_scale = self._channels(outputs)
        return loc + bounded_exp(log_scale) * jax.random.laplace(key, loc.shape)

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        loc, std = self._continuous_moments(pixel_mean, pixel_std)
        scale = jnp.maximum(std, MIN_INITIAL_STD) / math.sqrt(2.0)
        return jnp.stack([loc, bounded_log(scale)])


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    """Continuous Bernoulli: p(x) = eta e^(eta x) / (e^eta - 1), a density on [0, 1].

    There is one output per pixel, the natural parameter eta = logit(lambda), where
    lambda is the parameter of Loaiza-Ganem and Cunningham 2019. In eta the density is a
    truncated exponential. At eta = 0, a removable singularity, it is uniform.
    ``log_prob`` is NaN for x outside [0, 1].
    """

    view: ClassVar[View] = "continuous"

    @property
    def pixel_outputs(self) -> int:
        return 1

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-density ``[...]`` of images x ``[..., D]``, in nats."""
        eta, x = align(*self._channels(outputs), x)
        # The density is symmetric under (eta, x) -> (-eta, 1 - x). Away from eta = 0,
        # this form has an exponent that is never positive.
        near_zero = jnp.abs(eta) < 1.0
        small = jnp.where(near_zero, eta, 0.0)
        large = jnp.where(near_zero, 1.0, jnp.abs(eta))
        near = small * (x - 0.5) - polynomial(small * small, _LOG_SINHC)
        exponent = jnp.where(eta > 0, eta * (x - 1.0), eta * x)
        far = exponent + jnp.log(large / (1.0 - jnp.exp(-large)))
        return sum_pixels(jnp.where(near_zero, near, far), (x >= 0) & (x <= 1))

    def mean(self, outputs: jax.Array) -> jax.Array:
        (eta,) = self._channels(outputs)
        return _continuous_bernoulli_mean(eta)

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        (eta,) = self._channels(outputs)
        # This is the inverse distribution function for eta < 0, a decreasing density.
        rate = jnp.maximum(jnp.abs(eta), 1e-6)
        u = jax.random.uniform(key, eta.shape)
        x = jnp.clip(-jnp.log1p(u * jnp.expm1(-rate)) / rate, 0.0, 1.0)
        return jnp.where(eta > 0, 1.0 - x, x)

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        mean, _ = self._continuous_moments(pixel_mean, pixel_std)
        limit = 2e3  # The mean at eta = -limit is 1 / limit, inside the margin.
        return solve_increasing(
            _continuous_bernoulli_mean, inner_mean(mean), -limit, limit
        )[None]


def _continuous_bernoulli_mean(eta: jax.Array) -> jax.Array:
    """Returns 1 / (1 - e^-eta) - 1 / eta, elementwise, for eta of any shape."""
    near_zero = jnp.abs(eta) < 1.0
    small = jnp.where(near_zero, eta, 0.0)
    large = jnp.where(near_zero, 1.0, eta)
    near = 0.5 + small * polynomial(small * small, _LOG_SINHC_SLOPE)
    size = jnp.abs(large)
    below = 1.0 / size + jnp.exp(-size) / jnp.expm1(-size)
    far = jnp.where(large > 0, 1.0 - below, below)
    return jnp.where(near_zero, near, far)


@dataclasses.dataclass(frozen=True)
class Beta(Likelihood):
    """Beta: x' ~ Beta(alpha, beta), x' = eps / 2 + (1 - eps) x; a density of x.

    p(x) = (1 - eps) x'^(alpha - 1) (1 - x')^(beta - 1) / B(alpha, beta)

    There are two outputs per pixel: log(alpha) and log(beta). ``bounded_exp`` maps them
    to concentrations in (1e-3, 1e4). Pixels of exactly 0 or 1 have density 0 or
    infinity under a Beta; squeezing moves them inside. With eps = 1e-4, a fortieth of
    one of 256 levels, the data keep their shape while log x' stays above -10. The
    support is wider than [0, 1] by eps / 2 on each side. x never lies there, so log p
    can only be too low. ``sample`` is clipped to [0, 1].

    The method is that of Loader 2000 ("Fast and accurate computation of binomial
    probabilities"): the deviance of x' from the mean alpha / (alpha + beta), and
    Stirling corrections. It does not subtract large numbers if concentrations are
    large.
    """

    view: ClassVar[View] = "continuous"
    eps: ClassVar[float] = 1e-4
    # Samples of x' within eps / 2 of 0 or 1 become pixels of exactly 0 or 1.
    samples_its_density: ClassVar[bool] = False

    @property
    def pixel_outputs(self) -> int:
        return 2

    def log_prob(self, outputs: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the log-density ``[...]`` of images x ``[..., D]``, in nats."""
        alpha, beta, x = align(*concentrations(self._channels(outputs)), x)
        total = alpha + beta
        # Both are computed from x, because 1 - x is exact near 1.
        squeezed = 0.5 * self.eps + (1.0 - self.eps) * x
        complement = 0.5 * self.eps + (1.0 - self.eps) * (1.0 - x)
        excess = (squeezed * beta - complement * alpha) / total
        log_density = (
            alpha * log_ratio(squeezed, alpha / total, excess)
            + beta * log_ratio(complement, beta / total, -excess)
            + 0.5 * jnp.log(alpha / total * beta)
            - jnp.log(squeezed * complement)
            + stirling_correction(total)
            - stirling_correction(alpha)
            - stirling_correction(beta)
            + (math.log1p(-self.eps) - LOG_SQRT_2PI)
        )
        return jnp.sum(log_density, axis=-1)

    def mean(self, outputs: jax.Array) -> jax.Array:
        alpha, beta = concentrations(self._channels(outputs))
        return self._unsqueeze(alpha / (alpha + beta))

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        alpha, beta = concentrations(self._channels(outputs))
        squeezed = jax.random.beta(key, alpha, beta)
        return jnp.clip(self._unsqueeze(squeezed), 0.0, 1.0)

    def initial_outputs(self, pixel_mean: jax.Array, pixel_std: jax.Array) -> jax.Array:
        mean, std = self._continuous_moments(pixel_mean, pixel_std)
        mean = 0.5 * self.eps + (1.0 - self.eps) * inner_mean(mean)
        total = mean * (1.0 - mean) / std**2 - 1.0
        return initial_concentrations(mean, total)

    def _unsqueeze(self, squeezed: jax.Array) -> jax.Array:
        return (squeezed - 0.5 * self.eps) / (1.0 - self.eps)


def concentrations(channels: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns alpha and beta, each ``[..., D]``, of the decoder's two outputs."""
    return [bounded_exp(channel, CONCENTRATION_BOUNDS) for channel in channels]


def initial_concentrations(mean: jax.Array, total: jax.Array) -> jax.Array:
    """Returns the outputs log(alpha), log(beta) ``[2, D]`` of a Beta with a given mean.

    Args:
        mean: ``[D]``, inside (0, 1).
        total: ``[D]``, the wanted alpha + beta. It is raised if alpha or beta would be
            so small that the density is only spikes, and lowered if the density would
            be too narrow for a start.
    """
    total = jnp.clip(total, 0.1 / jnp.minimum(mean, 1.0 - mean), 1e3)
    initial = jnp.stack([mean * total, (1.0 - mean) * total])
    return bounded_log(initial, CONCENTRATION_BOUNDS)
