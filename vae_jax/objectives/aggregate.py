"""Objectives that see the aggregated posterior q(z), the mean of q(z|x) over images.

They estimate q(z) from the batch, so the terms of an image depend on the other images.
One image alone gives no estimate of q(z): its bound is then the ELBO.
"""

import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from vae_jax.checks import Range
from vae_jax.distributions import DiagonalGaussian
from vae_jax.mmd import squared_mmd
from vae_jax.objectives.base import Batch, Objective, Terms


@dataclasses.dataclass(frozen=True)
class BetaTC(Objective):
    """ELBO whose total correlation KL(q(z) || prod_l q(z_l)) counts ``beta`` times.

    The average KL is index-code mutual information, total correlation and
    dimension-wise KL (Chen et al. 2018, eq. 2), and beta weighs only the second one
    (their eq. 4 with alpha = gamma = 1). The sum of the three is in closed form here,
    so the bound is reconstruction - KL - (beta - 1) TC. When the warm-up begins, at
    beta = 0, the other two parts already count in full.

    For a sample z of image n, q(z) is estimated from the batch: q(z|x_n) has the weight
    1 / N, and the mean over the other images of the batch stands for the other N - 1
    training images. The estimate is unbiased: it is the stratified estimator of their
    appendix C.2, averaged over the order of the batch. Its logarithm is below log q(z)
    on average. If the batch is the whole set, the estimate is exact.

    The posterior must be diagonal, and the number of training images N must be given.
    """

    needs_closed_form_kl: ClassVar[bool] = True
    needs_diagonal_posterior: ClassVar[bool] = True
    depends_on_batch: ClassVar[bool] = True

    def terms(self, batch: Batch) -> Terms:
        self.check(batch.model)
        posterior, size = batch.posterior, batch.x.shape[0]
        assert isinstance(posterior, DiagonalGaussian)
        z = posterior.sample(batch.noise)
        reconstruction = batch.model.log_likelihood(batch.params, batch.x, z).mean(0)
        kl = batch.model.closed_form_kl(batch.params, posterior).sum(-1)
        bound = reconstruction - kl
        if size > 1:
            if batch.num_images is None or batch.num_images < size:
                raise ValueError(
                    f"num_images is {batch.num_images}: it is the number of training "
                    f"images that the batch of {size} is from. Give at least {size}."
                )
            mask = batch.latent_mask
            mask = jnp.ones(z.shape[-1:]) if mask is None else mask
            correlation = jax.vmap(_total_correlation, (0, None, None, None))(
                z, posterior, mask, batch.num_images
            )
            bound = bound - (batch.kl_weight - 1) * correlation.mean(0)
        return Terms(bound, reconstruction, kl)


@dataclasses.dataclass(frozen=True)
class MMD(Objective):
    """``ElboLogWeight`` minus ``mmd_weight`` times MMD^2(q(z), p(z)).

    The squared maximum mean discrepancy of the samples of a batch, one per image, from
    as many of the prior: the unbiased U-statistic (Gretton et al. 2012, Lemma 6) under
    the inverse multiquadratic kernel 2 L / (2 L + |y - z|^2), L latents, of Tolstikhin
    et al. 2018, section 4 (WAE-MMD, which is beta = 0). InfoVAE (Zhao et al. 2019) has
    beta = 1 - alpha and mmd_weight = alpha + lambda - 1. It is the same number for all
    images, between -2 and 2, so useful weights are large. A learned prior gets its
    gradient only through its samples.
    """

    mmd_weight: Annotated[float, Range(at_least=0)] = 0.0

    depends_on_batch: ClassVar[bool] = True

    def for_validation(self) -> "MMD":
        return dataclasses.replace(self, mmd_weight=0.0)

    def terms(self, batch: Batch) -> Terms:
        z, log_q = batch.posterior.sample_and_log_prob(batch.noise)
        reconstruction, kl = (ratio.mean(0) for ratio in batch.log_ratios(z, log_q))
        bound = reconstruction - batch.kl_weight * kl
        size = batch.x.shape[0]
        if size > 1:
            prior_key = jax.random.fold_in(batch.key, 0)
            prior = batch.model.prior(batch.params)
            drawn = prior.sample(prior_key, self.num_samples * size)
            num_latents: jax.Array | int = z.shape[-1]
            if batch.latent_mask is not None:
                drawn = drawn * batch.latent_mask[None]
                num_latents = batch.latent_mask.sum()
            drawn = drawn.reshape(z.shape)
            pooled = jnp.concatenate([z, drawn], axis=1)  # [S, 2 B, L]
            discrepancy = jax.vmap(_prior_mmd, (0, None))(pooled, num_latents).mean()
            bound = bound - self.mmd_weight * discrepancy
        return Terms(bound, reconstruction, kl)


def _total_correlation(
    z: jax.Array, posterior: DiagonalGaussian, mask: jax.Array, num_images: int
) -> jax.Array:
    """Returns log q(z) - sum_l log q(z_l) of a sample per image ``[batch, latent]``."""
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
    """Returns the squared MMD between the two halves of ``[2 batch, latent]``."""
    distances = ((pooled[:, None] - pooled[None]) ** 2).sum(-1)
    kernel = 2 * num_latents / (2 * num_latents + distances)
    batch = len(pooled) // 2
    in_first = (jnp.arange(2 * batch) < batch).astype(kernel.dtype)
    return squared_mmd(kernel, in_first[None], batch)[0]
