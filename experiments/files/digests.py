"""SHA-256 digests of named arrays: what is stored is verified when it is loaded."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np


def array_digest(array: np.ndarray) -> str:
    """The SHA-256 of an array's type, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of all arrays and their names, in whatever order they are given."""
    digests = {name: array_digest(array) for name, array in arrays.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
