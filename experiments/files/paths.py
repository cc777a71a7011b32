"""Paths: what a user's text stands for, and which files lie below a folder.

The content of files is not read. Links are followed.
"""

import contextlib
import os
import pathlib
import re
import stat
import urllib.parse
from typing import NamedTuple

from experiments.messages.errors import DataError

ROOT = pathlib.Path(__file__).parents[2]  # where this package and its configs/ lie


def expand_user(path: str) -> pathlib.Path:
    """Returns the path that a text stands for: ``~`` and ``file:///`` are resolved.

    Raises:
        DataError: the text is an address elsewhere, such as ``gs://bucket/runs``, or
            begins with a home folder that this machine does not know.
    """
    if local := re.fullmatch(r"(?is)file:(?://(?:localhost)?)?(/(?!/).*)", path):
        path = urllib.parse.unquote(local[1])
    elif re.match(r"[a-zA-Z][\w+.-]+:/", path):
        raise DataError(
            f"{path!r} is an address: only files of this machine are read and written."
            " Mount the address and give the path, as in /mnt/runs."
        )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{path!r} begins with a home folder that is not known here. Write the path"
            " in full, as in /home/name/folder."
        ) from error


class File(NamedTuple):
    """A file, or anything else below a folder that is no folder.

    Attributes:
        name: its path, relative to the folder.
        found: facts about it, or about the target of a link; None for a link to
            nothing.
    """

    name: str
    found: os.stat_result | None

    @property
    def is_regular(self) -> bool:
        """Whether it can be read without waiting, and has an end."""
        return self.found is not None and stat.S_ISREG(self.found.st_mode)


def walk(folder: pathlib.Path, *, hidden: bool = False) -> list[File]:
    """Returns all files below a folder, in the order of their names.

    Args:
        folder: the folder; a missing one holds no files.
        hidden: whether to list hidden files, too.

    Raises:
        DataError: links lead in a circle or to one folder twice, so that there would
            be endless or very many paths; or a folder cannot be read.
    """
    files = []
    seen: dict[tuple[int, int], pathlib.Path] = {}
    waiting = [""] if os.path.isdir(folder) else []
    while waiting:
        name = waiting.pop()
        path = folder / name
        try:
            found = os.stat(path)
            first = seen.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                link, other = (path, first) if path.is_symlink() else (first, path)
                raise DataError(
                    f"{link} is a link to {other}, which is read already. Remove it."
                )
            for entry in list(os.scandir(path)):
                if entry.name.startswith(".") and not hidden:
                    continue
                inner, facts = f"{name}/{entry.name}" if name else entry.name, None
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    facts = entry.stat()
                if facts and stat.S_ISDIR(facts.st_mode):
                    waiting.append(inner)
                else:
                    files.append(File(inner, facts))
        except FileNotFoundError:  # Another process has removed or renamed it.
            continue
        except OSError as error:
            raise DataError(
                f"cannot read {error.filename}: {error.strerror}. Permit reading it, or"
                " remove it."
            ) from error
    return sorted(files, key=lambda file: file.name.split("/"))
