"""The user's own code: files of Python that run because a command line names them.

    --config=my_config.py --parts=my_parts.py --parts=my_package.priors

``get_config()`` of a file returns its configuration. The modules of ``--parts``
register parts: a likelihood, a network, an objective. Only a command line names them,
never a run folder, which may be a stranger's.
"""

import contextlib
import importlib
import importlib.util
import os
import re
import runpy
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from experiments.files.paths import expand_user
from experiments.messages.errors import SettingsError

CONFIG_ADVICE = "Give a file such as configs/digits.py or configs/digits.py:tiny"

_parts: list[str] = []  # as the command line names them


def parts_options() -> list[str]:
    """Returns the options that gave this process its parts, for another command."""
    return [f"--parts={name}" for name in _parts]


def import_parts(names: Iterable[str]) -> None:
    """Imports the modules that register the user's parts.

    Args:
        names: of modules that can be imported, also from the current folder, or paths
            of files.

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
                f"--parts is {name!r}{_line_of(error)}: {_explained(error)}"
            ) from error
        if reason:
            remedy = (
                "Name a module that can be imported, as in --parts=my_parts, or its "
                "file, as in --parts=my_parts.py"
            )
            raise SettingsError.of("--parts", name, reason, remedy)
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


def run_config(argument: str, path: Path, variant: str | None) -> ConfigDict:
    """Returns the configuration that ``get_config()`` of a file describes.

    Modules beside the file can be imported, unless an installed one has the name.

    Args:
        argument: the value of --config, for messages.
        path: the file.
        variant: the argument of ``get_config``; None: it has none.

    Raises:
        SettingsError: it describes no configuration, or there is no such variant.
    """
    find_modules_in(path.resolve().parent)
    why, remedy = "this file defines no get_config()", CONFIG_ADVICE
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        loaded = get_config and get_config(*[] if variant is None else [variant])
    except (SyntaxError, UnicodeDecodeError) as error:
        why += f", as it is no Python ({error})"
        raise SettingsError.of("--config", argument, why, remedy) from error
    except Exception as error:
        raise SettingsError(
            f"--config is {argument!r}{_line_of(error, path)}: {_explained(error)}"
        ) from error
    if not isinstance(loaded, ConfigDict):
        if get_config:
            why = f"its get_config() returns a {type(loaded).__name__}"
            remedy = "Let it return a ml_collections.ConfigDict"
        raise SettingsError.of("--config", argument, why, remedy)
    config = ConfigDict(loaded) if isinstance(loaded, FrozenConfigDict) else loaded
    with config.ignore_type(), contextlib.suppress(config_dict.RequiredValueError):
        if isinstance(grids := config.get("sweep"), (list, tuple)):
            config.sweep = [
                dict(grid) if isinstance(grid, (ConfigDict, dict)) else grid
                for grid in grids
            ]
    return config


def find_modules_in(folder: Path) -> None:
    """Lets modules in a folder be imported, after those that are installed."""
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.append(place)  # Last, so that it hides nothing.


def _line_of(error: BaseException, path: Path | None = None) -> str:
    """Returns the place of a mistake, in the user's file or in one beside it.

    Args:
        error: the mistake.
        path: the file; None: the first that the error passed through.
    """
    places = [
        (Path(frame.filename).absolute(), frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__)
        and not frame.filename.startswith("<frozen")
    ]
    own = path.absolute() if path else next((place[0] for place in places), Path())
    beside = [place for place in places if place[0].parent == own.parent]
    if not beside:
        return ""
    file, line = beside[-1]
    return f", {file.name + ' ' if file != own else ''}line {line}"


# The message of a ConfigDict that refuses a type.
_CAST = re.compile(r"of original type <class '(.*)'> and cannot be casted to type <cl")


def _explained(error: BaseException) -> str:
    """Returns the reason of a mistake in the user's code, and the remedy."""
    text = str(error).partition(" Other fields present")[0]
    if found := _CAST.search(text):
        kind = found[1]
        if kind.startswith(("numpy.", "jax")):
            text += ". Write .tolist() after it."
        elif kind in ("range", "generator", "map"):
            text += ". Write list(...) around it."
        else:
            text += ". Give one of that type."
    if isinstance(error, ValueError) and text:  # Such as a variant that is unknown.
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
