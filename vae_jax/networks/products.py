"""Matrix products of factors in bfloat16, with float32 results."""

from typing import Any

import jax
import jax.numpy as jnp


def bfloat16_product(
    h: jax.Array, kernel: jax.Array, dimension_numbers: Any = None, **options: Any
) -> jax.Array:
    """Returns h times a matrix: factors are rounded to bfloat16, sums are float32.

    The two products of its gradient are of the same kind: the cotangent is rounded as
    well, but no result is. Processors that have such products compute them at least
    twice as fast as those of float32.

    Args:
        h: ``[..., inputs]``.
        kernel: ``[inputs, outputs]``, float32.
        dimension_numbers: as Flax gives them for a dense layer; not used.
        **options: as Flax gives them for a dense layer; not used.

    Returns:
        ``[..., outputs]``, float32.
    """
    del dimension_numbers, options
    rows = h.reshape(-1, h.shape[-1]).astype(jnp.float32)
    return _product(rows, kernel).reshape(*h.shape[:-1], -1)


@jax.custom_vjp
def _product(rows: jax.Array, kernel: jax.Array) -> jax.Array:
    return _times(_rounded(rows), _rounded(kernel))


def _forward(
    rows: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    factors = _rounded(rows), _rounded(kernel)
    return _times(*factors), factors


def _backward(
    factors: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows, kernel = factors
    cotangent = _rounded(cotangent)
    columns = jax.lax.platform_dependent(
        rows, cpu=_transposed_in_memory, default=jnp.transpose
    )
    return _times(cotangent, kernel, (1, 1)), _times(columns, cotangent)


_product.defvjp(_forward, _backward)


def _rounded(array: jax.Array) -> jax.Array:
    rounded: jax.Array = jax.lax.platform_dependent(
        array,
        cpu=_rounded_by_integers,
        default=lambda array: array.astype(jnp.bfloat16),
    )
    return rounded


def _rounded_by_integers(array: jax.Array) -> jax.Array:
    """Returns a float32 array as bfloat16: to nearest, and ties to even.

    On a CPU this takes a fifth of the time of XLA's conversion, which looks for NaN. A
    NaN stays one, except for those with the highest 8 bits of the fraction all set;
    arithmetic makes none of these.
    """
    bits = jax.lax.bitcast_convert_type(array, jnp.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return jax.lax.bitcast_convert_type(bits.astype(jnp.uint16), jnp.bfloat16)


def _times(
    first: jax.Array, second: jax.Array, axes: tuple[int, int] = (1, 0)
) -> jax.Array:
    """Returns the float32 sums of products over an axis of each of two matrices."""
    product: jax.Array = jax.lax.dot_general(
        first,
        second,
        ((axes[:1], axes[1:]), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return product


def _transposed_in_memory(matrix: jax.Array) -> jax.Array:
    """Returns the transposed matrix, which XLA cannot make a part of a product.

    On a CPU, XLA has no fast product of bfloat16 whose first factor is transposed.
    The column that is added, and cut off as a row, hides the transposition.
    """
    # As integers: XLA would convert bfloat16 to float32 and round it again.
    bits = jax.lax.bitcast_convert_type(matrix, jnp.uint16)
    bits = jnp.pad(bits, ((0, 0), (0, 1))).T[:-1]
    return jax.lax.bitcast_convert_type(bits, jnp.bfloat16)
