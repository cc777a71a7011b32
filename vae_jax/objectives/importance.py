"""Bounds of several samples that count by their importance weights.

A sample's log-weight is log w = log p(x|z) - beta (log q(z|x) - log p(z)), nats. The
reconstruction and KL that are reported are plain means over the samples.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions import sample_without_score
from vae_jax.gradients import scale_gradient, with_gradient_of
from vae_jax.model import VAE, Params
from vae_jax.objectives.interface import (
    Terms,
    log_ratios,
    posterior_and_noise,
    sampled_log_ratios,
)

# Far below the rounding of a sum of weights; its inverse is still a float32.
_SMALLEST_WEIGHT = 1e-20

# The first point above 0 of the thermodynamic integral.
_FIRST_POINT = 0.01


def iwae(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
) -> Terms:
    """Importance-weighted bound L_k = E[log 1/k sum_i p(x, z_i)/q(z_i|x)].

    Burda et al. 2016, eq. 8; k is ``num_samples`` and one sample gives the ELBO in
    log-weight form.
    """
    reconstruction, kl = sampled_log_ratios(
        model, params, key, x, num_samples, latent_mask
    )
    bound = _log_mean_exp(reconstruction - beta * kl)
    return Terms(bound, reconstruction.mean(0), kl.mean(0))


def dreg(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
) -> Terms:
    """``iwae`` with its doubly reparameterized gradient (Tucker et al. 2019).

    The score of q is reparameterized once more, which leaves the gradient unbiased:
    with normalised weights v, that of q's parameters is, for beta = 1,

        sum_i v_i^2  d log w_i/dz_i  dz_i/dphi.

    For another beta the score comes beta times, and 1 - beta + beta v_i
    takes the place of one v_i. All other parameters have the gradient of ``iwae``; one
    sample gives ``stl``.
    """
    posterior, noise = posterior_and_noise(
        model, params, key, x, num_samples, latent_mask
    )
    samples = sample_without_score(posterior, noise)
    reconstruction, kl = log_ratios(model, params, x, *samples)
    weights = jax.nn.softmax(reconstruction - beta * kl, axis=0)
    # The weights come of the same forward pass, which a compiler does once.
    scale = jax.lax.stop_gradient(1 - beta * (1 - weights))
    reconstruction, kl = log_ratios(model, params, x, *scale_gradient(samples, scale))
    bound = _log_mean_exp(reconstruction - beta * kl)
    return Terms(bound, reconstruction.mean(0), kl.mean(0))


def miwae(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
    num_groups: int = 1,
) -> Terms:
    """The mean over ``num_groups`` groups of samples of each one's ``iwae``.

    A bound L_k with k = num_samples / num_groups, whose gradient for q is less noisy
    than that of more weights. Rainforth et al. 2018, "Tighter variational bounds are
    not necessarily better".

    Raises:
        ValueError: groups of different sizes.
    """
    reconstruction, kl = sampled_log_ratios(
        model, params, key, x, num_samples, latent_mask
    )
    groups = _grouped(reconstruction - beta * kl, num_groups)
    bound = jax.vmap(_log_mean_exp)(groups).mean(0)
    return Terms(bound, reconstruction.mean(0), kl.mean(0))


def ciwae(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
    mixing: float = 0.0,
) -> Terms:
    """``mixing`` times the ELBO and the rest of ``iwae``, of the same samples.

    Rainforth et al. 2018; ``mixing`` in [0, 1].

    Raises:
        ValueError: another ``mixing``.
    """
    if not 0 <= mixing <= 1:
        raise ValueError(f"mixing={mixing} is no share: set it within [0, 1].")
    reconstruction, kl = sampled_log_ratios(
        model, params, key, x, num_samples, latent_mask
    )
    log_weight = reconstruction - beta * kl
    bound = mixing * log_weight.mean(0) + (1 - mixing) * _log_mean_exp(log_weight)
    return Terms(bound, reconstruction.mean(0), kl.mean(0))


def piwae(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
    num_groups: int = 1,
) -> Terms:
    """``iwae`` with a gradient for q of ``miwae``, both of the same samples.

    The decoder and the prior have the gradient of the tighter bound, which is the
    value. Rainforth et al. 2018.

    Raises:
        ValueError: groups of different sizes.
    """
    posterior, noise = posterior_and_noise(
        model, params, key, x, num_samples, latent_mask
    )
    samples = posterior.sample_and_log_prob(noise)
    reconstruction, kl = log_ratios(model, params, x, *samples)
    log_weight = reconstruction - beta * kl
    # What q's weights are divided by here and multiplied with below.
    weights = jnp.maximum(jax.nn.softmax(log_weight, axis=0), _SMALLEST_WEIGHT)
    of_groups = jax.nn.softmax(_grouped(log_weight, num_groups), axis=1) / num_groups
    weights, scale = jax.lax.stop_gradient(
        (weights, of_groups.reshape(weights.shape) / weights)
    )
    ratios = log_ratios(model, params, x, *scale_gradient(samples, scale))
    surrogate = (weights * (ratios[0] - beta * ratios[1])).sum(0)
    bound = with_gradient_of(surrogate, _log_mean_exp(log_weight))
    return Terms(bound, reconstruction.mean(0), kl.mean(0))


def renyi(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
    alpha: float = 0.0,
) -> Terms:
    """Variational Renyi bound: log of the mean of w^(1 - alpha), over 1 - alpha.

    Li & Turner 2016. It falls with ``alpha``: 0 gives ``iwae``, 1 by continuity
    the ELBO in log-weight form. Below 0 its exact value is an upper bound on log p(x),
    though with few samples the estimate is smaller in expectation.
    """
    reconstruction, kl = sampled_log_ratios(
        model, params, key, x, num_samples, latent_mask
    )
    bound = _log_power_mean(reconstruction - beta * kl, 1 - alpha)
    return Terms(bound, reconstruction.mean(0), kl.mean(0))


def thermodynamic(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 2,
    latent_mask: jax.Array | None = None,
    partitions: int = 1,
) -> Terms:
    """Thermodynamic variational objective (Masrani et al. 2019).

    log p(x) is the integral over t from 0 to 1 of E_t[log w], the expectation under
    pi_t proportional to q(z|x) w^t. It rises with t, so that the left Riemann sum over
    ``partitions`` intervals is a lower bound: with one the ELBO, and with more a
    tighter one. The points are 0 and then, in equal ratios, 0.01 up to 1. Expectations
    are self-normalised importance estimates of the same samples, whose sum is never
    above their ``iwae``.

    The gradient is theirs, a covariance under pi_t:

        d E_t[f] = E_t[df] + Cov_t(d log pi~_t, f),   log pi~_t = log q + t log w,

    which holds z fixed. It is unbiased with one partition, otherwise as the number of
    samples grows.

    Raises:
        ValueError: fewer than two samples, which have no covariance, or no partition.
    """
    if num_samples < 2:
        raise ValueError(
            f"num_samples={num_samples} is too few for a covariance over samples: set "
            "num_samples to 2 or more."
        )
    if partitions < 1:
        raise ValueError(f"partitions={partitions} is no sum: set it to 1 or more.")
    posterior, noise = posterior_and_noise(
        model, params, key, x, num_samples, latent_mask
    )
    z = jax.lax.stop_gradient(posterior.sample(noise))
    log_q = posterior.log_prob(z)
    reconstruction, kl = log_ratios(model, params, x, z, log_q)
    log_weight = reconstruction - beta * kl  # [S, B]

    exponents = np.arange(partitions)[::-1] / max(partitions - 1, 1)
    edges = np.concatenate([[0.0], _FIRST_POINT**exponents])
    points, widths = (
        jnp.asarray(values, log_weight.dtype)[:, None, None]
        for values in (edges[:-1], np.diff(edges))
    )
    weights = jax.nn.softmax(points * log_weight[None], axis=1)  # [T, S, B]
    means = (weights * log_weight[None]).sum(1, keepdims=True)  # [T, 1, B]
    # The mean is of the same samples: as for a sample covariance.
    unbiased = num_samples / (num_samples - 1)
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
    """log(mean(w^power)) / power over axis 0; the mean of log w where power is 0."""
    if power == 0:
        return log_weight.mean(0)
    largest = (log_weight.max if power > 0 else log_weight.min)(axis=0, keepdims=True)
    largest = jax.lax.stop_gradient(largest)
    # Through expm1, so that a power near 0 costs no digits.
    excess = jnp.expm1(power * (log_weight - largest)).mean(0)
    return largest[0] + jnp.log1p(excess) / power


def _grouped(log_weight: jax.Array, num_groups: int) -> jax.Array:
    """``[num_samples, batch]`` as ``[groups, samples of each, batch]``."""
    num_samples = log_weight.shape[0]
    if num_samples % num_groups:
        raise ValueError(
            f"num_samples={num_samples} is not a multiple of num_groups={num_groups}: "
            "change one of them."
        )
    return log_weight.reshape(num_groups, num_samples // num_groups, -1)
