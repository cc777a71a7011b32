"""Runs a command in which something happens where it would call a function.

    python tests/faults/call_instead.py die experiments.runs.notes:GroupNotes.end \
        experiments.sweep --workdir=runs/sweep

``die``: it ends itself by SIGKILL; ``wait``: the call takes two seconds longer.
"""

import functools
import importlib
import os
import runpy
import signal
import sys
import time


def program(what: str, name: str) -> tuple[str, str, str]:
    """Returns the command line of this program, without the command that it runs.

    Call it while tests are collected: a function with a new name then ends every run
    of the tests, not only the few runs that use it.

    Raises:
        AttributeError: there is no such function.
    """
    _find(name)
    return ("tests/faults/call_instead.py", what, name)


def _find(name):
    module, _, path = name.partition(":")
    *owners, attribute = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    return owner, attribute, getattr(owner, attribute)


def _instead(what, function):
    def call(*args, **kwargs):
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(2)
        return function(*args, **kwargs)

    return call


if __name__ == "__main__":
    what, name, command = sys.argv[1:4]
    owner, attribute, function = _find(name)
    setattr(owner, attribute, _instead(what, function))
    del sys.argv[:3]
    runpy.run_module(command, run_name="__main__", alter_sys=True)
