"""The user's own code: files of Python that run because a command line names them.

    --config=my_config.py --parts=my_parts.py --parts=my_package.priors

The modules of ``--parts`` register parts: a likelihood, a network, an objective. Only a
command line names them, never a run folder, which may be a stranger's.
"""

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from experiments.files.paths import expand_user
from experiments.messages.errors import SettingsError

_parts: list[str] = []  # as they were named


def parts_options() -> list[str]:
    """Returns the options that gave this process its parts, for another command."""
    return [f"--parts={name}" for name in _parts]


def import_parts(names: Iterable[str]) -> None:
    """Imports the modules that register the user's parts.

    Args:
        names: of each, its name as in an import, where the current folder is searched
            too, or the path of its file.

    Raises:
        SettingsError: there is no such module, or it cannot be imported.
    """
    for name in names:
        path = expand_user(name)
        is_file = path.suffix == ".py"
        module = path.stem if is_file else name
        find_modules_in(path.parent if is_file else Path.cwd())
        reason = _not_importable(path) if is_file else ""
        try:
            if not reason and not _has_file(module):
                reason = "there is no such module"
        except (Exception, SystemExit) as error:
            raise SettingsError(
                f"--parts is {name!r}{line_of(error, _first_file(error))}: "
                f"{told(error)}"
            ) from error
        if reason:
            raise SettingsError(
                f"--parts is {name!r}: {reason}. Name a module that can be imported, "
                "as in --parts=my_parts, or its file, as in --parts=my_parts.py."
            )
        if name not in _parts:
            _parts.append(name)


def _not_importable(path: Path) -> str:
    """Returns why the name of a file does not import it; '': it does."""
    if not path.is_file():
        return "there is no such file"
    spec = None if "." in path.stem else importlib.util.find_spec(path.stem)
    found = spec.origin if spec and spec.has_location else None
    if found and os.path.samefile(found, path):
        return ""
    return f"an import of {path.stem!r} finds {found or 'nothing'}, so rename the file"


def _has_file(module: str) -> bool:
    """Imports a module; returns whether there is one."""
    try:
        found = importlib.import_module(module) if all(module.split(".")) else None
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return False
        raise
    return bool(getattr(found, "__file__", None))  # A folder has none.


def _first_file(error: BaseException) -> Path:
    """Returns the first file of the user's that an error passed through."""
    files = (frame.filename for frame in traceback.extract_tb(error.__traceback__))
    own = (__file__, importlib.__file__)
    return Path(
        next((f for f in files if f not in own and not f.startswith("<frozen")), "")
    )


def find_modules_in(folder: Path) -> None:
    """Lets modules in a folder be imported, after those that are installed."""
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.append(place)  # Last, so that it hides nothing.


def line_of(error: BaseException, path: Path) -> str:
    """Where a mistake is, in the file or in one beside it."""
    own = path.absolute()
    places = [
        (Path(frame.filename).absolute(), frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    beside = [place for place in places if place[0].parent == own.parent]
    if not beside:
        return ""
    file, line = beside[-1]
    return f", {file.name + ' ' if file != own else ''}line {line}"


# By the types of a ConfigDict.
_CAST = re.compile(r"of original type <class '(.*)'> and cannot be casted to type <cl")


def told(error: BaseException) -> str:
    """What a mistake in the user's code is, and what to write instead."""
    text = str(error).partition(" Other fields present")[0]
    if found := _CAST.search(text):
        kind = found[1]
        if kind.startswith(("numpy.", "jax")):
            text += "; write .tolist() behind it."
        elif kind in ("range", "generator", "map"):
            text += "; write list(...) around it."
        else:
            text += "; give one of that type."
    if isinstance(error, ValueError) and text:  # Written to be read, as of a variant.
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
