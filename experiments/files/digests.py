"""SHA-256 digests of arrays: equal digests mean equal types, shapes and bits."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np


def array_digest(array: np.ndarray) -> str:
    """Returns the SHA-256 of an array's type, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of all arrays and their names, which may be in any order."""
    digests = {name: array_digest(array) for name, array in arrays.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
