"""Checkpoints of one group of runs: written in the background, verified when read.

A checkpoint is one sealed file. One that is damaged is reported, moved aside, and the
one before it used; one of other runs is refused.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from experiments.messages.errors import AnotherOwnerError, FolderError
from experiments.files.sealed import Owner
from experiments.files.tensors import Arrays, load_arrays, save_arrays
from experiments.files.writing import cannot_write, remove

_SUFFIX = ".safetensors"


class Checkpoints:
    """The checkpoints in one folder, by epoch.

    Args:
        path: the folder; made if it is not there.
        keep: number of checkpoints to keep, the latest ones.
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
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error

    def epochs(self) -> list[int]:
        """Returns the epochs of the checkpoints that are there, in order."""
        names = (path.stem for path in self.path.glob(f"*{_SUFFIX}"))
        # Not 007, which would not be found again.
        return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))

    def save(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Begins to write a checkpoint; what was wrong with the last one is raised.

        Args:
            epoch: names the checkpoint; larger than that of any before.
            arrays: host arrays, which the caller leaves unchanged from here on.

        Raises:
            FolderError: the folder is full, read-only or gone.
        """
        self.wait()
        self._writing = self._writer.submit(self._write, epoch, arrays)

    def _write(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        if not self.path.is_dir():
            raise cannot_write(self.path, FileNotFoundError("the folder is gone"))
        facts = {**self._owner._asdict(), "epoch": str(epoch)}
        save_arrays(self._file(epoch), arrays, facts)
        for old in self.epochs()[: -self._keep]:
            remove(self._file(old))

    def wait(self) -> None:
        """Returns once everything is on disk.

        Raises:
            FolderError: it cannot be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def latest(self, report: Callable[[str], object]) -> tuple[int, Arrays] | None:
        """Returns the latest checkpoint that verifies, and its epoch; None without one.

        Args:
            report: is given a line on every checkpoint that does not verify; those
                are moved aside.

        Raises:
            AnotherOwnerError: one is of other runs.
            FolderError: one cannot be moved.
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
                try:
                    path.rename(aside)
                except OSError as moving:
                    raise cannot_write(aside, moving) from moving
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
            FolderError: what it was writing cannot be written.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
