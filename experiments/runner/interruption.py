"""Signals that ask a command to stop: SIGTERM, as preemption sends it, and Ctrl-C.

After the first signal, every group that trains finishes its epoch and saves a
checkpoint; a second signal ends the process at once. While nothing is unsaved, the
first one does that too.
A signal to one of several processes stops all of them, after the same epoch.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import guard


class Stopped(Exception):
    """Raised after a request to stop, once everything is saved."""


class Interruption:
    """Listens for signals within a ``with`` statement of the main thread.

    A second thread reads them: Python delivers no signal to a main thread that waits
    for a device.
    """

    def __init__(self) -> None:
        self._requested = threading.Event()  # By a signal.
        self._asked = threading.Event()  # By this process.
        # One of several processes must not leave alone: the others would wait for it.
        self._alone = jax.process_count() == 1
        self._saved = threading.Condition()
        self._num_unsaved = 0

    def __enter__(self) -> "Interruption":
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        # The descriptor is set first and removed last: no signal is lost in between.
        self._previous_fd = signal.set_wakeup_fd(
            self._writing, warn_on_full_buffer=False
        )
        self._previous = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._writing)  # Ends the thread.
        self._thread.join()
        os.close(self._reading)

    def _listen(self) -> None:
        while byte := os.read(self._reading, 1):
            if byte[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self._requested.is_set():
                guard.leave(f"ended at once: {guard.CONTINUES}", 128 + byte[0])
            with self._saved:
                self._requested.set()
                if self._alone and not self._num_unsaved:
                    guard.stop()
            print(
                "stopping after this epoch; once more to end at once.",
                file=sys.stderr,
                flush=True,
            )

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Makes a request wait for the next call of ``requested``: work is unsaved.

        Several threads may be in it at once; the request waits for each of them.
        """
        with self._saved:
            self._num_unsaved += 1
        try:
            yield
        finally:
            with self._saved:
                self._num_unsaved -= 1
                self._saved.notify_all()
        # The request came after the last call, and now everything is saved.
        if self._alone and self._requested.is_set() and not self._num_unsaved:
            guard.stop()

    def wait_until_saved(self) -> None:
        """Waits until no thread has unsaved work."""
        with self._saved:
            self._saved.wait_for(lambda: not self._num_unsaved)

    def ask(self) -> None:
        """Asks all threads of this process to stop, as a signal does."""
        self._asked.set()

    def is_asked(self) -> bool:
        """Returns whether this process, the only one, is asked to stop."""
        asked = self._requested.is_set() or self._asked.is_set()
        return self._alone and asked

    def requested(self) -> bool:
        """Returns whether to stop now, the same in all processes.

        Each of them calls it once after each epoch.
        """
        if self._alone:
            return self.is_asked()
        own = np.bool_(self._requested.is_set())
        return bool(np.any(multihost_utils.process_allgather(own)))
