"""Do two sets of samples have one distribution? Maximum mean discrepancy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.mmd import off_diagonal, squared_mmd

# Equal statistics of a kernel bounded by 1, summed in float32, differ by at most this.
_TIE = 1e-6


class TwoSampleTest(NamedTuple):
    """The distance of two sets of samples, and how often chance alone gives as much."""

    squared_mmd: jax.Array  # unbiased, so it may be negative, in [-2, 2], []
    p_value: jax.Array  # in [1 / (permutations + 1), 1], []
    bandwidth: jax.Array  # h of the kernel exp(-|x - y|^2 / (2 h^2)), []


def mmd_test(
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    num_permutations: int,
    bandwidth: jax.Array | float | None = None,
) -> TwoSampleTest:
    """Tests whether two samples have one distribution: permutations of squared MMD.

    The statistic is the unbiased U-statistic (Gretton et al. 2012, "A kernel two-sample
    test", Lemma 6) under a Gaussian kernel. The p-value is (1 + number of permutations
    with a statistic at least as large) / (1 + number of permutations), which is valid
    for any number of them (Phipson & Smyth 2010, "Permutation p-values should never be
    zero").

    For aggregated posterior against prior, x has one draw of q(z|x_n) for each of
    several images: several draws of one image would not be independent. Padding must be
    0 in both samples; it then changes nothing. Memory is that of a few square matrices
    of the pooled size and of ``num_permutations`` times the pooled size.

    Args:
        key: decides the permutations.
        x: independent samples, ``[m, latent]``.
        y: independent samples, ``[n, latent]``.
        num_permutations: of the pooled samples.
        bandwidth: h > 0; by default the median distance between two of the pooled
            samples (the same paper, section 8), which no permutation changes.

    Raises:
        ValueError: fewer than two points in a sample, or samples of different
        dimensions.
    """
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"the samples have shapes {list(x.shape)} and {list(y.shape)}: a two-sample"
            " test needs at least 2 rows in each and the same number of columns."
        )
    distances = _distances(jnp.concatenate([x, y]))
    if bandwidth is None:
        # Not 0, so that samples that are all equal have distance 0 rather than NaN.
        bandwidth = jnp.maximum(
            jnp.median(off_diagonal(distances)), jnp.finfo(distances.dtype).tiny
        )
    kernel = jnp.exp(-0.5 * (distances / bandwidth) ** 2)
    in_x = (jnp.arange(len(x) + len(y)) < len(x)).astype(kernel.dtype)
    permuted = jax.vmap(lambda key: jax.random.permutation(key, in_x))(
        jax.random.split(key, num_permutations)
    )
    statistics = squared_mmd(kernel, jnp.concatenate([in_x[None], permuted]), len(x))
    observed = statistics[0]
    # The observed labelling is one of the equally likely ones, so it counts too.
    p_value = jnp.mean(statistics >= observed - _TIE)
    return TwoSampleTest(
        squared_mmd=observed,
        p_value=jnp.where(jnp.isnan(observed), jnp.nan, p_value),
        bandwidth=jnp.asarray(bandwidth),
    )


def _distances(points: jax.Array) -> jax.Array:
    """Euclidean distances ``[n, n]``, from differences: exact for near points."""
    distances: jax.Array = jax.lax.map(
        lambda point: jnp.sqrt(jnp.sum((points - point[None]) ** 2, axis=-1)), points
    )
    return distances
