"""The commands that an installation puts on the PATH.

``vae-jax-sweep`` is ``python -P -m experiments.sweep``: it runs the installed package,
even if the current folder has another one of that name.
"""

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Runs the module that the command is named after."""
    module = Path(sys.argv[0]).stem.removeprefix("vae-jax-")
    runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
