"""Maps functions of one image over all images of a set."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from vae_jax.checks import require_count
from vae_jax.mesh import split_batch

_Result = TypeVar("_Result")  # a tree of arrays


def map_images(
    function: Callable[..., _Result],
    key: jax.Array,
    *arrays: jax.Array,
    batch_size: int,
) -> _Result:
    """Maps ``function(image_key, *rows)`` over images, in batches.

    It maps over every image; the last batch may be smaller. Each image has its own key.
    So the result for an image depends on the batches only because matrix products of
    different sizes round differently.

    Args:
        function: takes a typed key and one row of each array.
        key: a typed key; each image's index is folded into it.
        *arrays: each ``[images, ...]``.
        batch_size: number of images computed together.

    Returns:
        The function's results with a leading axis ``[images]``.

    Raises:
        ValueError: there are no images, or ``batch_size`` is less than 1.
    """
    require_count("batch_size", batch_size)
    num_images = arrays[0].shape[0]
    require_count("the number of images", num_images)
    batch_size = min(batch_size, num_images)
    inputs = (jnp.arange(num_images), *arrays)

    def one_image(index: jax.Array, *rows: jax.Array) -> _Result:
        return function(jax.random.fold_in(key, index), *rows)

    def one_batch(inputs: Any) -> Any:
        return jax.vmap(one_image)(*split_batch(inputs))

    whole = num_images - num_images % batch_size
    batches = jax.tree.map(
        lambda leaf: leaf[:whole].reshape(-1, batch_size, *leaf.shape[1:]), inputs
    )
    results: _Result = jax.tree.map(
        lambda leaf: leaf.reshape(whole, *leaf.shape[2:]),
        jax.lax.map(one_batch, batches),
    )
    if whole == num_images:
        return results
    rest = one_batch(jax.tree.map(lambda leaf: leaf[whole:], inputs))
    joined: _Result = jax.tree.map(lambda *parts: jnp.concatenate(parts), results, rest)
    return joined
