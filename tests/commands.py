"""The commands of the project, as setup.cfg installs them."""

import configparser
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _installed():
    """Returns the names of the commands, without their prefix."""
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg")
    lines = found["options.entry_points"]["console_scripts"].split("\n")
    names = (line.partition("=")[0].strip() for line in lines)
    return [name.removeprefix("vae-jax-") for name in names if name]


COMMANDS = _installed()
