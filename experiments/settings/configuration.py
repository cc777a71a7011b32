"""A configuration, as a command line gives it: a file, and fields that it overrides.

    --config=configs/digits.py:tiny --config.model.latent_dim=3 --config.sweep.seed=0,1
    --config=runs/sweep/config.json --config.data.path=images.npz

A file of Python is the user's own code, and runs. A ``config.json`` may come from a
stranger: its places and devices are shown, not used. If an override is given twice, the
last one counts.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.files.paths import ROOT, expand_user
from experiments.files.reading import read_object
from experiments.messages.errors import SettingsError
from experiments.settings import overrides, stored
from experiments.settings.arguments import Argument
from experiments.settings.fingerprint import with_defaults
from experiments.settings.user_code import CONFIG_ADVICE, run_config
from experiments.settings.values import plain


class Configuration(NamedTuple):
    """The configuration that a command line gives."""

    fields: dict[str, Any]  # all of them, plain, overrides applied
    overridden: frozenset[str]  # names of fields, as in 'model.latent_dim'
    not_obeyed: str  # a line on fields of a stored configuration that are not used


class _Given(NamedTuple):
    """A value for a field, or of --config itself."""

    option: str  # as in 'config.model.latent_dim'
    text: str
    place: str  # where it stands, for messages


def split(arguments: Iterable[Argument]) -> tuple[list[_Given], list[Argument]]:
    """Returns the arguments for the configuration, and the other arguments.

    Raises:
        SettingsError: a field without a value.
    """
    own: list[_Given] = []
    others: list[Argument] = []
    rest = iter(arguments)
    for argument in rest:
        name, value = argument.option() or ("", None)
        option = name.removeprefix("no")
        if argument.text == "--":  # Options end here.
            others += [argument, *rest]
        elif option != "config" and not option.startswith("config."):
            others.append(argument)
        else:
            is_switch = overrides.is_switch(option)
            if name != option and (not is_switch or value is not None):
                raise SettingsError(
                    f"{argument.place}{argument.text} is not understood. Write "
                    f"--{option}=VALUE."
                )
            if value is None and is_switch:
                value = str(name == option)
            elif value is None:
                value = next(rest, Argument("")).text
            own.append(_Given(option, value, argument.place))
    return own, others


def read(given: Sequence[_Given], default: str) -> Configuration:
    """Returns the configuration that a command line gives.

    Args:
        given: its arguments for the configuration.
        default: the file, if they name none.

    Raises:
        SettingsError: naming a value, the allowed values, and the nearest name.
    """
    file, changes = _in_order(given, default)
    place = file.place
    try:
        tree, found = _load(file.text)
        for change in changes:
            place = change.place
            overrides.apply(tree, change.option, change.text)
    except SettingsError as error:
        raise SettingsError(f"{place}{error}") from error
    fields = plain(tree, "config")
    overridden = frozenset(change.option.removeprefix("config.") for change in changes)
    if found is None:
        return Configuration(fields, overridden, "")
    given_here = overridden & {*stored.OVERRIDES}
    machine = {name: stored.value(name, fields) for name in given_here}
    stored.refuse_without_images(found, fields, stored.OVERRIDES)
    if "data.name" in overridden:  # The stored path is that of other images.
        found = {**found, "data": {**found["data"], "path": ""}}
    line = stored.not_obeyed(found, machine, stored.OVERRIDES)
    return Configuration(fields, overridden, line)


def _in_order(given: Sequence[_Given], default: str) -> tuple[_Given, list[_Given]]:
    """Returns --config, and the overrides of its fields.

    Raises:
        SettingsError: --config is given twice, or after an override.
    """
    files = [each for each in given if each.option == "config"]
    if len(files) > 1:
        # Overrides between the two were meant for the first file: neither applying nor
        # dropping them is right.
        raise SettingsError(
            f"{files[1].place}--config is {files[0].text!r} and {files[1].text!r}: it "
            "is given twice. Give one file, and override fields of it, as in "
            "--config.seed=1."
        )
    if files and given[0] != files[0]:
        raise SettingsError(
            f"{given[0].place}--{given[0].option} stands before --config. Give "
            "--config=FILE first, then --config.FIELD=VALUE."
        )
    (file,) = files or [_Given("config", default, "")]
    return file, [each for each in given if each.option != "config"]


def _load(argument: str) -> tuple[Any, dict[str, Any] | None]:
    """Returns the configuration that a file describes, and its content if it is stored.

    A configuration of this package is found from every folder that does not have such a
    file itself.

    Args:
        argument: ``path.py``, ``path.py:variant`` or ``path/config.json``.

    Raises:
        SettingsError: no such file, no configuration in it, or no such variant.
    """
    # A file of another name may be a stranger's, and does not run.
    match = re.fullmatch(r"(.*?\.(py|json))(?::(.*))?", argument, re.I | re.DOTALL)
    name, ending, variant = match.groups() if match else (argument, "", None)
    path = expand_user(name)
    if not os.path.exists(path) and os.path.isfile(ROOT / path):
        path = ROOT / path
    why, remedy = "there is no such configuration file", CONFIG_ADVICE
    if os.path.isfile(path) and not match:
        why = "it is no .py file, with a get_config(), nor a config.json"
    elif os.path.isfile(path) and ending.lower() == "py":
        return run_config(argument, path, variant), None
    elif os.path.isfile(path) and variant is None:
        found = _read(argument, path)
        return stored.neutral(found), found
    elif os.path.isfile(path):
        why, remedy = "a config.json has no variants", f"Give {name}"
    elif os.path.isfile(path / "config.json"):
        remedy = f"Give {os.path.join(name, 'config.json')}"
    elif os.path.exists(path) and not os.path.isdir(path):
        why = "it is no regular file"
    raise SettingsError.of("--config", argument, why, remedy)


def _read(argument: str, path: Path) -> dict[str, Any]:
    """Returns the configuration in a file of a run folder.

    Raises:
        SettingsError: it cannot be read, or is no configuration.
    """
    try:
        return with_defaults(read_object(path))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        remedy = (
            "Give the config.json of a run folder, or a file such as configs/digits.py"
        )
        raise SettingsError.of("--config", argument, str(why), remedy) from error
