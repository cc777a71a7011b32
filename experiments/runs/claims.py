"""Who writes in a run folder: locks on the folder, on its tables, and on each run.

Every lock ends with the process that holds it, however it ends.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from experiments.files import locks
from experiments.files.writing import refusing_to_write
from experiments.messages.errors import FolderError

LOCK = ".lock"
TABLES_LOCK = ".tables.lock"

# A command begins a folder in less time than this; another command waits for it.
_SECONDS_TO_BEGIN = 60.0


class FolderLock:
    """The lock of a folder: one command begins it alone, then several may train in it.

    Args:
        folder: the run folder; made if it does not exist.

    Attributes:
        is_alone: whether no other command has the folder now.

    Raises:
        FolderError: the folder cannot be written, or another command takes too long
            to begin it.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        with refusing_to_write(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock: int | None
        # Another command may be beginning the folder, and may end before it has.
        self._lock, self.is_alone = self._take(False, True)

    def share(self) -> None:
        """Lets other commands train in the folder too.

        Raises:
            FolderError: another command, which began next, takes too long.
        """
        if not self.is_alone:
            return
        self.close()
        self._lock, self.is_alone = self._take(True)

    def _take(self, *ways: bool) -> tuple[int, bool]:
        """Waits for a lock; returns it, and whether it is exclusive.

        Args:
            ways: whether the lock is shared, in the order in which this is tried.
        """
        until = time.monotonic() + _SECONDS_TO_BEGIN
        while True:
            for shared in ways:
                with refusing_to_write(self._folder):
                    lock = locks.take(self._folder / LOCK, shared=shared)
                if lock is not None:
                    return lock, not shared
            if time.monotonic() > until:
                raise FolderError(
                    f"{self._folder} is being written by another process. Wait for it "
                    "to end, or choose another --workdir."
                )
            time.sleep(0.05)

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Claims:
    """The runs that this process trains: no other process trains them meanwhile.

    Args:
        members: the folder with a folder for each run.
    """

    def __init__(self, members: Path):
        self._members = members
        self._locks: dict[str, int] = {}

    def take(self, runs: Sequence[str]) -> bool:
        """Claims all of some runs, or none; returns whether it did.

        They stay claimed until ``release`` or the end of the process.

        Raises:
            FolderError: the folder cannot be written.
        """
        with contextlib.ExitStack() as undo:
            for run in runs:
                if run in self._locks:
                    continue
                path = self._members / run / LOCK
                with refusing_to_write(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    lock = locks.take(path)
                if lock is None:
                    return False
                self._locks[run] = lock
                undo.callback(self.release, [run])
            undo.pop_all()
        return True

    def free(self, runs: Iterable[str]) -> list[str]:
        """Returns those of some runs, not claimed here, that no process trains.

        Raises:
            FolderError: the folder cannot be written.
        """
        found = []
        for run in runs:
            if self.take([run]):
                self.release([run])
                found.append(run)
        return found

    def release(self, runs: Iterable[str]) -> None:
        """Gives claimed runs back."""
        for run in runs:
            os.close(self._locks.pop(run))

    def close(self) -> None:
        """Gives all claimed runs back."""
        self.release(list(self._locks))


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within, no other command writes tables, the report or ``environment.json``.

    This is not the lock of those who train: evaluations may run beside them.

    Raises:
        FolderError: the folder cannot be written.
    """
    path = folder / TABLES_LOCK
    with refusing_to_write(path):
        lock = locks.take(path, wait=True)
    assert lock is not None  # It was waited for.
    with os.fdopen(lock):
        yield
