"""A stored configuration on this machine.

A run folder may come from a stranger. Its configuration names paths, downloads, devices
and trackers of another machine: they are shown, and never used. The person who reads
the folder gives them, or they have their defaults. The same holds where the
``config.json`` of a folder is the configuration of another run.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from experiments.messages.errors import SettingsError
from experiments.trackers.interface import DEFAULT

# The fields that belong to a machine, and the values used in place of stored ones.
_NEUTRAL: Mapping[str, Any] = {
    "data.path": "",
    "data.data_dir": "",
    "data.cache_dir": "",
    "data.download": False,
    "parallel.member_execution": "auto",
    "parallel.members": 0,
    "parallel.batch": 1,
    "parallel.memory_gib": 0.0,
    "trackers": DEFAULT,
}
# Flags that give such a field: of commands that read a run folder, and of commands that
# train a configuration.
PLACES: Mapping[str, str] = {
    "data.path": "data_path",
    "data.data_dir": "data_dir",
    "data.cache_dir": "cache_dir",
}
OVERRIDES: Mapping[str, str] = {name: f"config.{name}" for name in _NEUTRAL}

_WITH_A_PATH = ("npz", "folder")  # Data sets that are the user's own images.
_LONGEST = 300  # characters of a value that are shown


def neutral(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored configuration with the defaults of the fields of a machine."""
    return _with(config, _NEUTRAL)


def without_images(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored configuration for a command that reads no images."""
    own = neutral(config)
    if value("data.name", own) in _WITH_A_PATH:  # An empty path would be refused.
        own = _with(own, {"data.path": "not read"})
    return own


def on_this_machine(
    config: Mapping[str, Any], places: Mapping[str, str]
) -> dict[str, Any]:
    """Returns a stored configuration for this machine.

    Args:
        config: a whole configuration, as it was stored.
        places: where the images are: the fields of ``PLACES`` that are given.

    Raises:
        SettingsError: a path is missing, or is given for data without a path.
    """
    own = _with(neutral(config), places)
    refuse_without_images(config, own, PLACES)
    path, name = places.get("data.path"), value("data.name", own)
    if path is not None and name not in _WITH_A_PATH:
        why = f"it has no effect on the run's images, which are {name!r}"
        raise SettingsError.of("--data_path", path, why, "Leave it out")
    return own


def _with(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration with other values of some fields, by dotted name.

    A section that is not a group stays: the whole configuration is refused later.
    """
    own = dict(config)
    for name, value in fields.items():
        section, _, field = name.rpartition(".")
        if not section:
            own[field] = value
        elif isinstance(group := own.get(section), Mapping):
            own[section] = {**group, field: value}
    return own


def refuse_without_images(
    config: Mapping[str, Any], own: Mapping[str, Any], flags: Mapping[str, str]
) -> None:
    """Refuses a run on the user's own images if no path is given on this machine.

    Args:
        config: as it was stored.
        own: as it is used here.
        flags: the flag that gives a field.

    Raises:
        SettingsError: naming the stored path, and the flag.
    """
    if value("data.name", own) in _WITH_A_PATH and not value("data.path", own):
        remedy = _remedy("data.path", value("data.path", config), flags)
        raise SettingsError(
            f"the run was made with {_shown('data.path', config)}: not used here; "
            f"give {remedy} to use it, or the path where its images are now."
        )


def not_obeyed(
    config: Mapping[str, Any], given: Mapping[str, Any], flags: Mapping[str, str]
) -> str:
    """Returns a line on the stored fields that are not used; '': there are none.

    Trackers are left out for a command that cannot choose them: it trains nothing.

    Args:
        config: as it was stored.
        given: fields of the machine that are given here.
        flags: the flags that give them, by field.
    """
    shown, remedies = [], []
    for name, default in _NEUTRAL.items():
        was = value(name, config)
        if was in (default, given.get(name, default)):
            continue
        if name == "trackers" and name not in flags:
            continue
        shown.append(_shown(name, config))
        if name in flags and name not in given:
            remedies.append(_remedy(name, was, flags))
    if not shown:
        return ""
    line = f"the run was made with {', '.join(shown)}: not used here"
    if remedies:
        object_ = "it" if len(remedies) == 1 else "them"
        line += f"; give {' '.join(remedies)} to use {object_}"
    return line


def value(name: str, config: Mapping[str, Any]) -> Any:
    """Returns a configuration's value of a field, or the default of a machine's."""
    section, _, field = name.rpartition(".")
    group, default = config.get(section) if section else config, _NEUTRAL.get(name)
    found = group.get(field, default) if isinstance(group, Mapping) else default
    if isinstance(default, tuple) and isinstance(found, list):
        return tuple(found)  # JSON has no tuples.
    return found


def _shown(name: str, config: Mapping[str, Any]) -> str:
    text = repr(value(name, config))
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{name}={text}"


def _remedy(name: str, was: Any, flags: Mapping[str, str]) -> str:
    """Returns a flag as it is typed; a value that cannot be typed is left open."""
    is_of_its_type = type(was) is type(_NEUTRAL[name])
    text = (",".join(map(str, was)) or "()") if isinstance(was, tuple) else str(was)
    can_be_typed = is_of_its_type and text and text.isprintable()
    unknown = "PLACE" if name in PLACES else "VALUE"
    return f"--{flags[name]}={shlex.quote(text) if can_be_typed else unknown}"
