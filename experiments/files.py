"""Files that are written whole or not at all, and verified when they are read.

Nothing here is executed or unpickled when it is read: files of strangers are safe to
open.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from experiments.digests import arrays_digest

# What a kill leaves of a file that was being written ends so.
UNFINISHED = ".unfinished"


class FolderError(RuntimeError):
    """A run folder that cannot be used; the message is one line."""


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that its path holds the old content or the new, never half."""
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:  # An interruption leaves no half file either.
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> FolderError:
    return FolderError(
        f"cannot write {path} ({error.strerror or error}): make room and permit "
        "writing there, or choose another place."
    )


def cannot_read(
    path: Path, error: Exception, remedy: str = "choose another --workdir"
) -> FolderError:
    return FolderError(f"cannot read {path} ({error}): restore it, or {remedy}.")


def to_json(value: Any) -> str:
    """As JSON, which has no numbers that are not finite: they become null."""
    return json.dumps(without_nan(value), indent=2) + "\n"


def without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """What ``to_json`` made of a row, with its numbers that are not finite as NaN."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def seal(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with their digest, that of all but the wall time."""
    facts = without_nan(facts)
    lasting = {name: value for name, value in facts.items() if name != "seconds"}
    text = json.dumps(lasting, sort_keys=True)
    return {**facts, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {"sha256": arrays_digest(arrays)}
    write_atomically(path, safetensors.numpy.save(arrays, metadata))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays, verified to be those that were saved."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            saved = (file.metadata() or {}).get("sha256")
        if arrays_digest(arrays) != saved:
            raise ValueError("its content is not what was saved")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise FolderError(
            f"cannot read the arrays in {path} ({error}): delete {path.parent} and "
            "repeat the command that trained it."
        ) from error
    return arrays
