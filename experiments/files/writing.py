"""Files that are written whole or not at all.

A new file is written beside the old one and then takes its place, so a reader or a
crash at any time meets the old content or the new, never half of it.
"""

import contextlib
import os
from collections.abc import Iterator
from errno import EEXIST, EISDIR, ELOOP, ENOTDIR, ENOTEMPTY
from pathlib import Path

from experiments.messages.errors import FolderError

# A process that is killed while it writes leaves a file whose name ends so.
UNFINISHED = ".unfinished"

# Errors of a path at which something of another kind lies.
_IN_ITS_PLACE = (EEXIST, EISDIR, ELOOP, ENOTDIR, ENOTEMPTY)


@contextlib.contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Yields a path to write to, which takes the place of ``path`` at the end.

    Raises:
        FolderError: ``path`` cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    with refusing_to_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:  # An interruption leaves no half file either.
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file; text as UTF-8.

    Raises:
        FolderError: the file cannot be written.
    """
    if isinstance(content, str):  # It may quote file names, which can be any bytes.
        content = content.encode(errors="backslashreplace")
    with atomically(path) as beside:
        beside.write_bytes(content)


def remove(path: Path) -> None:
    """Removes a file, if it is there.

    Raises:
        FolderError: it cannot be removed, or is a folder.
    """
    with refusing_to_write(path):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def refusing_to_write(path: Path) -> Iterator[None]:
    """Turns an OSError within into the refusal of a path that cannot be written.

    Raises:
        FolderError: the refusal.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> FolderError:
    """Returns the refusal of a path that cannot be written."""
    reason = getattr(error, "strerror", None) or error
    remedy = "Make room and permit writing there"
    if getattr(error, "errno", None) in _IN_ITS_PLACE:
        remedy = "Remove what is in its place"
    return FolderError(
        f"cannot write {path}: {reason}. {remedy}, or choose another place."
    )
