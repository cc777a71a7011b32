"""Runs a command in which something happens where it would call a function.

    python tests/faults/call_instead.py die experiments.runs.notes:GroupNotes.end \
        experiments.sweep --workdir=runs/sweep

``die``: it ends itself by SIGKILL; ``wait``: the call takes two seconds longer.
"""

import importlib
import os
import runpy
import signal
import sys
import time


def _instead(what, function):
    def call(*args, **kwargs):
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(2)
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    what, name, command = sys.argv[1:4]
    module, _, path = name.partition(":")
    *owners, attribute = path.split(".")
    owner = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, attribute, _instead(what, getattr(owner, attribute)))
    del sys.argv[:3]
    runpy.run_module(command, run_name="__main__", alter_sys=True)
