"""Measures the latents of one model on a set of images, by the other diagnostics."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.diagnostics.aggregated_posterior import (
    KLDecomposition,
    decompose_gaussian_kl,
    decompose_kl,
)
from vae_jax.diagnostics.two_samples import TwoSampleTest, mmd_test
from vae_jax.distributions import DiagonalGaussian, Posterior, latent_noise
from vae_jax.model import VAE, Params
from vae_jax.priors import Prior, StandardNormal
from vae_jax.products import float32_products

# Samples compared at once; measured fastest on a CPU, and bounds the memory.
_CHUNK = 16
# Fewest samples of q(z), for small sets of images: they cost little, and their noise
# falls below that of the choice of images.
_SAMPLES = 3000
# The two-sample test compares all pairs, so it takes at most this many images.
_MOST_COMPARED = 1000


class LatentUse(NamedTuple):
    """The measurements of one model; None if not requested."""

    decomposition: KLDecomposition | None
    # The decomposition computes log q(z|x) from a sample; this is the mean distance, in
    # nats, to the value that comes with the sample. None if q(z|x) factorises.
    density_error: jax.Array | None
    two_samples: TwoSampleTest | None


@float32_products
def measure_latent_use(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    latent_mask: jax.Array,
    *,
    decompose: bool,
    num_permutations: int,
) -> LatentUse:
    """Measures one model on images x ``[N, D]`` in the likelihood's view.

    Total correlation and dimension-wise KL are NaN where latents are not independent in
    every q(z|x) and p(z). So is all that needs log p(z), where the prior is a chain of
    latents. If z is the image with noise, there is no encoder to measure, and nothing
    is decomposed.

    Args:
        model: the VAE.
        params: its parameters.
        key: a typed key.
        x: the images.
        latent_mask: as in ``objectives.Batch``.
        decompose: whether the average KL is split into its parts.
        num_permutations: of the two-sample test of q(z) against p(z); 0: no test.

    Raises:
        ValueError: a two-sample test of one image.
    """
    noise_key, prior_key, permutation_key, sample_key = (
        jax.random.fold_in(key, i) for i in range(4)
    )
    posterior, prior = model.encode(params, x), model.prior(params)
    decomposition = density_error = two_samples = None
    if decompose and not model.is_chain:
        decomposition, density_error = _decompose(
            model, params, sample_key, posterior, prior, latent_mask, len(x)
        )
    if num_permutations:
        noise = latent_noise(noise_key, 1, len(x), model.latent_dim)
        z = posterior.sample(noise * latent_mask[None, None])[0, :_MOST_COMPARED]
        prior_z = prior.sample(prior_key, len(z)) * latent_mask[None]
        two_samples = mmd_test(
            permutation_key, z, prior_z, num_permutations=num_permutations
        )
    return LatentUse(decomposition, density_error, two_samples)


def _decompose(
    model: VAE,
    params: Params,
    key: jax.Array,
    posterior: Posterior,
    prior: Prior,
    latent_mask: jax.Array,
    num_images: int,
) -> tuple[KLDecomposition, jax.Array | None]:
    shape = (num_images, model.latent_dim)
    if isinstance(posterior, DiagonalGaussian) and isinstance(prior, StandardNormal):
        noise = latent_noise(key, -(-_SAMPLES // num_images), *shape)
        decomposition = decompose_gaussian_kl(
            posterior.mean, posterior.log_scale, noise, latent_mask, chunk=_CHUNK
        )
        return decomposition, None

    def log_densities(image: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        del image
        log_q = posterior.log_prob(jnp.broadcast_to(z, shape)[None])[0]
        log_p = prior.log_prob(z) if model.has_density else jnp.float32(math.nan)
        return log_q[:, None], log_p[None]

    kl = None
    if model.has_closed_form_kl:
        kl = model.closed_form_kl(params, posterior).sum(-1, keepdims=True)
    # One sample per image: its density takes a flow's inverse for every image.
    z, log_q = posterior.sample_and_log_prob(latent_noise(key, 1, *shape))
    density_error = jnp.abs(posterior.log_prob(z) - log_q).mean()
    found = decompose_kl(log_densities, z, chunk=_CHUNK, closed_form_kl=kl)
    unknown = {
        "total_correlation": jnp.float32(math.nan),
        "dimension_kl": jnp.full(1, math.nan),
        "sum_of_dimensions": jnp.float32(math.nan),
    }
    found = found._replace(
        parts=found.parts._replace(**unknown),
        standard_errors=found.standard_errors._replace(**unknown),
    )
    return found, density_error
