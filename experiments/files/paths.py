"""Files of images that may be a stranger's: what there is, and how large it may be.

Nothing here reads what is in a file. Links are followed, for reading.
"""

import errno
import os
import pathlib
import re
import stat
import urllib.parse
from typing import NamedTuple

from experiments.messages.errors import DataError


def expand_user(path: str) -> pathlib.Path:
    """Returns a path of this machine in which `~` is written out.

    Raises:
        DataError: if nobody's home is known by that name, or it is an address, such as
            `gs://bucket/runs`; one of a file here, `file:///home/name/runs`, is a path.
    """
    if local := re.fullmatch(r"(?is)file:(?://(?:localhost)?)?(/(?!/).*)", path):
        path = urllib.parse.unquote(local[1])
    elif re.match(r"[a-zA-Z][\w+.-]+:/", path):
        raise DataError(
            f"{path!r} is an address, and only files of this machine are read and"
            " written: mount what is there and give its path, as in /mnt/runs"
        )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{path!r} begins with a home folder that is not known here: write it out,"
            " as in /home/name/folder"
        ) from error


def refuse_too_large(num_bytes: int, where: str) -> None:
    """Refuses images that would fill the memory; cutting them takes as much again."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if num_bytes > limit:
        raise DataError(
            f"{where} takes {num_bytes:,} bytes of memory, of at most {limit:,} (half"
            " of this machine's): use fewer or smaller images"
        )


class File(NamedTuple):
    """What lies in a folder of data and is no folder.

    Attributes:
        name: relative to the folder.
        found: facts about it, or about what a link leads to; None if that is nothing.
    """

    name: str
    found: os.stat_result | None

    @property
    def is_regular(self) -> bool:
        """Whether it can be read without waiting, and to an end."""
        return self.found is not None and stat.S_ISREG(self.found.st_mode)


def walk(folder: pathlib.Path, *, hidden: bool = False) -> list[File]:
    """Returns all files below a folder, in the order of their names.

    Links are followed.

    Args:
        folder: the folder; one that is missing holds nothing.
        hidden: whether to list what is hidden, too.

    Raises:
        DataError: if links lead in a circle or to one folder twice, which could make
            endless or very many paths, or a folder cannot be read.
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
                    f"{link} is a link to {other}, which is read already: remove it"
                )
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith(".") and not hidden:
                        continue
                    inner = f"{name}/{entry.name}" if name else entry.name
                    facts = _facts(entry)
                    if facts is not None and stat.S_ISDIR(facts.st_mode):
                        waiting.append(inner)
                    else:
                        files.append(File(inner, facts))
        except FileNotFoundError:  # Another process has removed or renamed it.
            continue
        except OSError as error:
            raise DataError(
                f"cannot read {path} ({error.strerror}): permit reading it, or remove"
                " it"
            ) from error
    return sorted(files, key=lambda file: file.name.split("/"))


def _facts(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Returns facts about an entry of a folder, or about what a link leads to."""
    try:
        return entry.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DataError(
            f"{entry.path} is a link that leads in a circle: remove it"
        ) from error
