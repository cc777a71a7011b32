"""The folder of a run: what is in it, and how it is written without losing anything.

::

    config.json          the configuration, fully resolved
    environment.json     the format of the folder, and what the numbers depend on
                         besides: versions, devices, commit
    members/<run>/       metrics.jsonl: one row per validation; once finished also
                         params.safetensors (unpadded), arrays.safetensors (what is
                         drawn, and numbers per test image), result.json, and in
                         environment.json what the bits of this run depend on
    tensorboard/<run>/   the metric rows, as TensorBoard events
    failures/<run>/      where a run met a value that is not finite, for a replay
    checkpoints/         of groups of runs that are not finished
    jobs/                run folders of groups that are trained elsewhere
    results.csv          one row per finished run
    figures/, report.html

A reader never meets half a file. A folder may come from a stranger: nothing is executed
or unpickled when it is read, links that lead out of it are refused, and every part
carries the fingerprint of the run that it belongs to (``experiments.settings.fingerprint``).
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.data import cache
from experiments.files import locks
from experiments.runs.environment import environment
from experiments.files.reading import cannot_read, read_json
from experiments.files.sealed import to_json
from experiments.files.writing import UNFINISHED, cannot_write, remove, write_atomically
from experiments.messages.errors import FolderError
from experiments.settings.fingerprint import (
    differences,
    differing,
    machine_settings,
    with_defaults,
)
from experiments.runs.notes import GroupNotes
from experiments.runs.members import Failures, Members
from experiments.runs.metrics import Metrics, allow_open_files
from experiments.messages.wording import listed

# Of what is in a folder; raised if folders of before can no longer be read.
FORMAT = 2
# Of images in folders that do not say it; see ``cache.FORMAT``.
_FIRST_IMAGES_FORMAT = 3

_LOCK = ".lock"
_TABLES_LOCK = ".tables.lock"
_JOBS = "jobs"
# So long a command may take to begin a folder while another one waits for it.
_SECONDS_TO_BEGIN = 5.0


def _is_taken(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    # What a kill leaves of a folder that was just begun is no obstacle.
    return any(
        entry.is_symlink()
        or not (entry.name in (_LOCK, _TABLES_LOCK) or entry.name.endswith(UNFINISHED))
        for entry in path.iterdir()
    )


def refuse_links(folder: Path) -> None:
    """Refuses a folder with links that lead out of it, or nowhere.

    What is written or deleted below it would otherwise reach files outside. The folder
    itself may be a link.

    Raises:
        FolderError: naming the first one.
    """
    root = os.path.realpath(folder)
    waiting = [root]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        _refuse_link(entry.path, root)
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except FileNotFoundError:  # A job has just removed it, or there is no folder.
            pass
        except OSError as error:
            raise cannot_read(folder, error) from error


def _refuse_link(link: str, root: str) -> None:
    target = os.path.realpath(link)
    if not target.startswith(root + os.sep) or not os.path.exists(target):
        raise FolderError(
            f"{link} is a link that leads out of the run folder, to "
            f"{os.readlink(link)}: remove the link, or put a copy in its place."
        )


class RunFolder:
    """One folder, opened for one configuration.

    Args:
        path: the folder.
        owners: the fingerprint of each run by name; see ``bind``.
    """

    def __init__(self, path: Path, owners: Mapping[str, str] | None = None):
        self.path = path
        self.bind(owners or {})
        self._lock: int | None = None
        self._run_locks: dict[str, int] = {}
        self.bits_depend_on: dict[str, Any] = {}  # of what this process computes

    def bind(self, owners: Mapping[str, str]) -> None:
        """Says which runs the folder's parts have to belong to.

        Args:
            owners: the fingerprint of each run by name.
        """
        self.owners = dict(owners)
        self.members = Members(self.path, self.owners)
        self.failures = Failures(self.path, self.owners)
        self.metrics = Metrics(self.path, self.owners)
        self.groups = GroupNotes(self.path / "checkpoints", self.owners)

    @classmethod
    def create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        owners: Mapping[str, str],
        images: str,
        report: Callable[[str], object],
        *,
        computes: bool = True,
    ) -> "RunFolder":
        """Opens a folder for writing, new or begun before with the same configuration.

        A sweep may have grown since. Several commands may train in one folder; which
        of them trains a run is decided by ``claim``.

        Args:
            path: the folder.
            config: the configuration.
            owners: the fingerprint of each run of it by name.
            images: their fingerprint (``ImageData.fingerprint``).
            report: is given a line on everything a person should know.
            computes: whether this process computes what is written. One that gathers
                what others compute has the folder for itself, and says what they
                depend on by ``record_environment``.

        Raises:
            FolderError: the folder cannot be written, holds other files, holds the run
                of another configuration or other images (named with what differs), is
                of another version, or is in use.
        """
        folder = cls(path, owners)
        folder._is_begun(config)  # Refused without a trace.
        is_alone = folder._acquire(computes)
        try:
            # Again, as another process may have begun it just before.
            begun = folder._is_begun(config)
            if is_alone:
                folder._remove_unfinished()
            if not begun or folder._has_another_sweep(config):
                if not is_alone:
                    raise FolderError(
                        f"{path} is being written by another process, whose sweep is "
                        "another: wait for it to end, or choose another --workdir."
                    )
                write_atomically(path / "config.json", to_json(config))
            now = environment(images, machine_settings(config), computes)
            folder.record_environment(now, report)
            folder.bits_depend_on = now["bits_depend_on"]
            if computes and is_alone and not folder._share():
                raise folder._in_use()
        except BaseException:
            folder.close()
            raise
        allow_open_files()
        return folder

    def _is_begun(self, config: Mapping[str, Any]) -> bool:
        """Whether this run was begun here; refuses a folder of anything else."""
        try:
            begun, taken = (self.path / "config.json").exists(), _is_taken(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if begun:
            refuse_links(self.path)
            self._refuse_another_format()
            self._refuse_another(config)
        elif taken:
            raise FolderError(
                f"{self.path} exists and is not a run folder: choose an empty or new "
                "folder as --workdir."
            )
        return begun

    def _refuse_another_format(self) -> None:
        if not (self.path / "environment.json").exists():
            return  # A kill left it so; parts are checked one by one.
        found = self.environment()
        if found.get("format", 1) != FORMAT:
            commit = found["bits_depend_on"].get("commit", "unknown")
            raise FolderError(
                f"{self.path} is a run folder of format {found.get('format', 1)!r}, "
                f"where this version reads {FORMAT}: train in another --workdir, or "
                f"use the version that wrote it (commit {commit})."
            )

    def _refuse_another(self, config: Mapping[str, Any]) -> None:
        old, new = self.config(), with_defaults(config)
        # Which runs there are besides is no difference, unless some are left out.
        if not (self.members.finished() | self.groups.runs()) - self.owners.keys():
            old.pop("sweep", None), new.pop("sweep", None)
        if changes := differences(old, new):
            raise FolderError(
                f"{self.path} holds the run of another config: "
                f"{listed(changes, '; ')}. Choose another --workdir, or "
                "give the same config to continue."
            )

    def _has_another_sweep(self, config: Mapping[str, Any]) -> bool:
        sweeps = ({"sweep": each.get("sweep", {})} for each in (self.config(), config))
        return bool(differences(*sweeps))

    def _remove_unfinished(self) -> None:
        """Removes what a kill left of files, but of jobs: they may be running."""
        for place, folders, files in os.walk(self.path):
            if Path(place) == self.path and self.jobs.name in folders:
                folders.remove(self.jobs.name)  # Folders come and go there.
            for name in files:
                if re.fullmatch(rf"\..+\.\d+{re.escape(UNFINISHED)}", name):
                    remove(Path(place) / name)

    def _acquire(self, computes: bool) -> bool:
        """Takes the folder's lock; returns whether no other process has it."""
        deadline = time.monotonic() + _SECONDS_TO_BEGIN
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            while True:
                self._lock = locks.take(self.path / _LOCK)
                if self._lock is not None:
                    return True
                if computes:
                    self._lock = locks.take(self.path / _LOCK, shared=True)
                if self._lock is not None:
                    return False
                if not computes or time.monotonic() > deadline:
                    raise self._in_use()
                time.sleep(0.05)  # It may be just beginning.
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _share(self) -> bool:
        """Lets other commands train here too."""
        assert self._lock is not None
        os.close(self._lock)
        self._lock = None
        deadline = time.monotonic() + _SECONDS_TO_BEGIN
        # Another one that waited may take it alone first, to begin in its turn.
        while self._lock is None and time.monotonic() < deadline:
            self._lock = locks.take(self.path / _LOCK, shared=True)
            if self._lock is None:
                time.sleep(0.05)
        return self._lock is not None

    def _in_use(self) -> FolderError:
        return FolderError(
            f"{self.path} is being written by another process: wait for it to end, "
            "or choose another --workdir."
        )

    def close(self) -> None:
        """Ends the TensorBoard files and gives back all locks."""
        self.metrics.close()
        self.release(list(self._run_locks))
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- who trains what ---

    def claim(self, runs: Sequence[str]) -> bool:
        """Returns whether this command may train some runs: no other one does.

        They stay claimed until ``release``, ``close`` or the end of the process.

        Raises:
            FolderError: the folder cannot be written.
        """
        taken: list[str] = []
        for run in runs:
            if run in self._run_locks:
                continue
            path = self.path / "members" / run / _LOCK
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = locks.take(path)
            except OSError as error:
                self.release(taken)
                raise cannot_write(path, error) from error
            if lock is None:
                self.release(taken)
                return False
            self._run_locks[run] = lock
            taken.append(run)
        return True

    def free(self, runs: Iterable[str]) -> list[str]:
        """Returns those of some runs, none of them claimed, that no command trains.

        Raises:
            FolderError: the folder cannot be written.
        """
        found = []
        for run in runs:
            if self.claim([run]):
                self.release([run])
                found.append(run)
        return found

    def release(self, runs: Iterable[str]) -> None:
        """Gives claimed runs back."""
        for run in runs:
            os.close(self._run_locks.pop(run))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Within, no other command writes tables, the report or environment.json.

        Raises:
            FolderError: the folder cannot be written.
        """
        # Not the lock of those who train: evaluations may be several, and beside them.
        path = self.path / _TABLES_LOCK
        try:
            lock = locks.take(path, wait=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        assert lock is not None  # It was waited for.
        try:
            yield
        finally:
            os.close(lock)

    # --- what it is ---

    def record_environment(
        self, now: Mapping[str, Any], report: Callable[[str], object]
    ) -> None:
        """Writes what the bits depend on; says where that is not what it was.

        Args:
            now: the environment of a process that writes here, or of a job.
            report: is given a line where it differs from that before.
        """
        with self.writing():
            self._record_environment(now, report)

    def _record_environment(
        self, now: Mapping[str, Any], report: Callable[[str], object]
    ) -> None:
        path = self.path / "environment.json"
        if not path.exists():
            write_atomically(path, to_json({"format": FORMAT, **now}))
            return
        present = now["bits_depend_on"]
        self.refuse_other_images(present["data"])
        before = self.environment()
        earlier = before["bits_depend_on"]
        if present.keys() == {"data"}:
            return
        if earlier.keys() == {"data"}:  # Nothing was computed yet.
            first = {"format": FORMAT, **now, "command": before["command"]}
            write_atomically(path, to_json(first))
            return
        if changes := differing(earlier, present, "environment"):
            told = "; ".join(line.removeprefix("environment.") for line in changes)
            report(
                f"{self.path} was begun elsewhere ({told}): its numbers hold, but its "
                "bits may not be those of an undisturbed run."
            )
            continued = [*before.get("continued", []), now]
            write_atomically(path, to_json({**before, "continued": continued}))

    def refuse_other_images(self, fingerprint: str) -> None:
        """Refuses images that are not those which the folder was begun with.

        Args:
            fingerprint: of the images (``ImageData.fingerprint``).
        """
        earlier = self.images()
        if earlier == fingerprint:
            return
        told = (
            f"{self.path} was begun with other images (fingerprint {earlier} there and "
            f"{fingerprint} here)"
        )
        found = self.environment()
        read_as = found.get("images_format", _FIRST_IMAGES_FORMAT)
        if read_as != cache.FORMAT:
            commit = found["bits_depend_on"].get("commit", "unknown")
            raise FolderError(
                f"{told}, or its version read them otherwise (format {read_as!r} of "
                f"images there and {cache.FORMAT} here: since 4, classes of a "
                "folder are in natural order, and photographs upright): choose another "
                f"--workdir, or use the version that wrote it (commit {commit})."
            )
        raise FolderError(f"{told}: restore them, or choose another --workdir.")

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Opens the folder of an existing run, for reading.

        Raises:
            FolderError: there is none, or it is of another version.
        """
        # Unlike Path.exists, this is no error for names that are too long.
        if not os.path.isfile(path / "config.json"):
            raise FolderError(
                f"{path} is not a run folder (it has no config.json): give the "
                "--workdir of a sweep or of one model."
            )
        folder = cls(path)
        refuse_links(path)
        folder._refuse_another_format()
        return folder

    def config(self) -> dict[str, Any]:
        """Returns the configuration the folder was made for."""
        return with_defaults(self._read_object(self.path / "config.json"))

    @property
    def jobs(self) -> Path:
        """Where groups that are trained elsewhere have their folders."""
        return self.path / _JOBS

    def environment(self) -> dict[str, Any]:
        """Returns what the folder's numbers depend on besides its configuration."""
        path = self.path / "environment.json"
        return self._read_object(
            path, {"continued": []}, command=str, bits_depend_on=dict, continued=list
        )

    def images(self) -> str:
        """Returns the fingerprint of the images that the folder was begun with."""
        return str(self.environment()["bits_depend_on"].get("data"))

    def _read_object(
        self, path: Path, defaults: Mapping[str, Any] = {}, **fields: type
    ) -> dict[str, Any]:
        """The object in a file, which has these fields, of these types.

        Args:
            path: the file.
            defaults: stand for those that may be missing.
            fields: their types.
        """
        try:
            found = read_json(path)
            if not isinstance(found, dict):
                raise TypeError("it holds no object")
            for name, kind in fields.items():
                if not isinstance(found.get(name, defaults.get(name)), kind):
                    raise TypeError(f"its {name!r} is no {kind.__name__}")
        except (OSError, TypeError, ValueError) as error:
            raise cannot_read(path, error) from error
        return found
