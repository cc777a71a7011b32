"""A stored configuration on the machine at hand.

A run folder may be a stranger's. What its configuration says of the machine it was
trained on (paths, downloads, devices) is shown, and never obeyed: it comes from who
reads the folder, or is the default.
"""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from experiments.settings import SettingsError

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
_WITH_A_PATH = ("npz", "folder")  # Data sets that are the user's own images.
_LONGEST = 300  # characters of a value that are shown


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the images are here; '': the default, as in ``DataSettings``."""

    path: str = ""
    data_dir: str = ""
    cache_dir: str = ""

    @staticmethod
    def flag(field: str) -> str:
        """Returns the name of the command-line flag that gives a place."""
        return "data_path" if field == "path" else field


def on_this_machine(config: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Returns a stored configuration that obeys the machine at hand.

    Args:
        config: a whole configuration, as it was stored by anybody.
        places: where the images are.

    Raises:
        SettingsError: a path is missing, or is given for data that have none.
    """
    given = {"data": dataclasses.asdict(places), "parallel": {}}
    own = {
        section: {**config[section], **neutral, **given[section]}
        for section, neutral in _NEUTRAL.items()
        if isinstance(config.get(section), Mapping)  # Else it is refused as a whole.
    }
    name = own.get("data", {}).get("name")
    if name in _WITH_A_PATH and not places.path:
        remedy = _remedy("path", config["data"].get("path"))
        raise SettingsError(
            f"the run was made with {_shown('data', 'path', config)}: not used here; "
            f"give {remedy} to use it, or name the place where its images are now."
        )
    if name not in _WITH_A_PATH and places.path:
        raise SettingsError(
            f"--data_path has no effect, as the run's images are those of {name!r}: "
            "leave it out."
        )
    return {**config, **own}


def not_obeyed(config: Mapping[str, Any], places: Places) -> str:
    """Returns a line on what of a stored configuration is not obeyed; '': nothing."""
    given = dataclasses.asdict(places)
    shown, remedies = [], []
    for section, neutral in _NEUTRAL.items():
        stored = config.get(section)
        if not isinstance(stored, Mapping):
            continue
        for field in neutral:
            value = stored.get(field, neutral[field])
            if value in (neutral[field], given.get(field)):
                continue
            shown.append(_shown(section, field, config))
            if given.get(field) == "":
                remedies.append(_remedy(field, value))
    if not shown:
        return ""
    line = f"the run was made with {', '.join(shown)}: not used here"
    if remedies:
        object_ = "it" if len(remedies) == 1 else "them"
        line += f"; give {' '.join(remedies)} to use {object_}"
    return line


def _shown(section: str, field: str, config: Mapping[str, Any]) -> str:
    value = config[section].get(field, _NEUTRAL[section][field])
    text = repr(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{section}.{field}={text}"


def _remedy(field: str, value: Any) -> str:
    """A flag as it is typed; a value that cannot be typed is left to the reader."""
    can_be_typed = isinstance(value, str) and value and value.isprintable()
    text = shlex.quote(value) if can_be_typed else "PLACE"
    return f"--{Places.flag(field)}={text}"
