"""Fields of a configuration that a command line sets, as in --config.model.widths=8,8.

``--config.sweep.seed=0,1`` sets an axis in each grid of the sweep that has it;
``--config.sweep.1.seed=0,1`` sets it in the second grid.
"""

import contextlib
import re
import shlex
from dataclasses import is_dataclass
from typing import Any

from ml_collections import ConfigDict, config_dict

from experiments.messages.errors import SettingsError
from experiments.messages.wording import counted
from experiments.settings.grid import AXES
from experiments.settings.schema import Settings, field_types
from experiments.settings.values import example, parse, refuse_unknown

# The fields of a configuration and the groups of them, with their types.
FIELDS: dict[str, Any] = {**field_types(Settings), "sweep": None}
GROUPS: dict[str, dict[str, Any]] = {
    name: field_types(FIELDS[name]) for name in FIELDS if is_dataclass(FIELDS[name])
} | {"sweep": AXES}


def is_switch(option: str) -> bool:
    """Returns whether an option, as 'config.data.stream', needs no value."""
    first, _, field = option.removeprefix("config.").partition(".")
    names = GROUPS.get(first, {}) if field else FIELDS
    return first != "sweep" and names.get(field or first) is bool


def apply(tree: Any, option: str, text: str) -> None:
    """Sets a field of a configuration to the value of an override.

    Args:
        tree: the configuration, which is changed.
        option: as 'config.model.widths'.
        text: the value.

    Raises:
        SettingsError: there is no such field, or it takes no such value.
    """
    _, field, *parts = (part.removesuffix("]") for part in re.split(r"[.\[]", option))
    if field in GROUPS:
        groups, place, parts = _groups(tree, field, parts, option, text)
        names = GROUPS[field]
        field, *parts = parts
    else:
        groups, place, names = [tree], "config", FIELDS
    refuse_unknown([field], names, f"--{place}.")
    if len(groups) > 1 and not (groups := [grid for grid in groups if field in grid]):
        why = "no grid of config.sweep has this axis"
        typed = f"--{place}.0.{field}={shlex.quote(text)}"
        remedy = f"Give it to one of them, as in {typed}"
        raise SettingsError.of(f"--{option}", text, why, remedy)
    try:
        now = groups[0].get(field)
    except config_dict.RequiredValueError:  # The file leaves it to the command line.
        now = None
    if parts:
        whole = f"--{place}.{field}"
        raise SettingsError(
            f"--{option}: parts of {place}.{field} cannot be set one by one. Give all "
            f"of it, as in {whole}={example(names[field], now)}."
        )
    value = parse(f"--{option}", text, names[field], now, is_axis=names is AXES)
    for group in groups:
        with contextlib.ExitStack() as stack:
            if isinstance(group, ConfigDict):
                stack.enter_context(group.ignore_type())  # Settings check the types.
                if field not in group:  # An axis.
                    stack.enter_context(group.unlocked())
            group[field] = value


def _groups(
    tree: Any, name: str, parts: list[str], option: str, text: str
) -> tuple[list[Any], str, list[str]]:
    """Returns the groups that an override sets a field of.

    Args:
        tree: the configuration.
        name: of the group.
        parts: of the option, from there on.
        option: the whole option, for messages.
        text: its value, for messages.

    Returns:
        The groups: several for the grids of a sweep; their place, as 'config.sweep.1';
        and the further parts of the option, at least one.

    Raises:
        SettingsError: there is no such group, or the option names no field of it.
    """
    found, place = tree.get(name), f"config.{name}"
    groups = list(found) if isinstance(found, (list, tuple)) else [found]
    if name == "sweep" and parts and parts[0].isdecimal():
        index, *parts = parts
        chosen = [grid for i, grid in enumerate(groups) if str(i) == index]
        if not chosen:
            why = f"config.sweep has {counted(len(groups), 'grid')}"
            typed = f"--{'.'.join(['config.sweep.0', *parts])}={shlex.quote(text)}"
            remedy = f"Count them from 0, as in {typed}"
            raise SettingsError.of(f"--{option}", text, why, remedy)
        groups, place = chosen, f"{place}.{index}"
    if not parts:
        raise SettingsError(
            f"--{option} is a group. Set one of its fields, as in "
            f"--{option}.FIELD=VALUE: {', '.join(GROUPS[name])}."
        )
    if not groups or not all(isinstance(each, (ConfigDict, dict)) for each in groups):
        raise SettingsError(f"{place} is missing: it must be a group.")
    return groups, place, parts
