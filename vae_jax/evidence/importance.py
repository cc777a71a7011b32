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


class _Running(NamedTuple):
    """Sums over the samples seen so far, weights relative to the largest."""

    log_max: jax.Array
    weights: jax.Array  # sum exp(log w - log_max)
    squares: jax.Array  # sum exp(2 (log w - log_max))
    reconstruction: jax.Array
    log_ratio: jax.Array  # sum of log q(z|x) - log p(z)


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
    """Importance-weighted estimate of one image's log p(x), in constant memory.

    Samples stream through a compiled loop in chunks. Sample i has a key of its own,
    so the estimate does not depend on the chunk. Burda et al. 2016, eq. 8.

    Args:
        model: the VAE.
        params: its parameters.
        key: the image's key.
        x: one image in the likelihood's view, ``[D]``.
        num_samples: k, the number of importance samples.
        chunk: samples decoded together; what is left over in the last is masked.
        latent_mask: as in ``objectives.posterior_and_noise``.

    Returns:
        Scalars; ``vmap`` over keys and images for more.
    """
    posterior, prior = model.encode(params, x[None]), model.prior(params)
    chunk = min(chunk, num_samples)

    def sample_noise(index):
        noise = jax.random.normal(jax.random.fold_in(key, index), (model.latent_dim,))
        return noise if latent_mask is None else noise * latent_mask

    def add_chunk(index, running):
        samples = index * chunk + jnp.arange(chunk)
        used = samples < num_samples
        noise = jax.vmap(sample_noise)(samples)[:, None]
        z, log_q = posterior.sample_and_log_prob(noise)  # [S, 1, L], [S, 1]
        log_px_z = model.log_likelihood(params, x[None], z)[:, 0]  # [S]
        log_ratio = (log_q - prior.log_prob(z))[:, 0]
        log_weight = jnp.where(used, log_px_z - log_ratio, -jnp.inf)
        log_max = jnp.maximum(running.log_max, log_weight.max())
        rescale = jnp.exp(running.log_max - log_max)
        weight = jnp.exp(log_weight - log_max)
        return _Running(
            log_max,
            running.weights * rescale + weight.sum(),
            running.squares * rescale**2 + (weight**2).sum(),
            running.reconstruction + jnp.where(used, log_px_z, 0.0).sum(),
            running.log_ratio + jnp.where(used, log_ratio, 0.0).sum(),
        )

    zero = jnp.float32(0.0)
    running = jax.lax.fori_loop(
        0,
        -(-num_samples // chunk),
        add_chunk,
        _Running(jnp.float32(-jnp.inf), zero, zero, zero, zero),
    )
    kl = running.log_ratio / num_samples
    if model.has_closed_form_kl:
        kl = model.closed_form_kl(params, posterior).sum()
    return ImportanceEstimate(
        log_px=running.log_max + jnp.log(running.weights) - jnp.log(num_samples),
        reconstruction=running.reconstruction / num_samples,
        kl=kl,
        effective_sample_size=running.weights**2 / running.squares,
        largest_weight=1 / running.weights,
    )
