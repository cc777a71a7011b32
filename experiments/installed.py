"""The commands that an installation puts on the PATH: one for each command line.

``vae-jax-sweep`` is ``python -P -m experiments.sweep``: the installed package, whatever
lies in the folder where it is typed.
"""

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Runs the module that the command is named after."""
    module = Path(sys.argv[0]).stem.removeprefix("vae-jax-")
    runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
