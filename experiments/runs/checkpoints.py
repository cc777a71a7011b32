"""Checkpoints of one group of runs: written in the background, verified when read.

A checkpoint is one sealed file. If it is damaged, it is reported and moved aside, and
the checkpoint before it is used. A checkpoint of other runs is refused.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from experiments.files.sealed import Owner
from experiments.files.tensors import Arrays, load_arrays, save_arrays
from experiments.files.writing import cannot_write, refusing_to_write, remove
from experiments.messages.errors import AnotherOwnerError, FolderError

_SUFFIX = ".safetensors"


class Checkpoints:
    """The checkpoints in one folder, by epoch.

    Args:
        path: the folder; made if it does not exist.
        keep: number of checkpoints to keep: the latest.
        owner: the group of runs that they belong to.

    Raises:
        FolderError: the folder cannot be used.
    """

    def __init__(self, path: Path, keep: int, owner: Owner):
        self.path = path
        self._keep = keep
        self._owner = owner
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        with refusing_to_write(path):
            path.mkdir(parents=True, exist_ok=True)

    def epochs(self) -> list[int]:
        """Returns the epochs of the checkpoints, in ascending order."""
        names = (path.stem for path in self.path.glob(f"*{_SUFFIX}"))
        # A file like 007 would not be found again by its epoch.
        return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))

    def save(
        self,
        epoch: int,
        arrays: Mapping[str, np.ndarray],
        saved: Callable[[], object] = lambda: None,
    ) -> None:
        """Begins to write a checkpoint.

        Args:
            epoch: names the checkpoint; larger than that of any before.
            arrays: host arrays; the caller must not change them from here on.
            saved: called, by the thread that writes, once the checkpoint is on disk.

        Raises:
            FolderError: the checkpoint before this one could not be written: the
                folder is full, read-only or gone.
        """
        self.wait()
        self._writing = self._writer.submit(self._write, epoch, arrays, saved)

    def _write(
        self,
        epoch: int,
        arrays: Mapping[str, np.ndarray],
        saved: Callable[[], object],
    ) -> None:
        if not self.path.is_dir():
            raise cannot_write(self.path, FileNotFoundError("the folder is gone"))
        facts = {**self._owner._asdict(), "epoch": str(epoch)}
        save_arrays(self._file(epoch), arrays, facts)
        for old in self.epochs()[: -self._keep]:
            remove(self._file(old))
        saved()

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
            FolderError: it cannot be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def latest(self, report: Callable[[str], object]) -> tuple[int, Arrays] | None:
        """Returns the latest checkpoint that verifies, and its epoch; None without one.

        Args:
            report: gets a line on every checkpoint that does not verify and is moved
                aside.

        Raises:
            AnotherOwnerError: a checkpoint belongs to other runs.
            FolderError: a damaged checkpoint cannot be moved.
        """
        for epoch in reversed(self.epochs()):
            path = self._file(epoch)
            try:
                return epoch, self._load(epoch)
            except AnotherOwnerError:
                raise
            except FolderError as error:
                aside = path.with_suffix(".damaged")
                reason = error.__cause__ or error
                report(
                    f"checkpoint {path} is damaged ({reason}): moved to {aside.name}, "
                    "the one before is used."
                )
                with refusing_to_write(aside):
                    path.rename(aside)
        return None

    def _load(self, epoch: int) -> Arrays:
        path = self._file(epoch)
        remedy = f"delete {self.path} to train these runs again"
        arrays, facts = load_arrays(path, self._owner._asdict(), remedy)
        if facts.get("epoch") != str(epoch):
            raise FolderError(f"it is of epoch {facts.get('epoch')}")
        return arrays

    def _file(self, epoch: int) -> Path:
        return self.path / f"{epoch}{_SUFFIX}"

    def close(self) -> None:
        """Ends the background thread.

        Raises:
            FolderError: its checkpoint cannot be written.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
