"""The squared maximum mean discrepancy of two sets of samples, from their kernel."""

import jax
import jax.numpy as jnp


def squared_mmd(kernel: jax.Array, in_x: jax.Array, num_x: int) -> jax.Array:
    """Returns squared MMD ``[labellings]`` of several ways to label the pooled samples.

    Unbiased: the U-statistic of Gretton et al. 2012, Lemma 6.

    Args:
        kernel: between pooled samples, ``[m + n, m + n]``.
        in_x: 1 for a sample that is labelled x and 0 for y, ``[labellings, m + n]``.
        num_x: m.
    """
    num = len(kernel)
    num_y = num - num_x
    # A constant in every pair cancels from the statistic; without it the sums are small
    # and keep their digits.
    kernel = jnp.where(
        jnp.eye(num, dtype=bool), 0.0, kernel - jnp.mean(off_diagonal(kernel))
    )
    to_x = jnp.matmul(in_x, kernel, precision="highest")  # sum over x of k(x, .)
    all_pairs = kernel.sum()
    x_with_x = (to_x * in_x).sum(axis=-1)
    x_with_y = to_x.sum(axis=-1) - x_with_x
    y_with_y = all_pairs - x_with_x - 2 * x_with_y
    return (
        x_with_x / (num_x * (num_x - 1))
        + y_with_y / (num_y * (num_y - 1))
        - 2 * x_with_y / (num_x * num_y)
    )


def off_diagonal(square: jax.Array) -> jax.Array:
    """Returns the entries of ``[n, n]`` off the diagonal, ``[n - 1, n]``.

    After its first entry the diagonal recurs at every (n + 1)-th.
    """
    num = len(square)
    return square.reshape(-1)[1:].reshape(num - 1, num + 1)[:, :-1]
