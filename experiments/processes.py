"""Several processes that train one population, each with its own devices.

Every process runs the same command and the same programs; the first one alone reads
and writes the run folder, and tells the others what it found there. With a single
process, as usual, everything here is the identity.
"""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding


def is_primary() -> bool:
    """Whether this is the process that reads and writes the run folder."""
    return jax.process_index() == 0


def place(tree: Any, sharding: Sharding) -> Any:
    """The arrays, the same in every process, where a program wants them."""

    def place_leaf(leaf):
        if getattr(leaf, "sharding", None) == sharding:
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                jax.device_put(np.asarray(jax.random.key_data(leaf)), sharding)
            )
        return jax.device_put(np.asarray(leaf), sharding)

    return jax.tree.map(place_leaf, tree)


def fetch(tree: Any) -> Any:
    """The whole arrays on the host, wherever their parts lie."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree, tiled=True))


def from_primary(value: Any) -> Any:
    """What the first process gives, in every process; anything JSON can hold."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    padded = text if is_primary() else np.zeros(size, np.uint8)
    return json.loads(
        np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8).tobytes()
    )


def arrays_from_primary(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first process's named arrays, in every process."""
    if jax.process_count() == 1:
        return arrays
    shapes = from_primary(
        {name: (array.shape, array.dtype.str) for name, array in arrays.items()}
    )
    if not is_primary():
        arrays = {n: np.zeros(shape, dtype) for n, (shape, dtype) in shapes.items()}
    # As bytes: JAX would send 64 bits as 32, and -0.0 as 0.0.
    sent = {
        name: np.frombuffer(array.tobytes(), np.uint8) for name, array in arrays.items()
    }
    received = multihost_utils.broadcast_one_to_all(sent)
    return {
        name: np.asarray(received[name], np.uint8).view(dtype).reshape(shape)
        for name, (shape, dtype) in shapes.items()
    }
