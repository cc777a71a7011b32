"""Objectives that see the aggregated posterior q(z), the mean of q(z|x) over images.

They estimate it from the batch, so that an image's terms depend on its company. One
image alone says nothing of q(z): its bound is then the ELBO.
"""

import jax
import jax.numpy as jnp

from vae_jax.distributions import DiagonalGaussian
from vae_jax.mmd import squared_mmd
from vae_jax.model import VAE, Params
from vae_jax.objectives.interface import Terms, log_ratios, posterior_and_noise


def beta_tc(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
    num_images: int | None = None,
) -> Terms:
    """ELBO whose total correlation KL(q(z) || prod_l q(z_l)) counts ``beta`` times.

    The average KL is index-code mutual information, total correlation and
    dimension-wise KL (Chen et al. 2018, eq. 2), of which beta weighs the second alone
    (their eq. 4 with alpha = gamma = 1). The sum of the three is in closed form here,
    so the bound is reconstruction - KL - (beta - 1) TC. At a beta of 0, where its
    warm-up begins, the other two parts already count in full.

    In the batch q(z) is estimated for z of image n as q(z|x_n) / N and, for the other
    N - 1, the batch's mean: unbiased, as is the stratified estimator of their appendix
    C.2, of which this is the mean over the order of the batch. Its logarithm lies below
    log q(z) on average. With the whole set as batch, it is exact.

    Args:
        model: the VAE, of diagonal posterior.
        params: its parameters.
        key: a typed key.
        x: images in the likelihood's view, ``[batch, D]``.
        beta: weight of the total correlation.
        num_samples: samples per image.
        latent_mask: as in ``posterior_and_noise``; padding contributes exactly 0.
        num_images: N, of the training set; at least the batch.

    Raises:
        ValueError: another posterior, or no number of images or too small a one.
    """
    batch = x.shape[0]
    posterior, noise = posterior_and_noise(
        model, params, key, x, num_samples, latent_mask
    )
    if not isinstance(posterior, DiagonalGaussian):
        raise ValueError(
            f"{type(posterior).__name__} has dependent latents: for 'beta_tc' choose "
            "the posterior 'diagonal'."
        )
    z = posterior.sample(noise)
    reconstruction = model.log_likelihood(params, x, z).mean(0)
    kl = model.closed_form_kl(params, posterior).sum(-1)
    bound = reconstruction - kl
    if batch > 1:
        if num_images is None or num_images < batch:
            raise ValueError(
                f"num_images={num_images} is no number of training images for a batch "
                f"of {batch}: give one that is at least that."
            )
        mask = jnp.ones(z.shape[-1:]) if latent_mask is None else latent_mask
        correlation = jax.vmap(_total_correlation, (0, None, None, None))(
            z, posterior, mask, num_images
        )
        bound = bound - (beta - 1) * correlation.mean(0)
    return Terms(bound, reconstruction, kl)


def mmd(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
    mmd_weight: float = 0.0,
) -> Terms:
    """``elbo_log_weight`` less ``mmd_weight`` times MMD^2(q(z), p(z)).

    The squared maximum mean discrepancy of the batch's samples, one per image, from as
    many of the prior: the unbiased U-statistic (Gretton et al. 2012, Lemma 6) under the
    inverse multiquadratic kernel 2 L / (2 L + |y - z|^2), L latents, of Tolstikhin et
    al. 2018, section 4 (WAE-MMD, which is beta = 0). InfoVAE (Zhao et al. 2019) has
    beta = 1 - alpha and mmd_weight = alpha + lambda - 1. It is the same number for all
    images, between -2 and 2, so that useful weights are large. A learned prior has its
    gradient as far as its samples move with its parameters.
    """
    posterior, noise = posterior_and_noise(
        model, params, key, x, num_samples, latent_mask
    )
    z, log_q = posterior.sample_and_log_prob(noise)
    reconstruction, kl = (
        ratio.mean(0) for ratio in log_ratios(model, params, x, z, log_q)
    )
    bound = reconstruction - beta * kl
    batch = x.shape[0]
    if batch > 1:
        prior_key = jax.random.fold_in(key, 0)
        drawn = model.prior(params).sample(prior_key, num_samples * batch)
        num_latents: jax.Array | int = z.shape[-1]
        if latent_mask is not None:
            drawn, num_latents = drawn * latent_mask[None], latent_mask.sum()
        drawn = drawn.reshape(z.shape)
        pooled = jnp.concatenate([z, drawn], axis=1)  # [S, 2 B, L]
        discrepancy = jax.vmap(_prior_mmd, (0, None))(pooled, num_latents).mean()
        bound = bound - mmd_weight * discrepancy
    return Terms(bound, reconstruction, kl)


def _total_correlation(
    z: jax.Array, posterior: DiagonalGaussian, mask: jax.Array, num_images: int
) -> jax.Array:
    """log q(z) - sum_l log q(z_l) of one sample per image ``[batch, latent]``."""
    batch = len(z)
    log_q = jax.scipy.stats.norm.logpdf(
        z[:, None], posterior.mean[None], jnp.exp(posterior.log_scale)[None]
    )  # [B, B, L]: of image n's sample, under the posterior of image m
    log_q = log_q * mask[None, None]
    others = (num_images - 1) / (num_images * (batch - 1))
    weights = jnp.where(jnp.eye(batch, dtype=bool), 1 / num_images, others)
    joint = jax.nn.logsumexp(log_q.sum(-1), axis=1, b=weights)  # [B]
    marginals = jax.nn.logsumexp(
        log_q, axis=1, b=jnp.broadcast_to(weights[..., None], log_q.shape)
    )
    return joint - (marginals * mask[None]).sum(-1)


def _prior_mmd(pooled: jax.Array, num_latents: jax.Array | int) -> jax.Array:
    """Squared MMD of the first half of ``[2 batch, latent]`` from the second."""
    distances = ((pooled[:, None] - pooled[None]) ** 2).sum(-1)
    kernel = 2 * num_latents / (2 * num_latents + distances)
    batch = len(pooled) // 2
    in_first = (jnp.arange(2 * batch) < batch).astype(kernel.dtype)
    return squared_mmd(kernel, in_first[None], batch)[0]
