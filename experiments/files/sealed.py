"""Files that are written whole or not at all, and verified when they are read.

A file may have been made by someone else, or by a program with a fault. So nothing here
is executed or unpickled when it is read; only regular files are read, and records only
up to a stated size; and a part of a run says what it belongs to:

    save_arrays(path, arrays, owner._asdict())
    arrays, facts = load_arrays(path, owner._asdict())    # refused if of another run
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from experiments.files.digests import arrays_digest
from experiments.messages.errors import AnotherOwnerError, FolderError

# What a kill leaves of a file that was being written ends so.
UNFINISHED = ".unfinished"

# Of a record, a table or metric rows; what is larger is none of ours.
MOST_BYTES = 2**26

# Of the numbers in a record: float32, in which everything is measured, holds no larger
# ones, and sums and charts of larger ones overflow.
LARGEST = float(np.finfo(np.float32).max)
LARGEST_INTEGER = 2**53

# Levels of nesting of a record; what is deeper is none of ours.
_DEEPEST = 50

# The field of a safetensors file that says what it holds and belongs to.
_SEALED = "sealed"

Arrays = dict[str, np.ndarray]


class Owner(NamedTuple):
    """The run, or group of runs, that a file belongs to."""

    name: str
    fingerprint: str  # of all that decides its bits


# --- writing --------------------------------------------------------------------------


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Yields a path to write to, which takes the place of ``path`` at the end.

    So ``path`` holds the old content or the new, never half.

    Raises:
        FolderError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:  # An interruption leaves no half file either.
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def remove(path: Path) -> None:
    """Removes a file, if it is there.

    Raises:
        FolderError: it cannot be removed, or is something else.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that its path holds the old content or the new, never half."""
    if isinstance(content, str):
        # Names of files need not be of any encoding.
        data = content.encode(errors="backslashreplace")
    else:
        data = content
    with atomically(path) as beside:
        beside.write_bytes(data)


def cannot_write(path: Path, error: Exception) -> FolderError:
    reason = getattr(error, "strerror", None) or error
    remedy = "make room and permit writing there"
    if getattr(error, "errno", None) in _IN_ITS_PLACE:
        remedy = "remove what is in its place"
    return FolderError(
        f"cannot write {path} ({reason}): {remedy}, or choose another place."
    )


# Of errors by something of another kind that has the name of a file or folder.
_IN_ITS_PLACE = (
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
)


# --- reading --------------------------------------------------------------------------


def cannot_read(
    path: Path, error: Exception, remedy: str = "choose another --workdir"
) -> FolderError:
    return FolderError(f"cannot read {path} ({error}): restore it, or {remedy}.")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Returns the content of a regular file of at most so many bytes.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is something else, such as a pipe, or larger.
    """
    # Opening a pipe would otherwise wait for somebody to write to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if found.st_size > most:
            raise ValueError(f"it has {found.st_size:,} bytes, of at most {most:,}")
        content = file.read(most + 1)
    if len(content) > most:  # It has grown meanwhile.
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def parse_json(content: bytes | str) -> Any:
    """Returns what JSON says.

    Raises:
        ValueError: it is none, or is nested too deeply.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(_DEEPEST):
        groups = [each for each in level if isinstance(each, dict | list)]
        if not groups:
            return value
        level = [
            inner
            for each in groups
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    raise ValueError("it is nested too deeply")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file; raises as ``read_bytes``."""
    return parse_json(read_bytes(path))


# --- records --------------------------------------------------------------------------


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


def write_record(path: Path, facts: Mapping[str, Any]) -> None:
    """Writes facts with their digest."""
    write_atomically(path, to_json(seal(facts)))


def read_record(path: Path) -> dict[str, Any]:
    """Returns facts, verified to be those that were written.

    Raises:
        OSError: there are none, or they cannot be read.
        ValueError: they are damaged, or something else.
    """
    sealed = read_json(path)
    if not isinstance(sealed, dict):
        raise ValueError("it holds no object")
    facts = {name: value for name, value in sealed.items() if name != "sha256"}
    if seal(facts) != sealed:
        raise ValueError("it is not what was saved")
    return facts


# --- arrays ---------------------------------------------------------------------------


def save_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, str]
) -> None:
    """Writes arrays and facts about them as one sealed safetensors file.

    Args:
        path: the file.
        arrays: the arrays, by name.
        facts: what they belong to.

    Raises:
        FolderError: it cannot be written.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    sealed = seal({**facts, "arrays": arrays_digest(arrays)})
    with atomically(path) as beside:
        try:
            # One field: of several, the library writes the order at random.
            metadata = {_SEALED: json.dumps(sealed, sort_keys=True)}
            safetensors.numpy.save_file(arrays, beside, metadata)
        except safetensors.SafetensorError as error:
            raise cannot_write(path, error) from error


def load_arrays(
    path: Path,
    expected: Mapping[str, str],
    remedy: str = "delete it and repeat the command that wrote it",
    *,
    memory_mapped: bool = False,
) -> tuple[Arrays, dict[str, str]]:
    """Returns arrays and facts, verified to be those that were saved.

    Args:
        path: the file.
        expected: facts that it must hold.
        remedy: what to do if it cannot be used, for the message.
        memory_mapped: whether the arrays stay in the file, and are read as needed.

    Raises:
        AnotherOwnerError: its facts are others.
        FolderError: it is damaged, missing, or something else.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if found.st_size > _memory() // 2 and not memory_mapped:
            raise ValueError(f"it has {found.st_size:,} bytes, which fill the memory")
        with safetensors.safe_open(path, framework="numpy") as file:
            facts = parse_json((file.metadata() or {}).get(_SEALED, "{}"))
            if not isinstance(facts, dict):
                raise ValueError("its description is no object")
            sealed = seal({name: facts[name] for name in facts if name != "sha256"})
            if sealed != facts or not {*expected, "arrays"} <= facts.keys():
                raise ValueError("its description is not what was saved")
            if any(facts[name] != value for name, value in expected.items()):
                owner = Owner(expected.get("name", ""), "")
                raise AnotherOwnerError(
                    f"{path} belongs to {described(facts.get('name', ''), owner)}: put "
                    f"back its own, or {remedy}."
                )
            arrays = (
                _mapped(path)
                if memory_mapped
                else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            )
        if arrays_digest(arrays) != facts["arrays"]:
            raise ValueError("its content is not what was saved")
    except (
        AttributeError,  # Of a type that NumPy does not have.
        KeyError,
        MemoryError,
        OSError,
        TypeError,
        ValueError,
        safetensors.SafetensorError,
    ) as error:
        raise FolderError(
            f"cannot read the arrays in {path} ({error}): restore it, or {remedy}."
        ) from error
    return arrays, facts


def _memory() -> int:
    """The bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def described(name: str, owner: Owner) -> str:
    """Returns whose a part is that stands in the place of an owner's."""
    if name != owner.name:
        return f"another run, {name!r}"
    return "a run of the same name with another configuration or other images"


def _mapped(path: Path) -> Arrays:
    """The arrays of a safetensors file, which stay there."""
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


# Those of images and labels, by their names in safetensors.
_DTYPES = {"U8": np.uint8, "I32": np.int32}


def check_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], expected: Mapping[str, Any]
) -> None:
    """Refuses arrays of other names, shapes or types than expected.

    Args:
        path: where they come from, for the message.
        arrays: the arrays.
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
                f"{path} holds {name} as {own}, where this run has {wanted}: it is of "
                "another model; put back its own, or train the run again in another "
                "--workdir."
            )
