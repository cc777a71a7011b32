"""Files that may come from a stranger, read within limits.

Only regular files are read, because a pipe or a device could make the program wait or
read without end. A file that is larger than its kind can be is refused before its
content is read, and JSON that is nested deeper than any of ours is refused too.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.messages.errors import (
    DataError,
    FolderError,
    SettingsError,
    one_line,
)

# The most bytes of a record, a table or the metrics of a run. Ours are far smaller.
MOST_BYTES = 2**26

_MOST_NESTED = 50  # Levels of lists and objects in JSON.


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Returns the content of a regular file of at most ``most`` bytes.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no regular file, such as a pipe, or it is larger.
    """
    # Without O_NONBLOCK, opening a pipe would wait for a process that writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        refuse_irregular(found)
        if found.st_size > most:
            raise ValueError(f"it has {found.st_size:,} bytes, of at most {most:,}")
        content = file.read(most + 1)
    if len(content) > most:  # It has grown since.
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def refuse_other_file(
    path: Path, what: str, is_own: Callable[[bytes], bool], option: str
) -> None:
    """Refuses a place of a new file that holds something else than an older one.

    Args:
        path: where the file will be written.
        what: what it is, such as 'table'.
        is_own: whether the first 1,000 bytes of a file are those of such a one.
        option: the option that names the place.

    Raises:
        SettingsError: there is another file, one that cannot be read, or a folder.
    """
    start = b""
    if path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            start = file.read(1000)
    if os.path.lexists(path) and not is_own(start):
        why = f"it holds something else than such a {what}"
        raise SettingsError.of(option, str(path), why, "Choose a new file")


def refuse_irregular(found: os.stat_result) -> None:
    """Raises a ValueError for anything but a regular file."""
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")


def parse_json(content: bytes | str) -> Any:
    """Returns the value that JSON text stands for.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _is_nested(value, _MOST_NESTED):
        raise ValueError("it is nested too deeply")
    return value


def _is_nested(value: Any, levels: int) -> bool:
    """Returns whether a value has more than some levels of lists and objects."""
    inner = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and (
        levels == 0 or any(_is_nested(each, levels - 1) for each in inner)
    )


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; raises as ``read_bytes`` and ``parse_json``.

    Raises:
        ValueError: it holds something else.
    """
    found = parse_json(read_bytes(path))
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    return found


def cannot_read(
    path: Path, error: object, remedy: str = "choose another --workdir"
) -> FolderError:
    """Returns the refusal of a file that cannot be read.

    Args:
        path: the file.
        error: the reason.
        remedy: a clause on what to do if there is no copy to restore.
    """
    return FolderError(f"cannot read {path}: {error}. Restore it, or {remedy}.")


@contextlib.contextmanager
def refusing(what: str, remedy: str) -> Iterator[None]:
    """Turns errors within into refusals: a damaged file can raise errors of any class.

    Args:
        what: a clause that says what failed, such as 'cannot read a.png'.
        remedy: a sentence, without a full stop.

    Raises:
        DataError: ``what: error. remedy.``, or one from within.
    """
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        use = "Use fewer or smaller images"
        raise DataError(f"{what}: the memory is full. {use}.") from error
    except Exception as error:
        raise DataError(f"{what}: {one_line(error)}. {remedy}.") from error


def read_facts(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file of a folder.

    Raises:
        FolderError: it is missing, cannot be read, or holds something else.
    """
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error


def half_of_memory() -> int:
    """Returns half of this machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def refuse_too_large(num_bytes: int, where: str) -> None:
    """Refuses images that take over half of the memory: cutting them takes as much.

    Args:
        num_bytes: the size of the images.
        where: what messages call them.

    Raises:
        DataError: they are too large.
    """
    if num_bytes > (limit := half_of_memory()):
        raise DataError(
            f"{where} takes {num_bytes:,} bytes of memory: at most {limit:,} (half of"
            " this machine's) are allowed. Use fewer or smaller images."
        )
