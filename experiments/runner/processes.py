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


def is_primary() -> bool:
    """Whether this is the process that reads and writes the run folder."""
    return jax.process_index() == 0


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
