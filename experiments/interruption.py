"""Signals that ask a command to end: SIGTERM, as preemption sends it, and Ctrl-C.

The first one lets the current epoch finish and be checkpointed; a second ends the
process at once. Where nothing is unsaved, the first ends it at once too. Of several
processes, one that is asked stops all of them, after the same epoch.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

# Exit status: stopped on request, the same command continues (EX_TEMPFAIL).
STOPPED = 75


class Stopped(Exception):
    """Raised once everything is saved after a request to stop."""


class Interruption:
    """Listens for signals while it is entered, on the main thread.

    A thread of its own reads them, because the main thread may be waiting for a device
    where Python would not deliver them.
    """

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._lock = threading.Lock()
        self._deferred = False

    def __enter__(self) -> "Interruption":
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        # Else the others would wait in vain for one that leaves.
        self._alone = jax.process_count() == 1
        # JAX's own notice of preemption would be asked by Orbax too, with step numbers
        # of its own, and then stops after an epoch that some processes have passed.
        self._previous = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._previous_fd = signal.set_wakeup_fd(
            self._writing, warn_on_full_buffer=False
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._writing)  # Ends the thread.
        self._thread.join()
        os.close(self._reading)

    def _listen(self) -> None:
        while byte := os.read(self._reading, 1):
            if byte[0] not in self._previous:
                continue
            if self._requested.is_set():
                leave("ended at once: the same command continues.", 128 + byte[0])
            with self._lock:
                self._requested.set()
                if self._alone and not self._deferred:
                    _leave_stopped()
            print(
                "stopping after this epoch; once more to end at once.",
                file=sys.stderr,
                flush=True,
            )

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, a request waits for ``requested`` to be asked: work is unsaved."""
        with self._lock:
            self._deferred = True
        try:
            yield
        finally:
            with self._lock:
                self._deferred = False
        # It came too late to be asked for, and now everything is saved.
        if self._alone and self._requested.is_set():
            _leave_stopped()

    def requested(self) -> bool:
        """Whether to stop now; all processes ask once after each epoch, and agree."""
        own = self._requested.is_set()
        if self._alone:
            return own
        return bool(np.any(multihost_utils.process_allgather(np.bool_(own))))


def _leave_stopped() -> NoReturn:
    leave("stopped: the same command continues.", STOPPED)


def leave(message: str, status: int) -> NoReturn:
    """Ends the process from whatever thread: files are whole at any moment."""
    print(f"\x1b[?25h{message}" if sys.stderr.isatty() else message, file=sys.stderr)
    sys.stderr.flush()
    os._exit(status)
