"""Signals, streams and environment of a command, from its first line to its end.

Every command imports this module first, before what takes seconds to import. Until its
work begins, and again when that is over, SIGINT (Ctrl-C) and SIGTERM end it at once,
with one line and an exit status: nothing is unsaved then. Between, a command that
continues where it was stopped says itself when to listen (``interruption``); others
unwind, so that no file is left half-written.

A reader that goes away, such as head, ends no command: what it prints is not what it
is run for.

What is computed is said by the configuration: the environment may say where it is
computed, and what is told of it.
"""

import atexit
import contextlib
import errno
import functools
import io
import os
import re
import signal
import sys
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

# Exit status: stopped on request, the same command continues (EX_TEMPFAIL).
STOPPED = 75
CONTINUES = "the same command continues."

# Those that save their work; of others the same command starts again.
_CONTINUING = ("experiments.sweep", "experiments.train")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

REFUSED = 2  # exit status of a command that was refused before it did anything

# The options of JAX that may come from the environment: devices, processes, caches and
# messages; and the precision, which a run folder keeps among what its bits depend on.
# Others would give other numbers or other noise, or end a program that does what it
# should, as where it looks itself for values that are not finite.
_OBEYED = re.compile(
    "JAX_("
    "PLATFORM|BACKEND_TARGET|(CUDA|ROCM|ONEAPI)_VISIBLE_DEVICES|NUM_CPU_DEVICES|"
    "LOCAL_DEVICE_IDS|CPU_|PJRT_|FORCE_TPU_INIT|"
    "COORDINATOR_|PARTITION_|SLICE_|CROSS_HOST_|DISTRIBUTED_|MTLS_|CHECK_PROXY_ENVS|"
    "(ENABLE_)?COMPILATION_CACHE|(RAISE_)?PERSISTENT_CACHE_|SHARE_BINARY_|"
    "LOG_|LOGGING_|DEBUG_LOG_|EXPLAIN_|COMPILER_DETAILED_LOGGING_|DUMP_|INCLUDE_|"
    "TRACEBACK_|TRACER_ERROR_|DEFAULT_MATMUL_PRECISION$)"
)

# Why what was printed is lost, other than by a reader that went away.
unwritten: list[OSError] = []


class Interrupted(KeyboardInterrupt):
    """Raised where a command that does not continue is to end."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@functools.cache  # Once in a process.
def protect() -> None:
    """Has signals end this command properly, and no stream."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # Else the next file that is opened would be printed into.
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest number that is free.
    sys.stdout = _output(1, sys.stdout)
    sys.stderr = _output(2, sys.stderr)
    # The last thing Python does before it gives signals back to the system, by which
    # an ending command would be killed.
    atexit.register(_ignore_signals)
    sys.unraisablehook = _end_where_unraisable
    listen()


def listen() -> None:
    """Has signals end the process at once, with one line."""
    for number in _SIGNALS:
        signal.signal(number, _end)


def listen_and_unwind() -> None:
    """Has the first signal raise ``Interrupted``, unless the command continues."""
    if not _continues():
        for number in _SIGNALS:
            signal.signal(number, _unwind)


def end(number: int) -> NoReturn:
    """Ends the process on a signal; nothing is unsaved."""
    if _continues():
        stop()
    leave("interrupted: the same command starts again.", 128 + number)


def stop() -> NoReturn:
    """Ends the process of a command that continues; nothing is unsaved."""
    leave(f"stopped: {CONTINUES}", STOPPED)


_leaving = threading.RLock()


def leave(message: str, status: int) -> NoReturn:
    """Ends the process from whatever thread: files are whole at any moment."""
    with _leaving:  # One line, also where several threads are told.
        shown = f"\x1b[?25h{message}\n" if os.isatty(2) else f"{message}\n"
        # Not by sys.stderr, in the midst of which a signal may have come.
        with contextlib.suppress(OSError):
            os.write(2, shown.encode(errors="backslashreplace"))
        os._exit(status)


def _program() -> str:
    """The name of the module that runs as a program; '': it has none."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else ""


def _continues() -> bool:
    return _program() in _CONTINUING


def _end(number: int, frame: FrameType | None) -> None:
    _ignore_signals()
    end(number)


def _unwind(number: int, frame: FrameType | None) -> None:
    listen()  # A second one does not wait.
    raise Interrupted(number)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_where_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Does not lose an interruption, as Python does in a callback or ``__del__``."""
    if isinstance(unraisable.exc_value, Interrupted):
        end(unraisable.exc_value.number)
    sys.__unraisablehook__(unraisable)


class _Output(io.FileIO):
    """Where nobody reads any more, what is written is lost and nothing else."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a terminal is gone.
                unwritten.append(error)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def _output(descriptor: int, stream: Any) -> io.TextIOWrapper:
    """A stream of the same kind, or that of a descriptor which had been closed."""
    is_errors = descriptor == 2
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, "w", closefd=False)),
        encoding=stream.encoding if stream else "utf-8",
        errors="backslashreplace",  # Names need not be of this encoding.
        line_buffering=is_errors or os.isatty(descriptor),
        write_through=is_errors,
    )


def lies_here() -> bool:
    """Whether this package lies where the command is given.

    Else Python is not to look for it there (-P): a folder of the same name may be.
    """
    return os.path.samefile(Path(__file__).parents[1], os.curdir)


def _import_jax() -> None:
    """Imports JAX, without what the environment has no say in.

    Processes that are started below this one inherit what is left.
    """
    for name in [name for name in os.environ if name.startswith("JAX_")]:
        if not _OBEYED.match(name):
            print(
                f"warning: {name}={os.environ.pop(name)!r} has no effect: what is "
                "computed is said by the configuration.",
                file=sys.stderr,
            )
    if not lies_here():
        os.environ["PYTHONSAFEPATH"] = "1"
    # All figures are files; a notebook's backend is not known outside it.
    os.environ["MPLBACKEND"] = "agg"
    if os.environ.get("COLUMNS") == "0":  # No terminal; of no width, none is printed.
        del os.environ["COLUMNS"]
    if any(option.startswith("e") for option in sys.warnoptions):
        warnings.simplefilter("default")  # Packages warn: no command ends with that.
    try:
        import jax  # noqa: F401
    except ValueError as error:
        print(
            f"error: {error}: unset that variable, or give it another value.",
            file=sys.stderr,
        )
        sys.exit(REFUSED)


if _program().startswith("experiments."):
    protect()
    _import_jax()
