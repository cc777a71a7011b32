"""The folder of a run: what it holds, and how it is opened.

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
    trackers/            for each run that is sent to a tracker, its identity there
    jobs/                logs of jobs that train runs of this folder, and notes on them
    results.csv          one row per finished run
    figures/, report.html

A reader never meets half a file. A folder may come from a stranger: nothing is executed
or unpickled when it is read, links that lead out of it are refused, and every part
carries the fingerprint of the run that it belongs to
(``experiments.settings.fingerprint``).
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from experiments.files.reading import read_facts
from experiments.files.sealed import to_json
from experiments.files.writing import write_atomically
from experiments.messages.errors import FolderError
from experiments.runs import claims, environment
from experiments.runs.claims import Claims, FolderLock
from experiments.runs.members import Failures, Members
from experiments.runs.metrics import Metrics, allow_open_files
from experiments.runs.notes import GroupNotes
from experiments.runs.refusals import (
    is_begun,
    refuse_another_config,
    refuse_links,
    remove_unfinished,
)
from experiments.settings.fingerprint import (
    differences,
    machine_settings,
    with_defaults,
)
from experiments.trackers.interface import DEFAULT
from experiments.trackers.tracking import Tracking


class RunFolder:
    """One folder, opened for one configuration, with its parts.

    ``RunFolder.create`` opens one for writing, ``RunFolder.open`` for reading.

    Args:
        path: the folder.
        owners: the fingerprint of each run by name; see ``bind``.
        trackers: names of the trackers that get what is written.

    Attributes:
        members: the finished runs.
        failures: where runs met a value that is not finite.
        metrics: the metric rows.
        tracking: the runs in trackers.
        groups: notes on the groups of runs that are begun and not finished.
        claims: the runs that this process trains.
        bits_depend_on: what the bits that this process computes depend on.
    """

    def __init__(
        self,
        path: Path,
        owners: Mapping[str, str] | None = None,
        trackers: Iterable[str] = DEFAULT,
    ):
        self.path = path
        self._trackers = tuple(trackers)
        self.bind(owners or {})
        self.claims = Claims(path / "members")
        self.bits_depend_on: dict[str, Any] = {}
        self._lock: FolderLock | None = None

    def bind(self, owners: Mapping[str, str]) -> None:
        """Says which runs the parts of the folder have to belong to.

        Args:
            owners: the fingerprint of each run by name.
        """
        self.owners = dict(owners)
        self.members = Members(self.path, self.owners)
        self.failures = Failures(self.path, self.owners)
        has_events = "tensorboard" in self._trackers
        self.metrics = Metrics(self.path, self.owners, has_events=has_events)
        self.tracking = Tracking(self.path, self.owners, self._trackers)
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
        trackers: Iterable[str] = DEFAULT,
    ) -> "RunFolder":
        """Opens a folder for writing, new or begun before with the same configuration.

        The sweep may have grown since. Several commands may train in one folder; they
        agree by ``claims`` on which of them trains a run.

        Args:
            path: the folder.
            config: the configuration.
            owners: the fingerprint of each run of it by name.
            images: fingerprint of the images (``ImageData.fingerprint``).
            report: gets a line on everything that a person should know.
            computes: whether this process computes what is written.
            trackers: names of the trackers that get what is written.

        Raises:
            SettingsError: a tracker cannot be used here.
            FolderError: the folder cannot be written, holds other files, holds the run
                of another configuration or other images (the differences are named),
                is of another format, or is in use by another sweep.
        """
        folder = cls(path, owners, trackers)
        folder._is_begun(config)  # It is refused before anything is written.
        folder._lock = FolderLock(path)
        try:
            # Asked again: another process may have begun it just before.
            begun = folder._is_begun(config)
            folder._begin(config, begun)
            now = environment.environment(images, machine_settings(config), computes)
            with folder.writing():
                environment.record(path, now, report)
            folder.bits_depend_on = now["bits_depend_on"]
            folder._lock.share()
        except BaseException:
            folder.close()
            raise
        allow_open_files()
        return folder

    def _is_begun(self, config: Mapping[str, Any]) -> bool:
        """Returns whether this run was begun here; refuses anything else."""
        if not is_begun(self.path):
            return False
        refuse_links(self.path)
        environment.refuse_another_format(self.path)
        kept = self.members.finished() | self.groups.runs()
        refuse_another_config(
            self.path, self.config(), config, loses_runs=bool(kept - self.owners.keys())
        )
        return True

    def _begin(self, config: Mapping[str, Any], begun: bool) -> None:
        """Writes the configuration of a folder that is new, or whose sweep changes."""
        assert self._lock is not None
        if self._lock.is_alone:
            remove_unfinished(self.path)
        sweep = {"sweep": config.get("sweep", {})}
        if begun and not differences({"sweep": self.config().get("sweep", {})}, sweep):
            return
        if not self._lock.is_alone:
            raise FolderError(
                f"{self.path} is being written by another process: its sweep is "
                "another. Wait for it to end, or choose another --workdir."
            )
        write_atomically(self.path / "config.json", to_json(config))

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Opens the folder of an existing run for reading.

        Raises:
            FolderError: there is none, it has a link that leads out of it, or it is of
                another format.
        """
        # Unlike Path.exists, os.path.isfile is False for names that are too long.
        if not os.path.isfile(path / "config.json"):
            raise FolderError(
                f"{path} is not a run folder: it has no config.json. Give the "
                "--workdir of a sweep or of one model."
            )
        refuse_links(path)
        environment.refuse_another_format(path)
        return cls(path)

    def config(self) -> dict[str, Any]:
        """Returns the configuration of the folder."""
        return with_defaults(read_facts(self.path / "config.json"))

    def environment(self) -> dict[str, Any]:
        """Returns what the numbers depend on besides the configuration."""
        return environment.read(self.path)

    def images(self) -> str:
        """Returns the fingerprint of the images that the folder was begun with."""
        return environment.images(self.path)

    def refuse_other_images(self, fingerprint: str) -> None:
        """Refuses images that are not those which the folder was begun with."""
        environment.refuse_other_images(self.path, fingerprint)

    def writing(self) -> AbstractContextManager[None]:
        """Within, no other command writes tables, the report or the environment."""
        return claims.writing(self.path)

    def close(self) -> None:
        """Closes the TensorBoard files, ends the trackers and gives back all locks."""
        self.metrics.close()
        self.tracking.close()
        self.claims.close()
        if self._lock is not None:
            self._lock.close()
