"""Folders in which a command does not write: other things, other runs, links outside.

Each of these is refused before anything is written or deleted.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.files.reading import cannot_read
from experiments.files.writing import UNFINISHED, refusing_to_write, remove
from experiments.messages.errors import FolderError
from experiments.messages.wording import listed
from experiments.runs.claims import LOCK, TABLES_LOCK
from experiments.settings.fingerprint import differences


def is_begun(folder: Path) -> bool:
    """Returns whether a folder holds a run.

    Raises:
        FolderError: it holds other things, or cannot be read.
    """
    with refusing_to_write(folder):
        begun = (folder / "config.json").exists()
        taken = _is_taken(folder)
    if taken and not begun:
        raise FolderError(
            f"{folder} exists and is not a run folder. Choose an empty or new folder "
            "as --workdir."
        )
    return begun


def _is_taken(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    # Locks and unfinished files are left by a kill just after a folder was begun.
    return any(
        entry.is_symlink()
        or not (entry.name in (LOCK, TABLES_LOCK) or entry.name.endswith(UNFINISHED))
        for entry in path.iterdir()
    )


def refuse_links(folder: Path) -> None:
    """Refuses a folder with links that lead out of it, or nowhere.

    Writing or deleting below it would otherwise reach files outside. The folder itself
    may be a link.

    Raises:
        FolderError: it has such a link; the first one is named.
    """
    root = os.path.realpath(folder)
    waiting = [root]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        _refuse_link(entry.path, root)
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except FileNotFoundError:  # Another command has just removed it.
            pass
        except OSError as error:
            raise cannot_read(folder, error) from error


def _refuse_link(link: str, root: str) -> None:
    target = os.path.realpath(link)
    if not target.startswith(root + os.sep) or not os.path.exists(target):
        raise FolderError(
            f"{link} is a link that leads out of the run folder, to "
            f"{os.readlink(link)}. Remove the link, or put a copy in its place."
        )


def refuse_another_config(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, loses_runs: bool
) -> None:
    """Refuses a configuration that gives other results than that of the folder.

    Args:
        folder: the run folder.
        old: its configuration.
        new: the configuration of this command.
        loses_runs: whether the folder holds runs that the new sweep does not have. If
            it does not, the sweep may differ: it has grown.

    Raises:
        FolderError: it does; the fields that differ are named.
    """
    if changes := differences(old, new, sweep=loses_runs):
        raise FolderError(
            f"{folder} holds the run of another config: {listed(changes, '; ')}. "
            "Choose another --workdir, or give the same config to continue."
        )


def remove_unfinished(folder: Path) -> None:
    """Removes the files that a killed command left half written."""
    for place, _, files in os.walk(folder):
        for name in files:
            if re.fullmatch(rf"\..+\.\d+{re.escape(UNFINISHED)}", name):
                remove(Path(place) / name)
