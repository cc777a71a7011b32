"""The average KL in parts: information about the image, and mismatch with the prior.

With the aggregated posterior q(z) = 1/N sum_n q(z|x_n) of N images, n uniform,

    1/N sum_n KL(q(z|x_n) || p(z)) = I(n; z) + KL(q(z) || p(z))

(Hoffman & Johnson 2016, "ELBO surgery"), and where the prior factorises over latents,

    KL(q(z) || p(z)) = KL(q(z) || prod_l q(z_l)) + sum_l KL(q(z_l) || p(z_l)),

total correlation and dimension-wise KL (Chen et al. 2018, "Isolating sources of
disentanglement in variational autoencoders").

Both are expectations under q(z), a mixture of N known densities. The mixture is
evaluated in full: every sample under all N components, its own included. So the
estimates are unbiased for these N images, whatever the number of samples. As estimates
for the population that the images were drawn from they are biased: I(n; z) is at most
log N and lies below the population's in expectation, and KL(q(z) || p(z)) lies above it
by as much (the entropy of a mixture is concave); dimension-wise KL lies above too, and
total correlation has no known sign. An information near log N means "at least this".

Where a formula gives KL(q(z|x_n) || p(z)), the difference between a sample's log-ratio
and this KL is a control variate: each part loses the noise that is linear in this
difference. The slope is fitted to the same samples. The cost is a bias that falls as
1/samples, faster than a standard error does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.per_image import map_batches
from vae_jax.products import float32_products

_LOG_2PI = np.log(2 * np.pi)


class KLParts(NamedTuple):
    """The average KL and its parts, in nats, all from the same samples.

    Up to rounding, average_kl = mutual_information + marginal_kl and marginal_kl =
    total_correlation + sum_of_dimensions.
    """

    average_kl: jax.Array  # 1/N sum_n KL(q(z|x_n) || p(z)), by formula if given, []
    mutual_information: jax.Array  # I(n; z), in [0, log N] except for noise, []
    marginal_kl: jax.Array  # KL(q(z) || p(z)), []
    total_correlation: jax.Array  # KL(q(z) || prod_l q(z_l)), []
    dimension_kl: jax.Array  # KL(q(z_l) || p(z_l)), [factors]
    sum_of_dimensions: jax.Array  # of dimension_kl, []


class KLDecomposition(NamedTuple):
    """Means over images and samples, and the standard errors of these means.

    A standard error is computed over images, each image's samples averaged, as if q(z)
    were known; it is NaN for one image. It covers the choice of images, except for
    their effect on q(z), which is the bias described above. So it is larger than the
    error for exactly these images, which has only the noise of the samples.
    """

    parts: KLParts
    standard_errors: KLParts
    sampled_kl: jax.Array  # average_kl from samples, even with a formula, nats, []


@float32_products
def decompose_kl(
    log_densities: Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]],
    samples: Any,
    *,
    chunk: int,
    closed_form_kl: jax.Array | None = None,
) -> KLDecomposition:
    """Splits the average KL of any posterior whose density can be evaluated.

    Densities are given by factor: groups of latents that are independent in every
    q(z|x_n) and in p(z). Fully factorised densities have one factor per latent. With
    one factor for all latents, for a posterior or prior with dependent latents, the
    first equation above still holds; dimension_kl is then marginal_kl, and
    total_correlation, which is that between factors, 0.

    Args:
        log_densities: maps an image's index ``[]`` and one sample of its posterior to
            log q(z_f|x_n) of all images ``[N, factors]`` and log p(z_f) ``[factors]``,
            nats.
        samples: z, or arrays that determine it, a tree of ``[samples, N, ...]``; column
            n is drawn from q(z|x_n).
        chunk: samples evaluated together; bounds the memory to that of
            ``chunk * N * factors`` densities, and changes the result only by the
            rounding of products of another size.
        closed_form_kl: KL(q(z_f|x_n) || p(z_f)) where a formula gives it, nats,
            ``[N, factors]``.
    """
    num_samples, num_images = jax.tree.leaves(samples)[0].shape[:2]

    def one_sample(inputs: tuple[jax.Array, Any]) -> KLParts:
        image, sample = inputs
        log_q, log_p = log_densities(image, sample)  # [N, F], [F]
        own = log_q[image].sum()
        aggregated = _log_mean_exp(log_q.sum(axis=-1))
        marginals = _log_mean_exp(log_q)  # [F]
        prior = log_p.sum()
        return KLParts(
            average_kl=own - prior,
            mutual_information=own - aggregated,
            marginal_kl=aggregated - prior,
            total_correlation=aggregated - marginals.sum(),
            dimension_kl=marginals - log_p,
            sum_of_dimensions=marginals.sum() - prior,
        )

    flat = jax.tree.map(
        lambda leaf: leaf.reshape(num_samples * num_images, *leaf.shape[2:]), samples
    )
    images = jnp.tile(jnp.arange(num_images), num_samples)
    parts = map_batches(one_sample, (images, flat), batch_size=chunk)
    sampled_kl = parts.average_kl.mean()
    if closed_form_kl is not None:
        parts = _controlled(parts, closed_form_kl[images])
    by_image = jax.tree.map(
        lambda leaf: leaf.reshape(num_samples, num_images, *leaf.shape[1:]).mean(0),
        parts,
    )
    return KLDecomposition(
        jax.tree.map(lambda leaf: leaf.mean(axis=0), by_image),
        jax.tree.map(
            lambda leaf: leaf.std(axis=0, ddof=1) / np.sqrt(num_images), by_image
        ),
        sampled_kl,
    )


def _controlled(parts: KLParts, kl: jax.Array) -> KLParts:
    """Returns the parts of each sample without the noise linear in its log-ratio.

    The slopes are fitted to the parts minus their expectations under the formula. Least
    squares is linear in these, so the slopes of parts that add up also add up.

    Args:
        parts: ``[samples, ...]`` each.
        kl: expectation of each sample's log-ratio by factor, ``[samples, factors]``.
    """
    total = kl.sum(axis=-1)
    none = jnp.zeros_like(total)
    expected = KLParts(
        average_kl=total,
        mutual_information=none,
        marginal_kl=total,
        total_correlation=none,
        dimension_kl=kl,
        sum_of_dimensions=total,
    )
    noise = parts.average_kl - total
    # Scaled so that no square overflows; without noise the slope is 0.
    largest = jnp.abs(noise).max()
    noise = noise / jnp.where(largest > 0, largest, 1.0)
    centred = noise - noise.mean()
    squares = (centred**2).sum()
    weights = centred / jnp.where(squares > 0, squares, 1.0)

    def one_part(part: jax.Array, expected: jax.Array) -> jax.Array:
        rest = part - expected
        slope = jnp.tensordot(weights, rest, 1)
        return expected + (rest - jnp.tensordot(noise, slope, 0))

    controlled: KLParts = jax.tree.map(one_part, parts, expected)
    return controlled


def decompose_gaussian_kl(
    mean: jax.Array,
    log_scale: jax.Array,
    noise: jax.Array,
    latent_mask: jax.Array | None = None,
    *,
    chunk: int,
) -> KLDecomposition:
    """Splits the average KL of diagonal Gaussian posteriors from the prior N(0, I).

    A sample is mean + exp(log_scale) noise. Its distance to every component is formed
    from the difference of the means, not from the rounded sample, so that a posterior
    far narrower than its mean's last digit is still distinguished from the others.

    Args:
        mean: of q(z|x_n), ``[N, latent]``.
        log_scale: log standard deviation of q(z|x_n), ``[N, latent]``.
        noise: standard normal, ``[samples, N, latent]``.
        latent_mask: 1 for a latent in use and 0 for padding, ``[latent]``, or None.
            Padding contributes exactly 0 to every part.
        chunk: as in ``decompose_kl``.
    """
    scale, inverse_scale = jnp.exp(log_scale), jnp.exp(-log_scale)
    mask = jnp.ones_like(mean[0]) if latent_mask is None else latent_mask

    def log_densities(
        image: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        step = scale[image] * noise
        distance = (mean[image][None] - mean) + step[None]
        log_q = -0.5 * ((distance * inverse_scale) ** 2 + _LOG_2PI) - log_scale
        log_p = -0.5 * ((mean[image] + step) ** 2 + _LOG_2PI)
        return log_q * mask[None], log_p * mask

    # With expm1 it is exactly 0 where q is the prior.
    kl = 0.5 * (mean**2 + jnp.expm1(2 * log_scale)) - log_scale
    return decompose_kl(
        log_densities, noise, chunk=chunk, closed_form_kl=kl * mask[None]
    )


def _log_mean_exp(values: jax.Array) -> jax.Array:
    """Returns log(mean(exp(values))) over axis 0; exactly 0 where all values are 0."""
    largest = values.max(axis=0)
    return largest + jnp.log(jnp.mean(jnp.exp(values - largest[None]), axis=0))
