"""Estimates of log p(x), per image, in nats."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from vae_jax.checks import require_count
from vae_jax.model import VAE, Params
from vae_jax.products import float32_products


class ImportanceEstimate(NamedTuple):
    """The estimate from k samples of q(z|x) for one image (or for each of several)."""

    log_px: jax.Array  # log 1/k sum_i w_i; its expectation is L_k <= log p(x), nats
    reconstruction: jax.Array  # mean of log p(x|z_i), nats
    kl: jax.Array  # KL(q(z|x) || p(z)), nats; in closed form if there is one
    effective_sample_size: jax.Array  # (sum w)^2 / sum w^2, between 1 and k
    largest_weight: jax.Array  # largest normalised weight, between 1/k and 1
    # Rise of log_px from half of the samples to all, and from a quarter to half, nats,
    # for ``importance_bias``; NaN for fewer than 4 samples.
    last_doubling: jax.Array
    doubling_before: jax.Array
    chain: "ChainEstimate | None" = None  # of a chain of latents, which has no weights

    @property
    def elbo(self) -> jax.Array:
        """reconstruction - kl, nats."""
        return self.reconstruction - self.kl


class ChainEstimate(NamedTuple):
    """Numbers of a chain of latents: its KL in parts, and the error of sampling."""

    prior_kl: jax.Array  # KL(q(z_T|x) || p(z_T)), exact, nats
    diffusion_kl: jax.Array  # of the other layers, nats
    sampling_variance: jax.Array  # of the bound's estimate, nats^2; NaN for one chunk


@float32_products
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
    """Estimates one image's log p(x) by importance weights (Burda et al. 2016, eq. 8).

    A compiled loop computes the samples in chunks. It keeps two numbers of each sample,
    and averages them at the end. Each sample has its own key, so the estimate depends
    on the chunk only because matrix products of different sizes round differently: in
    float32 by a few units of the last digit (0.0005 nats for an estimate near -4500).

    A chain of latents has no log p(z), and so no weights: ``log_px`` is then the ELBO,
    and the fields on weights are NaN.

    Args:
        model: the VAE.
        params: its parameters.
        key: the image's key.
        x: one image in the likelihood's view, ``[D]``.
        num_samples: k, the number of importance samples.
        chunk: number of samples decoded together; bounds the memory. If k is not a
            multiple of it, the last chunk has further samples that are not used.
        latent_mask: as in ``objectives.Batch``, ``[latent]``.

    Returns:
        Scalars. Use ``vmap`` over keys and images for more.

    Raises:
        ValueError: ``num_samples`` or ``chunk`` is less than 1.
    """
    require_count("num_samples", num_samples)
    require_count("chunk", chunk)
    if not model.has_density:
        return _bound_of_chain(model, params, key, x, num_samples, chunk, latent_mask)
    posterior, prior = model.encode(params, x[None]), model.prior(params)
    chunk = min(chunk, num_samples)

    def sample_noise(index: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.fold_in(key, index), (model.latent_dim,))
        return noise if latent_mask is None else noise * latent_mask

    def one_chunk(samples: jax.Array) -> tuple[jax.Array, jax.Array]:
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
    last_doubling, doubling_before = _rises(log_weight)
    return ImportanceEstimate(
        log_px=jax.nn.logsumexp(log_weight) - jnp.log(num_samples),
        reconstruction=_mean(log_px_z),
        kl=kl,
        effective_sample_size=1 / (share**2).sum(),
        largest_weight=share.max(),
        last_doubling=last_doubling,
        doubling_before=doubling_before,
    )


def _bound_of_chain(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    num_samples: int,
    chunk: int,
    latent_mask: jax.Array | None,
) -> ImportanceEstimate:
    """Returns the ELBO of one image, from one layer of the chain for each sample.

    The layers of a chunk are stratified. There are two chunks or more, if there are two
    samples: their spread is the error of sampling.
    """
    size = -(-num_samples // max(2, -(-num_samples // chunk)))
    count = -(-num_samples // size)

    def one_chunk(index: jax.Array) -> tuple[jax.Array, ...]:
        noise_key, chain_key = jax.random.split(jax.random.fold_in(key, index))
        noise = jax.random.normal(noise_key, (size, 1, model.latent_dim))
        noise = noise if latent_mask is None else noise * latent_mask[None, None]
        prior: Any = model.prior(params, x[None])
        found = prior.kl_terms(chain_key, model.encode(params, x[None]), noise)
        log_px_z = model.log_likelihood(params, x[None], found.z)
        return log_px_z.mean(), found.last.mean(), found.kl.mean()

    reconstruction, last, kl = jax.lax.map(one_chunk, jnp.arange(count))
    bounds = reconstruction - kl
    variance = bounds.var(ddof=1) / count if count > 1 else jnp.float32(jnp.nan)
    unknown = jnp.float32(jnp.nan)
    return ImportanceEstimate(
        log_px=bounds.mean(),
        reconstruction=reconstruction.mean(),
        kl=kl.mean(),
        effective_sample_size=unknown,
        largest_weight=unknown,
        last_doubling=unknown,
        doubling_before=unknown,
        chain=ChainEstimate(last.mean(), (kl - last).mean(), variance),
    )


def importance_bias(
    last_doubling: ArrayLike, doubling_before: ArrayLike
) -> tuple[float, float]:
    """Returns how far the mean of ``log_px`` is below the mean of log p(x).

    A positive bias says that log p(x) is higher than the estimate. The gap falls as a
    power of the number k of samples. It falls as 1/k if the variance of the weights is
    finite (Nowozin 2018, "Debiasing evidence approximations"). It falls more slowly if
    q(z|x) is so much narrower than p(z|x) that this variance is infinite. Let each
    doubling of k raise the estimate by r times the rise of the doubling before. Then
    all further doublings raise it by r + r^2 + ... times the last rise. r is estimated
    from the last two doublings and clipped to [1/2, 4/5]: 1/k or slower, and at most
    four times the last rise. If few weights dominate, the true bias may be larger.

    Args:
        last_doubling: of an ``ImportanceEstimate``, nats, ``[images]``.
        doubling_before: of the same, nats, ``[images]``.

    Returns:
        The bias, nats, and its standard error over images (jackknife; NaN for a single
        image). For fewer than 4 samples both are NaN.
    """
    rises = np.stack([last_doubling, doubling_before]).astype(np.float64)  # [2, N]
    num_images = rises.shape[1]

    def still_to_come(last: Any, before: Any) -> Any:
        share = np.divide(last, before, out=np.zeros_like(last), where=before != 0)
        share = np.clip(share, 0.5, 0.8)
        return last * share / (1 - share)

    bias = still_to_come(*rises.mean(axis=1))
    if num_images == 1:
        return float(bias), math.nan
    others = rises.sum(axis=1, keepdims=True) - rises
    without_one = still_to_come(*others / (num_images - 1))
    error = math.sqrt(num_images - 1) * without_one.std()
    return float(bias), float(error)


def _rises(log_weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the rises of log_px by the last two doublings of the samples, in nats.

    It uses the first 4n of the k log-weights ``[k]``, with n as large as possible.
    """
    quarter = len(log_weight) // 4
    if not quarter:
        return jnp.float32(jnp.nan), jnp.float32(jnp.nan)
    # Relative to the largest weight, so that small rises keep their digits.
    relative = log_weight[: 4 * quarter] - log_weight.max()

    def log_mean(values: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(values, axis=1) - jnp.log(values.shape[1])

    quarters = log_mean(relative.reshape(4, quarter))
    halves = log_mean(quarters.reshape(2, 2))
    whole = log_mean(halves.reshape(1, 2))
    return (whole - halves.mean())[0], halves.mean() - quarters.mean()


def _mean(values: jax.Array) -> jax.Array:
    """Returns the mean, rounded relative to the spread of the values, not the sum."""
    return values[0] + (values - values[0]).mean()
