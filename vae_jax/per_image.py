"""Functions of one image, over all images of a set."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_images(
    function: Callable[..., Any], key: jax.Array, *arrays: jax.Array, batch_size: int
) -> Any:
    """Maps ``function(image_key, *rows)`` over images, in batches.

    Every image is visited, the remainder of the batches included, and has a key of its
    own: what is computed of an image does not depend on how images are batched.

    Args:
        function: takes a typed key and one row of each array.
        key: folded with the image's index.
        *arrays: ``[images, ...]`` each.
        batch_size: images computed together.

    Returns:
        The function's results with a leading axis ``[images]``.
    """
    num_images = arrays[0].shape[0]

    def one_image(inputs):
        index, *rows = inputs
        return function(jax.random.fold_in(key, index), *rows)

    return jax.lax.map(
        one_image,
        (jnp.arange(num_images), *arrays),
        batch_size=min(batch_size, num_images),
    )
