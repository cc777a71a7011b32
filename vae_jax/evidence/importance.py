"""Estimates of log p(x), per image, in nats."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.model import VAE, Params


class ImportanceEstimate(NamedTuple):
    """What k samples of q(z|x) say of one image (or of each of several)."""

    log_px: jax.Array  # log 1/k sum_i w_i; its expectation is L_k <= log p(x), nats
    reconstruction: jax.Array  # mean of log p(x|z_i), nats
    kl: jax.Array  # KL(q(z|x) || p(z)), nats: in closed form where there is one
    effective_sample_size: jax.Array  # (sum w)^2 / sum w^2, between 1 and k
    largest_weight: jax.Array  # largest normalised weight, between 1/k and 1


def importance_estimate(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    num_samples: int,
    chunk: int,
    latent_mask: jax.Array | None = None,
) -> ImportanceEstimate:
    """Importance-weighted estimate of one image's log p(x). Burda et al. 2016, eq. 8.

    Samples stream through a compiled loop in chunks and leave two numbers each, which
    are averaged once all are there. Sample i has a key of its own, so the estimate
    depends on the chunk only as far as the networks round in products of another size:
    in float32 a few units of its last place (0.0005 nats of an estimate near -4500).

    Args:
        model: the VAE.
        params: its parameters.
        key: the image's key.
        x: one image in the likelihood's view, ``[D]``.
        num_samples: k, the number of importance samples.
        chunk: samples decoded together; bounds the memory. What is left over in the
            last is computed, and not used.
        latent_mask: as in ``objectives.posterior_and_noise``.

    Returns:
        Scalars; ``vmap`` over keys and images for more.
    """
    posterior, prior = model.encode(params, x[None]), model.prior(params)
    chunk = min(chunk, num_samples)

    def sample_noise(index):
        noise = jax.random.normal(jax.random.fold_in(key, index), (model.latent_dim,))
        return noise if latent_mask is None else noise * latent_mask

    def one_chunk(samples):
        noise = jax.vmap(sample_noise)(samples)[:, None]
        z, log_q = posterior.sample_and_log_prob(noise)  # [S, 1, L], [S, 1]
        log_px_z = model.log_likelihood(params, x[None], z)  # [S, 1]
        return log_px_z[:, 0], (log_q - prior.log_prob(z))[:, 0]

    samples = jnp.arange(-(-num_samples // chunk) * chunk).reshape(-1, chunk)
    log_px_z, log_ratio = (
        values.reshape(-1)[:num_samples] for values in jax.lax.map(one_chunk, samples)
    )
    log_weight = log_px_z - log_ratio
    kl = _mean(log_ratio)
    if model.has_closed_form_kl:
        kl = model.closed_form_kl(params, posterior).sum()
    share = jax.nn.softmax(log_weight)
    return ImportanceEstimate(
        log_px=jax.nn.logsumexp(log_weight) - jnp.log(num_samples),
        reconstruction=_mean(log_px_z),
        kl=kl,
        effective_sample_size=1 / (share**2).sum(),
        largest_weight=share.max(),
    )


def _mean(values: jax.Array) -> jax.Array:
    """Rounded as the distances between the values are, and not as their sum is."""
    return values[0] + (values - values[0]).mean()
