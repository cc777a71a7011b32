"""A stored configuration on the machine at hand.

A run folder may be a stranger's. What its configuration says of the machine it was
trained on (paths, downloads, devices) is shown, and never obeyed: it comes from who
reads the folder, or is the default. That is so for commands that read the folder, and
where its ``config.json`` is the configuration of another run.
"""

import shlex
from collections.abc import Mapping
from typing import Any

from experiments.messages.errors import SettingsError

# What stands in the configuration instead.
_NEUTRAL: Mapping[str, Mapping[str, Any]] = {
    "data": {"path": "", "data_dir": "", "cache_dir": "", "download": False},
    "parallel": {
        "member_execution": "auto",
        "members": 0,
        "batch": 1,
        "memory_gib": 0.0,
    },
}

# Flags that give a field, of commands that read a run folder.
PLACES: Mapping[str, str] = {
    "data.path": "data_path",
    "data.data_dir": "data_dir",
    "data.cache_dir": "cache_dir",
}
# Of those that train what a configuration says.
OVERRIDES: Mapping[str, str] = {
    f"{section}.{field}": f"config.{section}.{field}"
    for section, fields in _NEUTRAL.items()
    for field in fields
}

_WITH_A_PATH = ("npz", "folder")  # Data sets that are the user's own images.
_LONGEST = 300  # characters of a value that are shown


def neutral(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stored configuration without what it says of its machine."""
    own = {
        section: {**config[section], **fields}
        for section, fields in _NEUTRAL.items()
        if isinstance(config.get(section), Mapping)  # Else it is refused as a whole.
    }
    return {**config, **own}


def on_this_machine(
    config: Mapping[str, Any], places: Mapping[str, str]
) -> dict[str, Any]:
    """Returns a stored configuration that obeys the machine at hand.

    Args:
        config: a whole configuration, as it was stored by anybody.
        places: where the images are: those of the fields ``PLACES`` that are given.

    Raises:
        SettingsError: a path is missing, or is given for data that have none.
    """
    own = neutral(config)
    if isinstance(own.get("data"), dict):
        own["data"] |= {name.partition(".")[2]: place for name, place in places.items()}
        refuse_without_images(config, own, PLACES)
        name = own["data"].get("name")
        if name not in _WITH_A_PATH and "data.path" in places:
            raise SettingsError(
                "--data_path has no effect, as the run's images are those of "
                f"{name!r}: leave it out."
            )
    return own


def refuse_without_images(
    config: Mapping[str, Any], own: Mapping[str, Any], flags: Mapping[str, str]
) -> None:
    """Refuses to go on where the user's own images were used, and are not named here.

    Args:
        config: as it was stored.
        own: as it is used here.
        flags: the flag that gives a field.

    Raises:
        SettingsError: naming the place that is not used, and the flag.
    """
    data = own.get("data")
    if not isinstance(data, Mapping):
        return  # It is refused as a whole.
    if data.get("name") in _WITH_A_PATH and not data.get("path"):
        remedy = _remedy("data.path", value("data.path", config), flags)
        raise SettingsError(
            f"the run was made with {_shown('data.path', config)}: not used here; "
            f"give {remedy} to use it, or name the place where its images are now."
        )


def not_obeyed(
    config: Mapping[str, Any], given: Mapping[str, Any], flags: Mapping[str, str]
) -> str:
    """Returns a line on what of a stored configuration is not obeyed; '': nothing.

    Args:
        config: as it was stored.
        given: fields of the machine that are given here.
        flags: the flags that give them, by field.
    """
    shown, remedies = [], []
    for name in OVERRIDES:
        was = value(name, config)
        if was in (_default(name), given.get(name, _default(name))):
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


def _default(name: str) -> Any:
    section, _, field = name.partition(".")
    return _NEUTRAL[section][field]


def value(name: str, config: Mapping[str, Any]) -> Any:
    """Returns what a configuration says of a field of the machine, or its default."""
    section, _, field = name.partition(".")
    stored = config.get(section)
    if not isinstance(stored, Mapping):
        return _default(name)
    return stored.get(field, _default(name))


def _shown(name: str, config: Mapping[str, Any]) -> str:
    text = repr(value(name, config))
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{name}={text}"


def _remedy(name: str, was: Any, flags: Mapping[str, str]) -> str:
    """A flag as it is typed; a value that cannot be typed is left to the reader."""
    is_of_its_type = type(was) is type(_default(name))
    can_be_typed = is_of_its_type and str(was) and str(was).isprintable()
    unknown = "PLACE" if name in PLACES else "VALUE"
    return f"--{flags[name]}={shlex.quote(str(was)) if can_be_typed else unknown}"
