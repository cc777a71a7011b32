"""Signals, streams and environment of a command, from its first line to its end.

Every command imports this module first, before imports that take seconds.

**Signals.** SIGINT (Ctrl-C) and SIGTERM end a command at once, with one line and an
exit status, before and after its work: nothing is unsaved then. During its work, a
command that can continue decides itself when to stop (``runner.interruption``); any
other command unwinds, so that no file is left half-written.

**Streams.** A command goes on if the reader of its output ends, such as ``head``: its
results are in files.

**Environment.** The configuration alone decides the numbers. Variables of the
environment may choose devices, caches and messages; others are removed. JAX is imported
later: ``--help`` does not need it.
"""

import atexit
import contextlib
import errno
import functools
import gc
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

# Commands that save their work; any other starts again.
_CONTINUING = ("experiments.sweep", "experiments.train")

REFUSED = 2  # exit status of a command that was refused before it did anything

# The options of JAX that the environment may set: devices, processes, caches, messages,
# and the precision of products, which a run folder records. Others would change numbers
# or noise, or stop a program that checks for values that are not finite itself.
_OBEYED = re.compile(
    "JAX_("
    "PLATFORM|BACKEND_TARGET|(CUDA|ROCM|ONEAPI)_VISIBLE_DEVICES|NUM_CPU_DEVICES|"
    "LOCAL_DEVICE_IDS|CPU_|PJRT_|FORCE_TPU_INIT|"
    "COORDINATOR_|PARTITION_|SLICE_|CROSS_HOST_|DISTRIBUTED_|MTLS_|CHECK_PROXY_ENVS|"
    "(ENABLE_)?COMPILATION_CACHE|(RAISE_)?PERSISTENT_CACHE_|SHARE_BINARY_|"
    "LOG_|LOGGING_|DEBUG_LOG_|EXPLAIN_|COMPILER_DETAILED_LOGGING_|DUMP_|INCLUDE_|"
    "TRACEBACK_|TRACER_ERROR_|DEFAULT_MATMUL_PRECISION$)"
)

# The errors by which output was lost, apart from a reader that ended.
unwritten: list[OSError] = []


class Interrupted(KeyboardInterrupt):
    """Raised by a signal, its argument, in a command that cannot continue."""


@functools.cache  # Once in a process.
def protect() -> None:
    """Makes signals end this command in order, and closed streams not end it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # The next opened file would get the number, and the output.
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest free number.
    sys.stdout = _output(1, sys.stdout)
    sys.stderr = _output(2, sys.stderr)
    # Python calls this just before it restores the system's handlers, which would kill
    # a command that is ending.
    atexit.register(_handle_signals, signal.SIG_IGN)
    sys.unraisablehook = _end_where_unraisable
    listen()


def listen() -> None:
    """Makes signals end the process at once, with one line."""
    _handle_signals(_end)


def listen_and_unwind() -> None:
    """Makes the first signal raise ``Interrupted``, unless the command can continue."""
    if not _continues():
        _handle_signals(_unwind)


def end(number: int) -> NoReturn:
    """Ends the process on a signal, when nothing is unsaved."""
    if _continues():
        stop()
    leave("interrupted: the same command starts again.", 128 + number)


def stop() -> NoReturn:
    """Ends the process of a command that can continue, when nothing is unsaved."""
    leave(f"stopped: {CONTINUES}", STOPPED)


_leaving = threading.RLock()


def leave(message: str, status: int) -> NoReturn:
    """Ends the process, from any thread: files are complete at any moment."""
    with _leaving:  # One line, even if several threads end the process.
        shown = f"\x1b[?25h{message}\n" if os.isatty(2) else f"{message}\n"
        # sys.stderr may have been interrupted by the signal.
        with contextlib.suppress(OSError):
            os.write(2, shown.encode(errors="backslashreplace"))
        os._exit(status)


def _program() -> str:
    """Returns the name of the module that runs as a program; '': it has none."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else ""


def _continues() -> bool:
    return _program() in _CONTINUING


def _handle_signals(handler: Any) -> None:
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    _handle_signals(signal.SIG_IGN)
    end(number)


def _unwind(number: int, frame: FrameType | None) -> None:
    listen()  # A second one does not wait.
    raise Interrupted(number)


def _end_where_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Keeps an interruption that Python would drop in a callback or ``__del__``."""
    if isinstance(unraisable.exc_value, Interrupted):
        end(*unraisable.exc_value.args)
    sys.__unraisablehook__(unraisable)


class _Output(io.FileIO):
    """A stream that drops its text if its reader has ended."""

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
    """Returns a stream like another, or one for a descriptor that was closed."""
    is_errors = descriptor == 2
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, "w", closefd=False)),
        encoding=stream.encoding if stream else "utf-8",
        errors="backslashreplace",  # Names may need another encoding.
        line_buffering=is_errors or os.isatty(descriptor),
        write_through=is_errors,
    )


def lies_here() -> bool:
    """Returns whether this package lies in the current folder.

    If not, Python must not look there (-P): a folder of the same name may exist.
    """
    return os.path.samefile(Path(__file__).parents[1], os.curdir)


def _settle_environment() -> None:
    """Leaves the variables of the environment that may have an effect.

    The others are removed, also for the processes that this one starts.
    """
    for name in [name for name in os.environ if name.startswith("JAX_")]:
        if not _OBEYED.match(name):
            print(
                f"warning: {name}={os.environ.pop(name)!r} has no effect: the "
                "configuration decides the computation.",
                file=sys.stderr,
            )
    if not lies_here():
        os.environ["PYTHONSAFEPATH"] = "1"
    # All figures are files. The backend of a notebook does not exist outside it.
    os.environ["MPLBACKEND"] = "agg"
    if os.environ.get("COLUMNS") == "0":  # Without a terminal: tables need a width.
        del os.environ["COLUMNS"]
    if any(option.startswith("e") for option in sys.warnoptions):
        warnings.simplefilter("default")  # A warning of a package ends no command.


def import_jax() -> None:
    """Imports JAX, or ends the command if JAX refuses a variable of the environment."""
    try:
        import jax  # noqa: F401
    except ValueError as error:
        print(
            f"error: {error}. Unset that variable, or give it another value.",
            file=sys.stderr,
        )
        sys.exit(REFUSED)


if _program().startswith("experiments."):
    protect()
    _settle_environment()
    # Imports and the tracing of programs make many objects that stay. To look through
    # them for garbage as often as Python does takes a tenth of a start, and once more
    # when a command ends a fifth of a second.
    gc.set_threshold(100_000, 2, 2)
    atexit.register(gc.freeze)
