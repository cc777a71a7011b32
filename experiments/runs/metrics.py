"""The metric rows of runs: a file for each run, and the same as TensorBoard events."""

import contextlib
import json
import os
import resource
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.files.reading import cannot_read, parse_json, read_bytes
from experiments.files.sealed import Owner, with_nan, without_nan
from experiments.files.writing import refusing_to_write, write_atomically
from experiments.messages.errors import FolderError
from experiments.messages.wording import counted
from experiments.trackers.tensorboard import Events

# A file of rows has fewer lines, as its size is limited too.
_MOST_LINES = 1_000_000


class Metrics:
    """The metric rows in a run folder.

    Args:
        folder: the run folder.
        owners: the fingerprint of each run by name, which every row carries.
        has_events: whether TensorBoard gets the rows too.
    """

    def __init__(
        self, folder: Path, owners: Mapping[str, str], *, has_events: bool = True
    ):
        self._folder = folder
        self._owners = owners
        self._events = Events(folder / "tensorboard") if has_events else None

    def path(self, run: str) -> Path:
        """Returns the file that holds the rows of a run.

        Raises:
            FolderError: there is no such run.
        """
        if run not in self._owners:  # A name from elsewhere may be '../..'.
            raise FolderError(f"{run!r} is no run of {self._folder / 'config.json'}.")
        return self._folder / "members" / run / "metrics.jsonl"

    def restore(self, runs: Collection[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces all rows of some runs, so that none is lost or repeated.

        Args:
            runs: names of the runs.
            rows: what was logged of them up to the epoch where they now continue.
        """
        for run in runs:
            write_atomically(self.path(run), "")
        if self._events:
            self._events.restart(runs)
        self.log(rows)

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, each with its ``run`` and ``epoch``.

        Raises:
            FolderError: they cannot be written.
        """
        for row in rows:
            path = self.path(row["run"])
            own = {"run": row["run"], "fingerprint": self._owners[row["run"]]}
            with refusing_to_write(path):
                # This mode creates no file: a folder that vanished is not made again.
                with open(path, "r+") as file:
                    file.seek(0, os.SEEK_END)
                    file.write(json.dumps(without_nan({**own, **row})) + "\n")
                if self._events:
                    self._events.log(row)

    def read(self, run: str, report: Callable[[str], object]) -> list[dict[str, Any]]:
        """Returns the rows of a run, in the order they were logged.

        Args:
            run: its name.
            report: gets a line if some cannot be read.
        """
        path = self.path(run)
        try:
            content = read_bytes(path)
            if content.count(b"\n") + content.count(b"\r") > _MOST_LINES:
                raise ValueError(f"it has more than {_MOST_LINES:,} lines")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            report(str(cannot_read(path, error, "do without its learning curve")))
            return []
        owner = Owner(run, self._owners[run])
        # A file may come back from an editor in another encoding.
        encodings = dict.fromkeys(("utf-8", json.detect_encoding(content)))
        rows, others = max(
            (
                _parse(content.decode(encoding, "replace"), owner)
                for encoding in encodings
            ),
            key=lambda parsed: len(parsed[0]),
        )
        if others:
            report(
                f"{counted(others, 'row')} of {path} cannot be read, or are of another "
                f"run; the other {len(rows)} are used."
            )
        return rows

    def close(self) -> None:
        """Closes the TensorBoard files of all runs."""
        if self._events:
            self._events.close()

    def end(self, runs: Iterable[str]) -> None:
        """Closes the TensorBoard files of some runs."""
        if self._events:
            self._events.end(runs)


def _parse(text: str, owner: Owner) -> tuple[list[dict[str, Any]], int]:
    """Returns the rows of a run in a text, and the number of other lines."""
    rows, others = [], 0
    for line in text.replace("\r", "\n").split("\n"):
        if not line.strip():
            continue
        try:
            # A power cut may leave NUL bytes beside a row, an editor a mark before it.
            row = parse_json(line.strip("\0\ufeff \t"))
            is_own = (row.pop("run"), row.pop("fingerprint")) == owner
            if not is_own or type(row["epoch"]) is not int:
                raise ValueError("it is not a row of this run")
            if not all(map(_is_number, row.values())):
                raise ValueError("it holds more than numbers")
        except (AttributeError, KeyError, TypeError, ValueError):
            others += 1
        else:
            rows.append({"run": owner.name, **with_nan(row)})
    return rows, others


def _is_number(value: Any) -> bool:
    """Returns whether a value is a number that fits a float, or null for NaN."""
    if value is None:
        return True
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def allow_open_files() -> None:
    """Raises the limit of open files to its maximum: each member has several."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # Some systems state too high a one.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
