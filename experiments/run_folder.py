"""The folder of a run: what is in it, and how it is written without losing anything.

::

    config.json          the configuration, fully resolved
    environment.json     what the numbers depend on besides: versions, devices, commit
    metrics.jsonl        one row per run and validation
    tensorboard/<run>/   the same, as TensorBoard events
    members/<run>/       params.safetensors (unpadded) and result.json, once finished
    results.csv          one row per finished run
    figures/, report.html

Files are written beside and renamed, so a reader never meets half a file.
"""

import csv
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy
import tensorboardX

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class FolderError(RuntimeError):
    """A run folder that cannot be used; the message is one line."""


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that its path holds the old content or the new, never half."""
    data = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:  # An interruption leaves no half file either.
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> FolderError:
    return FolderError(
        f"cannot write {path} ({error.strerror or error}): make room and permit "
        "writing there, or choose another --workdir."
    )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for name in sorted({*old, *new})
            for line in _differences(
                old.get(name, "(absent)"), new.get(name, "(absent)"), f"{path}.{name}"
            )
        ]
    return [] if old == new else [f"config{path} is {old!r} there and {new!r} here"]


def _is_taken(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _run_of(row: str) -> str | None:
    """The run a row of metrics belongs to; None if it is damaged."""
    try:
        return json.loads(row)["run"] if row.endswith("\n") else None
    except (KeyError, TypeError, ValueError):
        return None


class RunFolder:
    """One folder, opened for one configuration."""

    def __init__(self, path: Path):
        self.path = path
        self._writers: dict[str, tensorboardX.SummaryWriter] = {}

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> "RunFolder":
        """Opens a folder for a configuration, new or begun before with the same one.

        Raises:
            FolderError: the folder cannot be written, holds other files, or holds the
                run of another configuration (named with the fields that differ).
        """
        folder = cls(path)
        text = json.dumps(config, indent=2) + "\n"
        try:
            begun, taken = (path / "config.json").exists(), _is_taken(path)
        except OSError as error:
            raise _cannot_write(path, error) from error
        if begun:
            differences = _differences(folder.config(), json.loads(text))
            if differences:
                raise FolderError(
                    f"{path} holds the run of another config: "
                    f"{'; '.join(differences[:5])}. Choose another --workdir, or give "
                    "the same config to continue."
                )
        elif taken:
            raise FolderError(
                f"{path} exists and is not a run folder: choose an empty or new folder "
                "as --workdir."
            )
        else:
            write_atomically(path / "config.json", text)
        write_atomically(
            path / "environment.json", json.dumps(environment(), indent=2) + "\n"
        )
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Opens the folder of an existing run.

        Raises:
            FolderError: there is none.
        """
        if not (path / "config.json").exists():
            raise FolderError(
                f"{path} is not a run folder (it has no config.json): give the "
                "--workdir of a sweep or of one model."
            )
        return cls(path)

    def config(self) -> dict[str, Any]:
        """The configuration the folder was made for."""
        path = self.path / "config.json"
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, TypeError, ValueError) as error:
            raise FolderError(
                f"cannot read {path} ({error}): restore it, or choose another "
                "--workdir."
            ) from error

    def forget(self, runs: Collection[str]) -> None:
        """Drops the metric rows of runs that are about to be trained anew."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            with open(path) as file:
                kept = [row for row in file if _run_of(row) not in (None, *runs)]
            write_atomically(path, "".join(kept))

    def finished(self) -> set[str]:
        """Names of the runs whose result is written."""
        members = self.path / "members"
        return {path.parent.name for path in members.glob("*/result.json")}

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends metric rows, each with its ``run`` and ``epoch``."""
        rows = list(rows)
        try:
            with open(self.path / "metrics.jsonl", "a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
            for row in rows:
                self._log_events(row)
        except OSError as error:
            raise _cannot_write(self.path / "metrics.jsonl", error) from error

    def _log_events(self, row: Mapping[str, Any]) -> None:
        run = row["run"]
        if run not in self._writers:
            events = self.path / "tensorboard" / run
            for stale in events.glob("events.*"):
                stale.unlink()
            self._writers[run] = tensorboardX.SummaryWriter(str(events))
        for name, value in row.items():
            if "/" in name:
                self._writers[run].add_scalar(name, value, row["epoch"])

    def close_events(self) -> None:
        """Ends the TensorBoard files written so far."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def save_member(
        self, run: str, params: Mapping[str, Any], result: Mapping[str, Any]
    ) -> None:
        """Stores a finished run: its parameters, then the result that marks it so."""
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        arrays = {name: np.asarray(leaf, order="C") for name, leaf in flat.items()}
        folder = self.path / "members" / run
        write_atomically(
            folder / "params.safetensors", safetensors.numpy.save(arrays, {"run": run})
        )
        write_atomically(folder / "result.json", json.dumps(result, indent=2) + "\n")

    def load_params(self, run: str) -> dict[str, Any]:
        """A run's parameters, unpadded, as ``VAE.init`` shapes them.

        Raises:
            FolderError: missing or damaged.
        """
        path = self.path / "members" / run / "params.safetensors"
        try:
            flat = safetensors.numpy.load(path.read_bytes())
        except (OSError, safetensors.SafetensorError) as error:
            raise FolderError(
                f"cannot read the parameters in {path} ({error}): delete "
                f"{path.parent} and repeat the command that trained it."
            ) from error
        return flax.traverse_util.unflatten_dict(flat, sep="/")

    def results(self, order: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of the finished runs, in the order of the names given."""
        finished = self.finished()
        return [
            json.loads((self.path / "members" / run / "result.json").read_text())
            for run in order
            if run in finished
        ]

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Writes rows of the same fields as a CSV file."""
        path = self.path / name
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, text.getvalue())
        return path


def environment() -> dict[str, Any]:
    """What the numbers of a run depend on besides its configuration."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "command": " ".join(sys.argv),
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "backend": jax.default_backend(),
        "devices": [str(device) for device in jax.devices()],
    }
