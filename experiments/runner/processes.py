"""Several processes that train one population, each with its own devices.

Every process runs the same command and the same programs. Only the first one reads and
writes the run folder, and sends its contents to the others. With a single process, the
usual case, every function here returns its argument.
"""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_primary() -> bool:
    """Returns whether this process reads and writes the run folder."""
    return jax.process_index() == 0


def from_primary(value: Any) -> Any:
    """Returns the value of the first process in every process.

    Args:
        value: anything that JSON can hold; ignored in the other processes.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    padded = text if is_primary() else np.zeros(size, np.uint8)
    return json.loads(
        np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8).tobytes()
    )


def arrays_from_primary(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the named arrays of the first process in every process."""
    if jax.process_count() == 1:
        return arrays
    shapes = from_primary(
        {name: (array.shape, array.dtype.str) for name, array in arrays.items()}
    )
    if not is_primary():
        arrays = {n: np.zeros(shape, dtype) for n, (shape, dtype) in shapes.items()}
    # As bytes: JAX would send 64-bit numbers as 32 bits, and -0.0 as 0.0.
    sent = {
        name: np.frombuffer(array.tobytes(), np.uint8) for name, array in arrays.items()
    }
    received = multihost_utils.broadcast_one_to_all(sent)
    return {
        name: np.asarray(received[name], np.uint8).view(dtype).reshape(shape)
        for name, (shape, dtype) in shapes.items()
    }
