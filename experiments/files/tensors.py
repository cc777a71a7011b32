"""Named arrays and facts about them: safetensors files, verified when they are read.

Nothing in such a file is executed or unpickled. safetensors stores no digest of its
content, so ours covers every array and every fact; a flipped bit is found. A part of a
run says in its facts which run it belongs to:

    save_arrays(path, arrays, owner._asdict())
    arrays, facts = load_arrays(path, owner._asdict())    # refused if of another run
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from experiments.files.digests import arrays_digest
from experiments.files.reading import (
    cannot_read,
    half_of_memory,
    parse_json,
    refuse_irregular,
)
from experiments.files.sealed import is_sealed, of_another, seal
from experiments.files.writing import atomically, cannot_write
from experiments.messages.errors import AnotherOwnerError, FolderError

Arrays = dict[str, np.ndarray]

# The one field of metadata: the library writes several in a random order.
_SEALED = "sealed"

# The types of images and labels, by their names in safetensors.
_DTYPES = {"U8": np.uint8, "I32": np.int32}


def save_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, str]
) -> None:
    """Writes arrays and facts about them as one file.

    Args:
        path: the file.
        arrays: the arrays, by name.
        facts: says, for example, what the arrays belong to.

    Raises:
        FolderError: the file cannot be written.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    sealed = seal({**facts, "arrays": arrays_digest(arrays)})
    with atomically(path) as beside:
        try:
            metadata = {_SEALED: json.dumps(sealed, sort_keys=True)}
            beside.touch()
            mode = beside.stat().st_mode
            safetensors.numpy.save_file(arrays, beside, metadata)
            beside.chmod(mode)  # safetensors writes a file that only its owner reads.
        except safetensors.SafetensorError as error:
            raise cannot_write(path, error) from error


def load_arrays(
    path: Path,
    expected: Mapping[str, str],
    remedy: str = "delete it and repeat the command that wrote it",
    *,
    memory_mapped: bool = False,
) -> tuple[Arrays, dict[str, str]]:
    """Returns arrays and facts, which must be those that were saved.

    Args:
        path: the file.
        expected: facts that it must hold.
        remedy: a clause on what to do if the file cannot be used.
        memory_mapped: whether the arrays stay in the file, and are read as needed.

    Raises:
        AnotherOwnerError: its facts are others.
        FolderError: it is damaged or missing, or is no such file.
    """
    try:
        found = os.stat(path)
        refuse_irregular(found)
        path.open("rb").close()  # safetensors says of any error that there is no file.
        if found.st_size > half_of_memory() and not memory_mapped:
            raise ValueError(f"it has {found.st_size:,} bytes, which fill the memory")
        with safetensors.safe_open(path, framework="numpy") as file:
            facts = parse_json((file.metadata() or {}).get(_SEALED, "{}"))
            is_whole = isinstance(facts, dict) and is_sealed(facts)
            if not is_whole or not {*expected, "arrays"} <= facts.keys():
                raise ValueError("its description is not what was saved")
            if any(facts[name] != value for name, value in expected.items()):
                owner, own = facts.get("name", ""), expected.get("name", "")
                raise of_another(path, owner, own, remedy)
            arrays = (
                _mapped(path)
                if memory_mapped
                else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            )
        if arrays_digest(arrays) != facts["arrays"]:
            raise ValueError("its content is not what was saved")
    except AnotherOwnerError:
        raise
    except PermissionError as error:
        remedy = "permit reading it, or choose another --workdir"
        raise cannot_read(path, error.strerror, remedy) from error
    except Exception as error:  # Damage raises errors of any class.
        raise FolderError(
            f"cannot read the arrays in {path}: {error}. Restore it, or {remedy}."
        ) from error
    return arrays, facts


def _mapped(path: Path) -> Arrays:
    """Returns the arrays of a safetensors file, which stay in the file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    del header["__metadata__"]
    return {
        name: np.memmap(
            path,
            _DTYPES[described["dtype"]],
            "r",
            8 + size + described["data_offsets"][0],
            tuple(described["shape"]),
        )
        for name, described in header.items()
    }


def check_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> None:
    """Refuses arrays of other names, shapes or types than expected.

    Args:
        path: the file that they come from.
        arrays: the arrays, by name.
        expected: by name, anything with a ``shape`` and a ``dtype``.

    Raises:
        AnotherOwnerError: naming the first that differs.
    """
    for name in sorted({*arrays, *expected}):
        own, wanted = (
            f"{tree[name].dtype} {tuple(tree[name].shape)}" if name in tree else "none"
            for tree in (arrays, expected)
        )
        if own != wanted:
            raise AnotherOwnerError(
                f"{path} holds {name} as {own}: this run has {wanted}, so the file is"
                " of another model. Put back its own, or train the run again in"
                " another --workdir."
            )
