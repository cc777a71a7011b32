"""Bounds of several samples, which have importance weights.

The log-weight of a sample is log w = log p(x|z) - beta (log q(z|x) - log p(z)), nats.
The reported reconstruction and KL are plain means over the samples.
"""

import abc
import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.checks import Count, Range
from vae_jax.distributions import sample_without_score
from vae_jax.gradients import scale_gradient, with_gradient_of
from vae_jax.objectives.base import Batch, Objective, Terms

# Far below the rounding of a sum of weights; its inverse is still a float32.
_SMALLEST_WEIGHT = 1e-20

# The first point above 0 of the thermodynamic integral.
_FIRST_POINT = 0.01


class WeightedBound(Objective):
    """A bound that is a function of the samples' log-weights alone."""

    weighs_samples: ClassVar[bool] = True

    def terms(self, batch: Batch) -> Terms:
        reconstruction, kl = batch.sampled_log_ratios()
        bound = self.bound(reconstruction - batch.kl_weight * kl)
        return Terms(bound, reconstruction.mean(0), kl.mean(0))

    @abc.abstractmethod
    def bound(self, log_weight: jax.Array) -> jax.Array:
        """Returns the bound ``[batch]`` of log-weights ``[samples, batch]``, nats."""


@dataclasses.dataclass(frozen=True)
class IWAE(WeightedBound):
    """Importance-weighted bound L_k = E[log 1/k sum_i p(x, z_i)/q(z_i|x)].

    Burda et al. 2016, eq. 8; k is ``num_samples`` and one sample gives the ELBO in
    log-weight form.
    """

    def bound(self, log_weight: jax.Array) -> jax.Array:
        return _log_mean_exp(log_weight)


@dataclasses.dataclass(frozen=True)
class DReG(Objective):
    """``IWAE`` with its doubly reparameterized gradient (Tucker et al. 2019).

    The score of q is reparameterized once more, which leaves the gradient unbiased:
    with normalised weights v and beta = 1, the gradient for q's parameters is

        sum_i v_i^2  d log w_i/dz_i  dz_i/dphi.

    For another beta the score is multiplied by beta, and 1 - beta + beta v_i replaces
    one v_i. All other parameters have the gradient of ``IWAE``; one sample gives
    ``STL``.
    """

    weighs_samples: ClassVar[bool] = True

    def terms(self, batch: Batch) -> Terms:
        beta = batch.kl_weight
        samples = sample_without_score(batch.posterior, batch.noise)
        reconstruction, kl = batch.log_ratios(*samples)
        weights = jax.nn.softmax(reconstruction - beta * kl, axis=0)
        # The weights come from the same forward pass, which the compiler runs once.
        scale = jax.lax.stop_gradient(1 - beta * (1 - weights))
        reconstruction, kl = batch.log_ratios(*scale_gradient(samples, scale))
        bound = _log_mean_exp(reconstruction - beta * kl)
        return Terms(bound, reconstruction.mean(0), kl.mean(0))


@dataclasses.dataclass(frozen=True)
class _Grouped(Objective):
    """An objective whose samples fall into groups of equal size."""

    num_groups: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples % self.num_groups:
            raise ValueError(
                f"num_samples is {self.num_samples}: it is not a multiple of "
                f"num_groups, {self.num_groups}. Change one of them."
            )

    def _grouped(self, log_weight: jax.Array) -> jax.Array:
        """Reshapes ``[num_samples, batch]`` to ``[groups, samples of each, batch]``."""
        return log_weight.reshape(self.num_groups, -1, log_weight.shape[-1])


@dataclasses.dataclass(frozen=True)
class MIWAE(_Grouped, WeightedBound):
    """The mean of ``IWAE`` over ``num_groups`` groups of samples.

    It is a bound L_k with k = num_samples / num_groups. Its gradient for q is less
    noisy than with all samples in one group. Rainforth et al. 2018, "Tighter
    variational bounds are not necessarily better".
    """

    def bound(self, log_weight: jax.Array) -> jax.Array:
        return jax.vmap(_log_mean_exp)(self._grouped(log_weight)).mean(0)


@dataclasses.dataclass(frozen=True)
class CIWAE(WeightedBound):
    """``mixing`` times the ELBO plus ``1 - mixing`` times ``IWAE``, of equal samples.

    Rainforth et al. 2018; ``mixing`` in [0, 1].
    """

    mixing: Annotated[float, Range(at_least=0, at_most=1)] = 0.0

    def bound(self, log_weight: jax.Array) -> jax.Array:
        iwae = _log_mean_exp(log_weight)
        return self.mixing * log_weight.mean(0) + (1 - self.mixing) * iwae


@dataclasses.dataclass(frozen=True)
class PIWAE(_Grouped):
    """``IWAE`` with the gradient of ``MIWAE`` for q, of the same samples.

    The value is the tighter bound, ``IWAE``, and the decoder and the prior have its
    gradient. Rainforth et al. 2018.
    """

    weighs_samples: ClassVar[bool] = True

    def terms(self, batch: Batch) -> Terms:
        beta = batch.kl_weight
        samples = batch.posterior.sample_and_log_prob(batch.noise)
        reconstruction, kl = batch.log_ratios(*samples)
        log_weight = reconstruction - beta * kl
        # Clipped so that dividing by the weights is safe.
        weights = jnp.maximum(jax.nn.softmax(log_weight, axis=0), _SMALLEST_WEIGHT)
        of_groups = jax.nn.softmax(self._grouped(log_weight), axis=1) / self.num_groups
        weights, scale = jax.lax.stop_gradient(
            (weights, of_groups.reshape(weights.shape) / weights)
        )
        ratios = batch.log_ratios(*scale_gradient(samples, scale))
        surrogate = (weights * (ratios[0] - beta * ratios[1])).sum(0)
        bound = with_gradient_of(surrogate, _log_mean_exp(log_weight))
        return Terms(bound, reconstruction.mean(0), kl.mean(0))


@dataclasses.dataclass(frozen=True)
class Renyi(WeightedBound):
    """Variational Renyi bound: log of the mean of w^(1 - alpha), over 1 - alpha.

    Li & Turner 2016. It falls with ``alpha``: 0 gives ``IWAE``, 1 by continuity
    the ELBO in log-weight form. Below 0 its exact value is an upper bound on log p(x),
    though with few samples the estimate is smaller in expectation.
    """

    alpha: Annotated[float, Range()] = 0.0

    def bound(self, log_weight: jax.Array) -> jax.Array:
        return _log_power_mean(log_weight, 1 - self.alpha)


@dataclasses.dataclass(frozen=True)
class Thermodynamic(Objective):
    """Thermodynamic variational objective (Masrani et al. 2019).

    log p(x) is the integral over t from 0 to 1 of E_t[log w], the expectation under
    pi_t proportional to q(z|x) w^t. The expectation rises with t, so the left Riemann
    sum over ``partitions`` intervals is a lower bound: with one the ELBO, and with more
    a tighter one. The points are 0 and then, in equal ratios, 0.01 up to 1.
    Expectations are self-normalised importance estimates from the same samples; their
    sum is never above the ``IWAE`` of these samples.

    The gradient is that of these expectations. It has a covariance under pi_t, so it
    needs at least two samples:

        d E_t[f] = E_t[df] + Cov_t(d log pi~_t, f),   log pi~_t = log q + t log w,

    which holds z fixed. It is unbiased with one partition, otherwise as the number of
    samples grows.
    """

    num_samples: Count = 2
    partitions: Count = 1

    fewest_samples: ClassVar[int] = 2
    weighs_samples: ClassVar[bool] = True

    def terms(self, batch: Batch) -> Terms:
        z = jax.lax.stop_gradient(batch.posterior.sample(batch.noise))
        log_q = batch.posterior.log_prob(z)
        reconstruction, kl = batch.log_ratios(z, log_q)
        log_weight = reconstruction - batch.kl_weight * kl  # [S, B]

        exponents = np.arange(self.partitions)[::-1] / max(self.partitions - 1, 1)
        edges = np.concatenate([[0.0], _FIRST_POINT**exponents])
        points, widths = (
            jnp.asarray(values, log_weight.dtype)[:, None, None]
            for values in (edges[:-1], np.diff(edges))
        )
        weights = jax.nn.softmax(points * log_weight[None], axis=1)  # [T, S, B]
        means = (weights * log_weight[None]).sum(1, keepdims=True)  # [T, 1, B]
        # As for a sample covariance: the mean is estimated from the same samples.
        unbiased = self.num_samples / (self.num_samples - 1)
        deviations = unbiased * weights * (log_weight[None] - means)
        on_log_weight, on_log_q = jax.lax.stop_gradient(
            (
                (widths * (weights + points * deviations)).sum(0),
                (widths * deviations).sum(0),
            )
        )
        surrogate = (on_log_weight * log_weight + on_log_q * log_q).sum(0)
        bound = with_gradient_of(surrogate, (widths * means).sum((0, 1)))
        return Terms(bound, reconstruction.mean(0), kl.mean(0))


def _log_mean_exp(log_weight: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(log_weight, axis=0) - jnp.log(log_weight.shape[0])


def _log_power_mean(log_weight: jax.Array, power: float) -> jax.Array:
    """Returns log(mean(w^power)) / power over axis 0; at power 0 the mean of log w."""
    if power == 0:
        return log_weight.mean(0)
    largest = (log_weight.max if power > 0 else log_weight.min)(axis=0, keepdims=True)
    largest = jax.lax.stop_gradient(largest)
    # expm1 loses no digits at a power near 0.
    excess = jnp.expm1(power * (log_weight - largest)).mean(0)
    return largest[0] + jnp.log1p(excess) / power
