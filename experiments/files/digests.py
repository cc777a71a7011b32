"""SHA-256 digests of JSON values, and of arrays: of their types, shapes and bits."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def json_digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value; fields may be in any order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """Returns the SHA-256 of an array's type, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of all arrays and their names, which may be in any order."""
    return json_digest({name: array_digest(array) for name, array in arrays.items()})
