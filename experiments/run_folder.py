"""The folder of a run: what is in it, and how it is written without losing anything.

::

    config.json          the configuration, fully resolved
    environment.json     what the numbers depend on besides: versions, devices, commit
    metrics.jsonl        one row per run and validation
    tensorboard/<run>/   the same, as TensorBoard events
    members/<run>/       once finished: params.safetensors (unpadded), result.json, and
                         in environment.json what the bits of this run depend on
    failures/<run>/      where a run met a value that is not finite, for a replay
    checkpoints/         of groups of runs that are not finished
    jobs/                run folders of groups that are trained elsewhere
    results.csv          one row per finished run
    figures/, report.html

A reader never meets half a file, and nothing is executed or unpickled when it is read:
folders of strangers are safe to open.
"""

import contextlib
import csv
import difflib
import io
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import flax.traverse_util
import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from experiments.environment import environment
from experiments.files import (
    UNFINISHED,
    FolderError,
    cannot_read,
    cannot_write,
    load_arrays,
    read_json,
    save_arrays,
    seal,
    to_json,
    with_nan,
    without_nan,
    write_atomically,
)
from experiments.wording import listed

# What no number depends on: a run may be continued with others.
_MAY_DIFFER = (
    "config.checkpoint.",
    "config.data.cache_dir ",
    "config.data.data_dir ",
    "config.data.download ",
)
_LOCK = ".lock"
_TABLES_LOCK = ".tables.lock"
_JOBS = "jobs"


def _allow_open_files() -> None:
    """As many as are permitted: each member of a group has a TensorBoard file open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # Some systems promise too much.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where a configuration would give other results than an old one, line by line."""
    plain = json.loads(to_json(new))
    return [
        line
        for line in _differences(old, plain, ".config")
        if not line.startswith(_MAY_DIFFER)
    ]


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for name in sorted({*old, *new})
            for line in _differences(
                old.get(name, "(absent)"), new.get(name, "(absent)"), f"{path}.{name}"
            )
        ]
    return [] if old == new else [f"{path[1:]} is {old!r} there and {new!r} here"]


def _is_taken(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    # What a kill leaves of a folder that was just begun is no obstacle.
    return any(
        entry.name not in (_LOCK, _TABLES_LOCK) and not entry.name.endswith(UNFINISHED)
        for entry in path.iterdir()
    )


def _run_of(row: str) -> str | None:
    """The run a row of metrics belongs to; None if it is damaged."""
    try:
        run = json.loads(row)["run"] if row.endswith("\n") else None
    except (KeyError, TypeError, ValueError):
        return None
    return run if isinstance(run, str) else None


class RunFolder:
    """One folder, opened for one configuration."""

    def __init__(self, path: Path):
        self.path = path
        # Not a SummaryWriter: a full disk ends its thread with a traceback, and then
        # whoever waits for it hangs.
        self._events: dict[str, EventsWriter] = {}
        self._lock = filelock.FileLock(path / _LOCK)
        self._bits_depend_on: dict[str, Any] = {}

    @classmethod
    def create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        data_fingerprint: str,
        report: Callable[[str], object],
        *,
        computes: bool = True,
    ) -> "RunFolder":
        """Opens a folder for writing, new or begun before with the same configuration.

        The folder stays locked until ``close`` or the end of the process, however it
        ends.

        Args:
            path: the folder.
            config: the configuration.
            data_fingerprint: of the images (``ImageData.fingerprint``).
            report: is given a line on everything a person should know.
            computes: whether this process computes what is written; else whoever does
                is to be told of by ``record_environment``.

        Raises:
            FolderError: the folder cannot be written, holds other files, holds the run
                of another configuration or other images (named with what differs), or
                is being written by another process.
        """
        folder = cls(path)
        text = to_json(config)
        folder._is_begun(config)  # Refused without a trace.
        folder._acquire()
        try:
            # Again, as another process may have begun it just before.
            begun = folder._is_begun(config)
            folder._remove_unfinished()
            if not begun:
                write_atomically(path / "config.json", text)
            elif (path / "metrics.jsonl").exists():
                folder.restore_metrics((), ())  # Damaged rows are dropped.
            now = environment(data_fingerprint, computes)
            folder.record_environment(now, report)
            folder._bits_depend_on = now["bits_depend_on"]
        except BaseException:
            folder.close()
            raise
        _allow_open_files()
        return folder

    def _is_begun(self, config: Mapping[str, Any]) -> bool:
        """Whether this run was begun here; refuses a folder of anything else."""
        try:
            begun, taken = (self.path / "config.json").exists(), _is_taken(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if begun:
            self._refuse_another(config)
        elif taken:
            raise FolderError(
                f"{self.path} exists and is not a run folder: choose an empty or new "
                "folder as --workdir."
            )
        return begun

    def _remove_unfinished(self) -> None:
        """Removes what a kill left of files, but of jobs: they may be running."""
        for place, folders, files in os.walk(self.path):
            if Path(place) == self.path and self.jobs.name in folders:
                folders.remove(self.jobs.name)  # Folders come and go there.
            for name in files:
                if name.endswith(UNFINISHED):
                    (Path(place) / name).unlink(missing_ok=True)

    def _refuse_another(self, config: Mapping[str, Any]) -> None:
        if changes := self.differences(config):
            raise FolderError(
                f"{self.path} holds the run of another config: "
                f"{listed(changes, '; ')}. Choose another --workdir, or "
                "give the same config to continue."
            )

    def _acquire(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except filelock.Timeout as error:
            raise FolderError(
                f"{self.path} is being written by another process: wait for it to end, "
                "or choose another --workdir."
            ) from error
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Ends the TensorBoard files and lets others write to the folder."""
        self.close_events()
        self._lock.release()

    def record_environment(
        self, now: Mapping[str, Any], report: Callable[[str], object]
    ) -> None:
        """Writes what the bits depend on; says where that is not what it was.

        Args:
            now: the environment of a process that writes here, or of a job.
            report: is given a line where it differs from that before.
        """
        path = self.path / "environment.json"
        if not path.exists():
            write_atomically(path, to_json(now))
            return
        present = now["bits_depend_on"]
        self.refuse_other_images(present["data"])
        before = self.environment()
        earlier = before["bits_depend_on"]
        if present.keys() == {"data"}:
            return
        if earlier.keys() == {"data"}:  # Nothing was computed yet.
            write_atomically(path, to_json({**now, "command": before["command"]}))
            return
        if changes := _differences(earlier, present):
            report(
                f"{self.path} was begun elsewhere ({'; '.join(changes)}): its "
                "numbers hold, but its bits may not be those of an undisturbed run."
            )
            continued = [*before.get("continued", []), now]
            write_atomically(path, to_json({**before, "continued": continued}))

    def refuse_other_images(self, fingerprint: str) -> None:
        """Refuses images that are not those which the folder was begun with.

        Args:
            fingerprint: of the images (``ImageData.fingerprint``).
        """
        earlier = self.environment()["bits_depend_on"].get("data")
        if earlier != fingerprint:
            raise FolderError(
                f"{self.path} was begun with other images (fingerprint {earlier} there "
                f"and {fingerprint} here): restore them, or choose another --workdir."
            )

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Opens the folder of an existing run.

        Raises:
            FolderError: there is none.
        """
        # Unlike Path.exists, this is no error for names that are too long.
        if not os.path.isfile(path / "config.json"):
            raise FolderError(
                f"{path} is not a run folder (it has no config.json): give the "
                "--workdir of a sweep or of one model."
            )
        return cls(path)

    def config(self) -> dict[str, Any]:
        """The configuration the folder was made for."""
        return self._read_json(self.path / "config.json")

    def differences(self, config: Mapping[str, Any]) -> list[str]:
        """Where a configuration would give other results than the folder's."""
        return differences(self.config(), config)

    @property
    def jobs(self) -> Path:
        """Where groups that are trained elsewhere have their folders."""
        return self.path / _JOBS

    def environment(self) -> dict[str, Any]:
        """What the folder's numbers depend on besides its configuration."""
        path = self.path / "environment.json"
        return self._read_json(path, command=str, bits_depend_on=dict)

    def _read_sealed(self, path: Path) -> dict[str, Any]:
        """Facts, verified to be those that were saved."""
        sealed = self._read_json(path)
        facts = {name: value for name, value in sealed.items() if name != "sha256"}
        if seal(facts) != sealed:
            raise FolderError(
                f"{path} is not what was saved: delete {path.parent} and repeat the "
                "command that wrote it."
            )
        return facts

    def _read_json(self, path: Path, **fields: type) -> dict[str, Any]:
        """The object in a file, which has these fields, of these types."""
        try:
            found = read_json(path)
            if not isinstance(found, dict):
                raise TypeError("it holds no object")
            for name, kind in fields.items():
                if not isinstance(found.get(name), kind):
                    raise TypeError(f"its {name!r} is no {kind.__name__}")
        except (OSError, TypeError, ValueError) as error:
            raise cannot_read(path, error) from error
        return found

    def restore_metrics(
        self, runs: Collection[str], rows: Iterable[Mapping[str, Any]]
    ) -> None:
        """Makes these rows all there are of some runs: none lost, none repeated.

        Args:
            runs: names of the runs.
            rows: what was logged of them until where they are now continued.
        """
        path = self.path / "metrics.jsonl"
        kept: list[str] = []
        if path.exists():
            kept = [row for row in self._rows() if _run_of(row) not in (None, *runs)]
        write_atomically(path, "".join(kept))
        for run in runs:
            for stale in (self.path / "tensorboard" / run).glob("events.*"):
                stale.unlink()
        self.log(rows)

    def finished(self) -> set[str]:
        """Names of the runs whose result is written."""
        members = self.path / "members"
        return {path.parent.name for path in members.glob("*/result.json")}

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends metric rows, each with its ``run`` and ``epoch``."""
        rows = list(rows)
        try:
            # A folder that has vanished is not made anew.
            with open(self.path / "metrics.jsonl", "r+") as file:
                file.seek(0, os.SEEK_END)
                file.write("".join(json.dumps(without_nan(row)) + "\n" for row in rows))
            for row in rows:
                self._log_events(row)
        except OSError as error:
            raise cannot_write(self.path / "metrics.jsonl", error) from error

    def metrics(self, runs: Collection[str]) -> list[dict[str, Any]]:
        """The metric rows of some runs, in the order they were logged."""
        rows = [json.loads(row) for row in self._rows() if _run_of(row) in runs]
        return [with_nan(row) for row in rows]

    def _rows(self) -> list[str]:
        """The rows of metrics as they stand in the file, damaged ones among them."""
        path = self.path / "metrics.jsonl"
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return list(file)
        except OSError as error:
            raise cannot_read(path, error) from error

    def _log_events(self, row: Mapping[str, Any]) -> None:
        run = row["run"]
        if run not in self._events:
            folder = self.path / "tensorboard" / run
            folder.mkdir(parents=True, exist_ok=True)
            self._events[run] = EventsWriter(str(folder / "events"))
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if "/" in name
        ]
        self._events[run].write_event(
            Event(
                wall_time=time.time(),
                step=row["epoch"],
                summary=Summary(value=values),
            )
        )
        self._events[run].flush()

    def close_events(self) -> None:
        """Ends the TensorBoard files written so far."""
        writers = list(self._events.values())
        self._events.clear()
        for writer in writers:
            # What could not be written was told when it was logged.
            with contextlib.suppress(OSError):
                writer.close()

    def save_member(
        self,
        run: str,
        params: Mapping[str, Any],
        result: Mapping[str, Any],
        bits_depend_on: Mapping[str, Any] | None = None,
    ) -> None:
        """Stores a finished run: its parameters, then the result that marks it so.

        Args:
            run: its name.
            params: of its model, unpadded.
            result: its row.
            bits_depend_on: where it was trained, if not here.
        """
        folder = self.path / "members" / run
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        save_arrays(folder / "params.safetensors", flat, {})
        write_atomically(
            folder / "environment.json", to_json(bits_depend_on or self._bits_depend_on)
        )
        write_atomically(folder / "result.json", to_json(seal(result)))

    def bits_depend_on(self, run: str) -> dict[str, Any]:
        """What the bits of a finished run depend on besides the configuration."""
        own = self.path / "members" / run / "environment.json"
        found = self._read_json(own) if own.exists() else {}
        # Folders of earlier versions have that of the folder alone.
        return found or self.environment()["bits_depend_on"]

    def load_params(self, run: str) -> dict[str, Any]:
        """A run's parameters, unpadded, as ``VAE.init`` shapes them.

        Raises:
            FolderError: there is no such run, or it is damaged.
        """
        folder = self.path / "members" / run
        if not os.path.isdir(folder):
            near = difflib.get_close_matches(run, self.finished(), n=1)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            raise FolderError(
                f"no finished run {run!r} in {self.path}{hint} the finished runs are "
                f"in {self.path / 'members'}."
            )
        flat, _ = load_arrays(folder / "params.safetensors", {})
        # A family without parameters leaves nothing in the file.
        empty: dict[str, Any] = {"posterior": {}, "prior": {}}
        return empty | flax.traverse_util.unflatten_dict(flat, sep="/")

    def results(self, order: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of the finished runs, in the order of the names given."""
        finished = self.finished()
        return [
            with_nan(self._read_sealed(self.path / "members" / run / "result.json"))
            for run in order
            if run in finished
        ]

    # --- groups that are not finished ---

    def begin(self, group: str, runs: Sequence[str], attempt: int) -> Path:
        """Notes which runs train together; returns the folder of their checkpoints."""
        path = self.path / "checkpoints" / group
        write_atomically(
            path.with_name(f"{group}.json"), to_json({"runs": runs, "attempt": attempt})
        )
        return path

    def begun(self) -> list[tuple[tuple[str, ...], int]]:
        """Runs and attempt of every group that is begun and not ended."""
        notes, finished = [], self.finished()
        for path in sorted((self.path / "checkpoints").glob("*.json")):
            if not path.is_file():
                continue
            try:
                note = self._read_json(path, runs=list, attempt=int)
                is_over = finished.issuperset(note["runs"])
            except (FolderError, TypeError):  # TypeError: runs that can be no names.
                path.unlink()  # Damaged: its runs are grouped afresh.
                continue
            if is_over:
                self.end(path.stem)  # The process died before it did.
            else:
                notes.append((tuple(note["runs"]), note["attempt"]))
        return notes

    def end(self, group: str) -> None:
        """Drops the checkpoints of a group whose results are written."""
        for path in (self.path / "checkpoints").glob(f"{group}*"):
            if path.is_dir():
                shutil.rmtree(path)
        (self.path / "checkpoints" / f"{group}.json").unlink(missing_ok=True)

    # --- values that were not finite ---

    def save_failure(
        self,
        run: str,
        attempt: int,
        facts: Mapping[str, Any],
        state: Mapping[str, np.ndarray],
    ) -> None:
        """Stores where a run met a value that is not finite, and its state then."""
        path = self.path / "failures" / run / f"{attempt}.safetensors"
        save_arrays(path, state, {})
        write_atomically(path.with_suffix(".json"), to_json(seal(facts)))

    def failed(self) -> list[str]:
        """Names of the runs that met a value that is not finite."""
        return sorted(path.name for path in (self.path / "failures").glob("*"))

    def num_failures(self, run: str) -> int:
        """How often a run was stopped by a value that is not finite."""
        return len(list((self.path / "failures" / run).glob("*.json")))

    def load_failure(
        self, run: str, attempt: int | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Facts and state of a run's failure, as they were saved.

        Args:
            run: its name.
            attempt: which of its failures; None: the last.

        Raises:
            FolderError: there is none, or it is damaged.
        """
        if not (count := self.num_failures(run)):
            raise FolderError(
                f"{self.path} holds no failure of a run {run!r}; those that met a "
                f"value that is not finite: {', '.join(self.failed()) or 'none'}."
            )
        attempt = count - 1 if attempt is None else attempt
        path = self.path / "failures" / run / f"{attempt}.safetensors"
        return self._read_sealed(path.with_suffix(".json")), load_arrays(path, {})[0]

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Writes rows as a CSV file; a field that a row lacks is left empty."""
        path = self.path / name
        text = io.StringIO()
        fields = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(text, fieldnames=fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: None if v != v else v for k, v in row.items()} for row in rows
        )
        write_atomically(path, text.getvalue())
        return path

    def add_to_table(
        self,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        identity: Sequence[str],
    ) -> None:
        """Adds rows to a CSV file, in place of those that measured the same.

        Args:
            name: of the file; begun where there is none.
            rows: the rows.
            identity: fields that say what a row measured.

        Raises:
            FolderError: the file cannot be read or written.
        """
        # Not the lock of those who train: evaluations may be several, and beside them.
        lock = filelock.FileLock(self.path / _TABLES_LOCK)
        try:
            with lock:
                self._add_to_table(name, rows, identity)
        except OSError as error:
            raise cannot_write(self.path / name, error) from error

    def _add_to_table(
        self, name: str, rows: Sequence[Mapping[str, Any]], identity: Sequence[str]
    ) -> None:
        path = self.path / name
        kept: list[dict[str, Any]] = []
        if path.exists():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    kept = list(csv.DictReader(file, strict=True))
                if any(None in row for row in kept):
                    raise ValueError("a row is longer than the header")
            except (OSError, ValueError, csv.Error) as error:
                raise cannot_read(path, error, "delete it") from error

        replaced = {tuple(str(row[field]) for field in identity) for row in rows}
        others = [
            other
            for other in kept
            if tuple(other.get(field) for field in identity) not in replaced
        ]
        self.write_table(name, [*others, *rows])
