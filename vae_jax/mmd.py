"""The squared maximum mean discrepancy between two sets of samples."""

import jax
import jax.numpy as jnp


def squared_mmd(kernel: jax.Array, in_x: jax.Array, num_x: int) -> jax.Array:
    """Returns the squared MMD for each labelling of the pooled samples.

    It is unbiased: the U-statistic of Gretton et al. 2012, Lemma 6.

    Args:
        kernel: kernel values between the pooled samples, ``[m + n, m + n]``.
        in_x: 1 for a sample with label x and 0 for label y, ``[labellings, m + n]``.
        num_x: m, the number of samples with label x.

    Returns:
        ``[labellings]``, in units of the kernel.
    """
    num = len(kernel)
    num_y = num - num_x
    # A constant that is added to every pair cancels in the statistic. Without the mean,
    # the sums are small and keep their digits.
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
    """Returns the entries off the diagonal of a matrix ``[n, n]``, ``[n - 1, n]``.

    In the flat array, every (n + 1)-th entry is on the diagonal.
    """
    num = len(square)
    return square.reshape(-1)[1:].reshape(num - 1, num + 1)[:, :-1]
