"""Checkpoints of one group of runs: written in the background, verified when read.

Orbax writes them atomically; the SHA-256 of every array stands beside it, since a
flipped bit may otherwise come back as another number without any error. A checkpoint
that does not verify is reported, moved aside, and the one before it used.
"""

import functools
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from experiments.digests import array_digest, arrays_digest
from experiments.files import FolderError

Arrays = dict[str, np.ndarray]


class Checkpoints:
    """The checkpoints in one folder, by epoch.

    Args:
        path: the folder; made if it is not there.
        keep: number of checkpoints to keep, the latest ones.

    Raises:
        FolderError: the folder cannot be used.
    """

    def __init__(self, path: Path, keep: int):
        self.path = path
        _silence_orbax()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            create=False,
            # Else, where a folder cannot be made, its threads wait for it all the same,
            # and the process does not end for ten minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            # Of several processes, this one alone writes: none waits for another.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(),
                active_processes={jax.process_index()},
                barrier_sync_key_prefix=path.name,
            ),
        )

        def open_manager():
            path.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(path.absolute(), options=options)

        self._manager = self._try(open_manager)

    def save(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Begins to write a checkpoint; what was wrong with the last one is raised.

        Args:
            epoch: names the checkpoint; larger than that of any before.
            arrays: host arrays, which the caller leaves unchanged from here on.

        Raises:
            FolderError: the folder is full, read-only or gone.
        """
        manifest = _manifest(epoch, arrays)
        # Orbax stores no empty arrays; the manifest says all there is to them.
        stored = {name: array for name, array in arrays.items() if array.size}
        if not self.path.is_dir():
            raise FolderError(f"{self.path} has vanished: put it back, or start anew.")
        self._try(
            lambda: self._manager.save(
                epoch,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(stored),
                    manifest=ocp.args.JsonSave(manifest),
                ),
            )
        )

    def wait(self) -> None:
        """Returns once everything is on disk.

        Raises:
            FolderError: it cannot be written.
        """
        self._try(self._manager.wait_until_finished)

    def latest(self, report: Callable[[str], object]) -> tuple[int, Arrays] | None:
        """The latest checkpoint that verifies, and its epoch; None if there is none.

        Args:
            report: is given a line on every checkpoint that does not verify; those
                are moved aside, beside the folder.

        Raises:
            FolderError: one cannot be moved.
        """
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            try:
                return epoch, self._load(epoch)
            except Exception as error:  # Damage comes as any exception.
                aside = self.path.with_name(f"{self.path.name}.damaged-{epoch}")
                report(
                    f"checkpoint {self.path / str(epoch)} is damaged "
                    f"({_one_line(error)}): moved to {aside.name}, the one before "
                    "is used."
                )
                shutil.rmtree(aside, ignore_errors=True)
                self._try(functools.partial((self.path / str(epoch)).rename, aside))
                self._manager.reload()  # Else it would not save this epoch again.
        return None

    def _load(self, epoch: int) -> Arrays:
        loaded = self._manager.restore(
            epoch,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(), manifest=ocp.args.JsonRestore()
            ),
        )
        arrays = {
            name: np.asarray(loaded.arrays[name])
            if name in loaded.arrays
            else np.zeros(described["shape"], described["dtype"])
            for name, described in loaded.manifest["arrays"].items()
        }
        if _manifest(epoch, arrays) != loaded.manifest:
            raise ValueError("its arrays are not those that were saved")
        return arrays

    def close(self) -> None:
        """Ends the background thread.

        Raises:
            FolderError: what it was writing cannot be written.
        """
        self._try(self._manager.close)

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # Orbax and TensorStore raise all kinds.
            raise FolderError(
                f"cannot write checkpoints in {self.path} ({_one_line(error)}): make "
                "room and permit writing there; the same command then continues."
            ) from error


@functools.cache
def _silence_orbax() -> None:
    """Leaves out all that is printed of errors, which Orbax raises as well.

    Where several arrays of a checkpoint fail, it raises what the first one met and
    closes its event loop; asyncio and TensorStore then complain of all the others.
    """
    absl_logging.get_absl_logger().addFilter(
        lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname
    )
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    report = sys.unraisablehook

    def report_all_others(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = report_all_others


def _manifest(epoch: int, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a checkpoint must hold: types and shapes, and digests of each and of all."""
    return {
        "epoch": epoch,
        "sha256": arrays_digest(arrays),
        "arrays": {
            name: {
                "dtype": array.dtype.str,
                "shape": list(array.shape),
                "sha256": array_digest(array),
            }
            for name, array in arrays.items()
        },
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
