"""A configuration, as a command line gives it: a file, and fields that it overrides.

    --config=configs/digits.py:tiny --config.model.latent_dim=3 --config.sweep.seed=0,1
    --config=runs/sweep/config.json --config.data.path=images.npz

A file of Python is the user's own code, and runs. A ``config.json`` may come from a
stranger: it is read, and what it says of the machine it comes from is shown, not
obeyed. Of an override that is given twice the last one counts, whatever the field.
"""

import ast
import contextlib
import dataclasses
import os
import re
import runpy
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from experiments.files.paths import expand_user
from experiments.files.sealed import read_json
from experiments.messages.errors import SettingsError
from experiments.messages.wording import counted
from experiments.settings import stored
from experiments.settings.arguments import Argument
from experiments.settings.fingerprint import with_defaults
from experiments.settings.grid import AXES
from experiments.settings.schema import (
    Options,
    Settings,
    field_types,
    plain,
    refuse_unknown,
    shown,
)
from experiments.settings.user_code import find_modules_in, line_of, told

ROOT = Path(__file__).parents[2]  # where the configurations of this package lie

_ADVICE = "give a file such as configs/digits.py or configs/digits.py:tiny."


class Configuration(NamedTuple):
    """What a command line says of the configuration."""

    fields: dict[str, Any]  # whole and plain, overrides applied
    overridden: frozenset[str]  # names of fields, as in 'model.latent_dim'
    not_obeyed: str  # a line on what of a stored configuration is not; '': nothing


class _Override(NamedTuple):
    """A value for a field, or of --config itself."""

    option: str  # as in 'config.model.latent_dim'
    text: str
    place: str  # where it stands, for messages


def split(
    arguments: Sequence[Argument],
) -> tuple[list[_Override], list[Argument]]:
    """Returns what arguments say of the configuration, and the other arguments.

    Raises:
        SettingsError: a field without a value.
    """
    own: list[_Override] = []
    others: list[Argument] = []
    rest = iter(arguments)
    for argument in rest:
        name, value = argument.option() or ("", None)
        option = name.removeprefix("no")
        if argument.text == "--":  # What follows is no option.
            others += [argument, *rest]
        elif option != "config" and not option.startswith("config."):
            others.append(argument)
        else:
            is_switch = _declared(option) is bool
            if name != option and (not is_switch or value is not None):
                raise SettingsError(
                    f"{argument.place}{argument.text} is not understood: write "
                    f"--{option}=VALUE."
                )
            if value is None and is_switch:
                value = str(name == option)
            elif value is None:
                value = next(rest, Argument("")).text
            own.append(_Override(option, value, argument.place))
    return own, others


def read(given: Sequence[_Override], default: str) -> Configuration:
    """Returns the configuration that a command line gives.

    Args:
        given: what it says of it.
        default: the file, where it names none.

    Raises:
        SettingsError: naming a value, what is allowed, and the nearest name.
    """
    files = [each for each in given if each.option == "config"]
    if len(files) > 1:
        # Overrides between them were meant for the first: with them the second would
        # not be what it says, and without them they would be lost.
        raise SettingsError(
            f"{files[1].place}--config is {files[0].text!r} and {files[1].text!r}: "
            "name one file, and override fields of it, as in --config.seed=1."
        )
    if files and given[0] != files[0]:
        raise SettingsError(
            f"{given[0].place}--{given[0].option} stands before --config: give "
            "--config=FILE first, then --config.FIELD=VALUE."
        )
    (file,) = files or [_Override("config", default, "")]
    overrides = [each for each in given if each.option != "config"]
    try:
        place = file.place
        tree, found = _load(file.text)
        for override in overrides:  # The last one counts.
            place = override.place
            _set(tree, override.option, override.text)
    except SettingsError as error:
        raise SettingsError(f"{place}{error}") from error
    fields = plain(_whole(tree, "config"), "config")
    overridden = {each.option.removeprefix("config.") for each in overrides}
    if found is None:
        return Configuration(fields, frozenset(overridden), "")
    machine = {
        name: stored.value(name, fields) for name in overridden & {*stored.OVERRIDES}
    }
    stored.refuse_without_images(found, fields, stored.OVERRIDES)
    if "data.name" in overridden:  # The path is that of other images.
        found = {**found, "data": {**found["data"], "path": ""}}
    line = stored.not_obeyed(found, machine, stored.OVERRIDES)
    return Configuration(fields, frozenset(overridden), line)


def _whole(tree: Any, name: str) -> Any:
    """A ConfigDict as a dictionary; what is none, as it is.

    Raises:
        SettingsError: a field that the file leaves to the command line is not given.
    """
    if not isinstance(tree, ConfigDict):
        return tree
    found = {}
    for field in tree:
        whole = f"{name}.{shown(field)}"
        try:
            found[field] = _whole(tree[field], whole)
        except config_dict.RequiredValueError as error:
            raise SettingsError(
                f"{whole} has no value: give --{whole}=VALUE."
            ) from error
    return found


# --- the file -------------------------------------------------------------------------


def _load(argument: str) -> tuple[Any, dict[str, Any] | None]:
    """The configuration that a file describes, and what was stored, if it was.

    A configuration that comes with this package is found in any folder that has no such
    file.

    Args:
        argument: ``path.py``, ``path.py:variant`` or ``path/config.json``.

    Raises:
        SettingsError: no such file, no configuration in it, or no such variant.
    """
    # What has another name may be a stranger's, and does not run.
    match = re.fullmatch(r"(.*?\.(py|json))(?::(.*))?", argument, re.I | re.DOTALL)
    name, ending, variant = match.groups() if match else (argument, "", None)
    path = expand_user(name)
    if not os.path.exists(path) and os.path.isfile(ROOT / path):
        path = ROOT / path
    reason, remedy = "no such configuration file", _ADVICE
    if os.path.isfile(path) and not match:
        reason = "it is no .py file, with a get_config(), nor a config.json"
    elif os.path.isfile(path) and ending.lower() == "py":
        return _run(argument, path, variant), None
    elif os.path.isfile(path) and variant is None:
        found = _read(argument, path)
        return stored.neutral(found), found
    elif os.path.isfile(path):
        reason, remedy = "a config.json has no variants", f"give {name}."
    elif os.path.isfile(path / "config.json"):
        remedy = f"give {os.path.join(name, 'config.json')}."
    elif os.path.exists(path) and not os.path.isdir(path):
        reason = "it is no regular file"
    raise SettingsError(f"--config is {argument!r}: {reason}; {remedy}")


def _run(argument: str, path: Path, variant: str | None) -> ConfigDict:
    """What a file of Python describes.

    Modules beside it can be imported, where none that is installed has the name.

    Raises:
        SettingsError: it describes no configuration, or there is no such variant.
    """
    find_modules_in(path.resolve().parent)
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        loaded = get_config and get_config(*[] if variant is None else [variant])
    except (SyntaxError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"--config is {argument!r}: this file defines no get_config(), as it is no "
            f"Python ({error}); {_ADVICE}"
        ) from error
    except Exception as error:
        raise SettingsError(
            f"--config is {argument!r}{line_of(error, path)}: {told(error)}"
        ) from error
    if not get_config:
        raise SettingsError(
            f"--config is {argument!r}: this file defines no get_config(); {_ADVICE}"
        )
    if not isinstance(loaded, ConfigDict):
        raise SettingsError(
            f"--config is {argument!r}: its get_config() returns a "
            f"{type(loaded).__name__}; let it return a ml_collections.ConfigDict."
        )
    config = ConfigDict(loaded) if isinstance(loaded, FrozenConfigDict) else loaded
    with config.ignore_type(), contextlib.suppress(config_dict.RequiredValueError):
        if isinstance(grids := config.get("sweep"), (list, tuple)):
            config.sweep = [
                dict(grid) if isinstance(grid, (ConfigDict, dict)) else grid
                for grid in grids
            ]
    return config


def _read(argument: str, path: Path) -> dict[str, Any]:
    """The configuration in a file that a run folder holds.

    Raises:
        SettingsError: it cannot be read, or is none.
    """
    try:
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"--config is {argument!r}: {reason}; give the config.json of a run "
            "folder, or a file such as configs/digits.py."
        ) from error
    try:
        # First of all: there may be any number of them.
        refuse_unknown(found, _FIELDS, "config.")
        for name, group in found.items():
            if name in _GROUPS and isinstance(group, dict):
                refuse_unknown(group, _GROUPS[name], f"config.{name}.")
            elif name == "sweep" and isinstance(group, list):
                for index, grid in enumerate(group):
                    if isinstance(grid, dict):
                        refuse_unknown(grid, AXES, f"config.sweep[{index}].")
    except SettingsError as error:
        raise SettingsError(f"--config is {argument!r}: {error}") from error
    return with_defaults(found)


# --- overrides ------------------------------------------------------------------------


# The groups of fields that a configuration has, with the types of their fields; an
# axis of a sweep has none.
_GROUPS: dict[str, dict[str, Any]] = {
    **{
        name: field_types(kind)
        for name, kind in field_types(Settings).items()
        if dataclasses.is_dataclass(kind) and isinstance(kind, type)
    },
    "sweep": dict.fromkeys(AXES),
}
_FIELDS: dict[str, Any] = {**field_types(Settings), "sweep": None}


def _declared(option: str) -> Any:
    """The type that a field is declared with; None for any other option."""
    first, _, field = option.removeprefix("config.").partition(".")
    return _GROUPS[first].get(field) if first in _GROUPS else _FIELDS.get(first)


def _set(tree: Any, option: str, text: str) -> None:
    """Sets a field of a configuration to what an override says.

    An axis is set in each grid of the sweep that has it, or in the grid of a number, as
    in ``config.sweep.1.seed``.

    Raises:
        SettingsError: there is no such field, or it takes no such value.
    """
    _, field, *others = (part.removesuffix("]") for part in re.split(r"[.\[]", option))
    groups, names, place = [tree], _FIELDS, "config"
    if field in _GROUPS:
        names, place = _GROUPS[field], f"config.{field}"
        groups = tree.get(field)
        groups = groups if isinstance(groups, (list, tuple)) else [groups]
        if field == "sweep" and others and others[0].isdecimal():
            index, *others = others
            chosen = [grid for i, grid in enumerate(groups) if str(i) == index]
            if not chosen:
                raise SettingsError(
                    f"--{option} is {text!r}: config.sweep has "
                    f"{counted(len(groups), 'grid')}. Count them from 0, as in "
                    f"--{'.'.join(['config.sweep.0', *others])}={shlex.quote(text)}."
                )
            groups, place = chosen, f"{place}.{index}"
        if not others:
            raise SettingsError(
                f"--{option} is a group: set one of its fields, as in "
                f"--{option}.FIELD=VALUE; the names there are: "
                f"{', '.join(sorted(names))}."
            )
        if not groups or not all(
            isinstance(each, (ConfigDict, dict)) for each in groups
        ):
            raise SettingsError(f"{place} is missing: it must be a group.")
        field, *others = others
    refuse_unknown([field], names, f"--{place}.")
    if len(groups) > 1 and not (groups := [grid for grid in groups if field in grid]):
        raise SettingsError(
            f"--{option} is {text!r}: no grid of config.sweep has this axis. Give it "
            f"to one of them, as in --{place}.0.{field}={shlex.quote(text)}."
        )
    try:
        now = groups[0].get(field)
    except config_dict.RequiredValueError:  # Left to the command line by the file.
        now = None
    if others:
        whole = f"{place}.{field}"
        raise SettingsError(
            f"--{option}: parts of {whole} cannot be set one by one: give all of it, "
            f"as in --{whole}={_example(whole, now)}."
        )
    value = _parsed(option, text, now)
    for group in groups:
        with contextlib.ExitStack() as stack:
            if isinstance(group, ConfigDict):
                # Types are those of Settings.
                stack.enter_context(group.ignore_type())
                if field not in group:  # An axis.
                    stack.enter_context(group.unlocked())
            group[field] = value


_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    Options: "values by name",
}
_PARSERS: dict[type, Callable[[str], Any]] = {
    int: flags.IntegerParser().parse,
    float: flags.FloatParser().parse,
    bool: flags.BooleanParser().parse,
    str: str,
}


def _parsed(option: str, text: str, now: Any) -> Any:
    """The value that a text gives a field.

    Args:
        option: names it.
        text: the value.
        now: what it has, as an example.

    Raises:
        SettingsError: it takes no such value.
    """
    kind = _declared(option)
    try:
        if kind in _PARSERS:
            return _PARSERS[kind](text)
        if "#" in text:
            raise ValueError("Python would leave out the rest, as a comment")
        values = _values(text) if kind is None else ast.literal_eval(text.strip())
        if kind is Options:
            return dict(values)
        if isinstance(values, (set, dict)):
            raise ValueError("it has no order")
        # An axis may have one value.
        several = kind is None or isinstance(values, (tuple, list))
        return values if several else (values,)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        words = "values" if kind is None else _WORDS.get(kind, "a tuple of integers")
        raise SettingsError(
            f"--{option} is {text!r}: give {words}, as in "
            f"--{option}={_example(option, now)}."
        ) from None


def _example(option: str, now: Any) -> Any:
    """A value that a field could have, as it is typed; at best that which it has."""
    kind = _declared(option)
    if kind is None:  # An axis.
        axes = {"seed": int, **_GROUPS["model"], **_GROUPS["training"]}
        kind = axes[option.rpartition(".")[2]]
        if kind not in _SEVERAL:
            return "'((64, 64), (128,))'"
    elif kind is Options:
        return "\"{'depth': 2}\""
    elif kind in _PARSERS:
        return _SEVERAL[kind].partition(",")[0] if now is None else now
    several = isinstance(now, (tuple, list)) and now
    return ",".join(map(str, now[:2])) if several else _SEVERAL.get(kind, "64,64")


_SEVERAL = {int: "1,2", float: "1.0,2.0", bool: "true,false", str: "NAME,NAME"}


def _values(text: str) -> Any:
    """What Python reads in a text; names need no quotes, nor do true and false.

    Raises:
        ValueError: brackets or quotes that make no value.
    """
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        parts = [part.strip() for part in text.split(",")]
        if not all(re.fullmatch(r"[^\s()\[\]{}'\"]+", part) for part in parts):
            raise
    return tuple(map(_word, parts))


def _word(text: str) -> Any:
    """A truth value, a number, or else a name."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
