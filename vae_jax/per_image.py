"""Maps functions of one image, or of one row, over all of them in batches."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.checks import require_count
from vae_jax.mesh import batch_devices, split_batch

_Result = TypeVar("_Result")  # a tree of arrays


def map_images(
    function: Callable[..., _Result],
    key: jax.Array,
    *arrays: jax.Array,
    batch_size: int,
    first: jax.Array | int = 0,
) -> _Result:
    """Maps ``function(image_key, *rows)`` over images, in batches.

    Each image has its own key. So the result for an image depends on the batches only
    because matrix products of different sizes round differently.

    Args:
        function: takes a typed key and one row of each array.
        key: a typed key; each image's index is folded into it.
        *arrays: each ``[images, ...]``.
        batch_size: most images computed together.
        first: index of the first of these images, if they are part of a set.

    Returns:
        The function's results with a leading axis ``[images]``.

    Raises:
        ValueError: there are no images, or ``batch_size`` is less than 1.
    """
    require_count("batch_size", batch_size)
    num_images = arrays[0].shape[0]
    if not num_images:
        raise ValueError(
            "the number of images is 0: there is nothing to compute. Give at least 1."
        )

    def one_image(inputs: Any) -> _Result:
        index, rows = inputs
        return function(jax.random.fold_in(key, index), *rows)

    inputs = first + jnp.arange(num_images), arrays
    return map_batches(one_image, inputs, batch_size=batch_size)


def map_batches(
    function: Callable[[Any], _Result], rows: Any, *, batch_size: int
) -> _Result:
    """Maps a function over rows in batches of one size, so that one is compiled.

    The sizes differ by as little as they can: 297 rows in batches of at most 100 are
    three of 99. The last row is repeated until the last batch is full, and the results
    of these repetitions are left out.

    Args:
        function: takes one row.
        rows: a tree of ``[rows, ...]``, at least one row.
        batch_size: most rows computed together.

    Returns:
        The function's results with a leading axis ``[rows]``.
    """
    num_rows = len(jax.tree.leaves(rows)[0])
    num_batches = -(-num_rows // batch_size)
    size = -(-num_rows // num_batches)
    # Devices that share a batch have equal parts of it.
    size = min(batch_size, -(-size // batch_devices()) * batch_devices())
    filled = np.minimum(np.arange(num_batches * size), num_rows - 1)

    def split(leaf: jax.Array) -> jax.Array:
        full = leaf if len(filled) == num_rows else leaf[filled]
        return full.reshape(num_batches, size, *leaf.shape[1:])

    def one_batch(batch: Any) -> Any:
        return jax.vmap(function)(split_batch(batch))

    def join(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(-1, *leaf.shape[2:])[:num_rows]

    results: _Result = jax.tree.map(
        join, jax.lax.map(one_batch, jax.tree.map(split, rows))
    )
    return results
