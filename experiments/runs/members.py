"""The finished runs of a folder, and where runs met a value that is not finite.

Every file carries the fingerprint of its run, and is verified when it is read.
"""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from experiments.evaluation.columns import RESULTS
from experiments.evaluation.status import in_present_words
from experiments.files.reading import cannot_read
from experiments.files.sealed import (
    LARGEST,
    LARGEST_INTEGER,
    Owner,
    of_another,
    read_record,
    with_nan,
    write_record,
)
from experiments.files.tensors import Arrays, check_arrays, load_arrays, save_arrays
from experiments.messages.errors import FolderError
from experiments.messages.wording import plain_name
from experiments.settings.grid import MOST_ATTEMPTS

# The fields of a record that say which run it belongs to.
_OWN_FIELDS = ("run", "fingerprint")


class _Parts:
    """Files that carry the fingerprint of a run, in one folder for each run."""

    _place: str  # the folder of these folders, in the run folder

    def __init__(self, folder: Path, owners: Mapping[str, str]):
        self._path = folder / self._place
        self._owners = owners

    def _load(self, run: str, name: str) -> Arrays:
        """Returns the arrays in a file, verified to belong to a run."""
        owner = self._owner(run)._asdict()
        return load_arrays(self._path / run / name, owner, self._train_again(run))[0]

    def _read(self, run: str, name: str) -> dict[str, Any]:
        """Returns the record in a file, verified to belong to a run."""
        path, owner = self._path / run / name, self._owner(run)
        try:
            facts = read_record(path)
        except (OSError, ValueError) as error:
            raise cannot_read(path, error, self._train_again(run)) from error
        found = Owner(*(str(facts.get(field)) for field in _OWN_FIELDS))
        if found != owner:
            raise of_another(path, found.name, run, self._train_again(run))
        return facts

    def _write(self, run: str, name: str, facts: Mapping[str, Any]) -> None:
        """Writes a record that belongs to a run."""
        own = dict(zip(_OWN_FIELDS, self._owner(run), strict=True))
        write_record(self._path / run / name, {**facts, **own})

    def _owner(self, run: str) -> Owner:
        if run not in self._owners:
            raise FolderError(
                f"{self._path / run} belongs to no run of config.json. Move it out of "
                "the folder."
            )
        return Owner(run, self._owners[run])

    def _train_again(self, run: str) -> str:
        return f"delete {self._path / run} and repeat the command that trained it"


class Members(_Parts):
    """The finished runs.

    Args:
        folder: the run folder.
        owners: the fingerprint of each run by name.
    """

    _place = "members"

    def finished(self) -> set[str]:
        """Returns the names of the runs whose result is written."""
        return {path.parent.name for path in self._path.glob("*/result.json")}

    def save(
        self,
        run: str,
        params: Mapping[str, Any],
        result: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        bits_depend_on: Mapping[str, Any],
    ) -> None:
        """Stores a finished run: its parts, then the result that marks it as finished.

        Args:
            run: its name.
            params: of its model, unpadded.
            result: its row.
            arrays: what the report draws, and numbers per test image; may be empty.
            bits_depend_on: what its bits depend on besides its settings.
        """
        folder, owner = self._path / run, self._owner(run)
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        save_arrays(folder / "params.safetensors", flat, owner._asdict())
        save_arrays(folder / "arrays.safetensors", arrays, owner._asdict())
        self._write(run, "environment.json", bits_depend_on)
        self._write(run, "result.json", result)

    def bits_depend_on(self, run: str) -> dict[str, Any]:
        """Returns what the bits of a finished run depend on besides its settings."""
        facts = self._read(run, "environment.json")
        return {name: facts[name] for name in facts if name not in _OWN_FIELDS}

    def params(self, run: str, shapes: Any = None) -> dict[str, Any]:
        """Returns a run's parameters, unpadded, as ``VAE.init`` shapes them.

        Args:
            run: its name.
            shapes: a tree whose shapes and types they must have; None: not checked.

        Raises:
            FolderError: there is no such run, or its file is damaged or of another
                run.
        """
        if not os.path.exists(self._path / run / "result.json"):
            near = difflib.get_close_matches(run, self.finished(), n=1)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            raise FolderError(
                f"no finished run {run!r} in {self._path.parent}{hint} the finished "
                f"runs are in {self._path}."
            )
        flat: Any = self._load(run, "params.safetensors")
        # A part without parameters leaves nothing in the file.
        empty: dict[str, Any] = {"posterior": {}, "prior": {}}
        if shapes is not None:
            expected = flax.traverse_util.flatten_dict(
                shapes, keep_empty_nodes=True, sep="/"
            )
            nothing = flax.traverse_util.empty_node
            parts = {name: part for name, part in expected.items() if part is nothing}
            path = self._path / run / "params.safetensors"
            check_arrays(
                path, flat, {n: e for n, e in expected.items() if n not in parts}
            )
            flat = flat | parts
        return empty | flax.traverse_util.unflatten_dict(flat, sep="/")

    def arrays(self, run: str) -> Arrays:
        """Returns what the report draws of a finished run, and numbers per test image.

        Raises:
            FolderError: they are damaged, missing or of another run.
        """
        return self._load(run, "arrays.safetensors")

    def result(self, run: str) -> dict[str, Any]:
        """Returns the row of a finished run.

        Raises:
            FolderError: it is damaged, lacks what every row has, or is of another run.
        """
        path = self._path / run / "result.json"
        row = self._read(run, path.name)
        if reason := next(_faults(row), None):
            raise cannot_read(path, reason, self._train_again(run))
        row = with_nan(row)
        return {**row, "status": in_present_words(row)}

    def results(
        self, order: Sequence[str], report: Callable[[str], object]
    ) -> list[dict[str, Any]]:
        """Returns the rows of the finished runs, in the order of the names given.

        Args:
            order: names of runs.
            report: gets a line on every row that cannot be read and is left out.
        """
        rows, finished = [], self.finished()
        for run in order:
            if run in finished:
                try:
                    rows.append(self.result(run))
                except FolderError as error:
                    report(str(error))
        return rows


def _faults(row: Mapping[str, Any]) -> Iterator[str]:
    """Yields the reasons why a sealed record is not the row of a run."""
    for column in RESULTS:
        if column.certain and type(row.get(column.name, ...)) not in column.types:
            yield f"its {column.name!r} is missing or of another type"
    if row["attempt"] not in range(MOST_ATTEMPTS):
        yield f"its 'attempt' is {row['attempt']!r}, of at most {MOST_ATTEMPTS - 1}"
    for name, value in row.items():
        most = {int: LARGEST_INTEGER, float: LARGEST}.get(type(value))
        if most and abs(value) > most:
            yield f"its {name!r} is larger than any that is measured"
        for text in (name, value):  # Names head the columns of tables.
            if isinstance(text, str) and text and plain_name(text) != text:
                yield (
                    f"its {name!r} is {value!r:.80}, which a terminal, a spreadsheet "
                    "or a browser could take for a command"
                )


class Failures(_Parts):
    """Where runs met a value that is not finite.

    Args:
        folder: the run folder.
        owners: the fingerprint of each run by name.
    """

    _place = "failures"

    def save(
        self,
        run: str,
        attempt: int,
        facts: Mapping[str, Any],
        state: Mapping[str, np.ndarray],
    ) -> None:
        """Stores where a run met a value that is not finite, and its state then."""
        path = self._path / run / f"{attempt}.safetensors"
        save_arrays(path, state, self._owner(run)._asdict())
        self._write(run, f"{attempt}.json", facts)

    def runs(self) -> list[str]:
        """Returns the names of the runs that met a value that is not finite."""
        return sorted(path.name for path in self._path.glob("*"))

    def count(self, run: str) -> int:
        """Returns how often a run was stopped by a value that is not finite.

        Raises:
            FolderError: a failure is damaged or of another run.
        """
        attempts = self._attempts(run)
        for attempt in attempts:  # After each, the run begins again with other keys.
            self._read(run, f"{attempt}.json")
        return len(attempts)

    def _attempts(self, run: str) -> list[int]:
        names = (path.stem for path in (self._path / run).glob("*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def load(self, run: str) -> tuple[dict[str, Any], Arrays]:
        """Returns facts and state of the last failure of a run, as they were saved.

        Raises:
            FolderError: there is none, or it is damaged or of another run.
        """
        if run not in self._owners or not (attempts := self._attempts(run)):
            raise FolderError(
                f"{self._path.parent} holds no failure of a run {run!r}; those that "
                f"met a value that is not finite: {', '.join(self.runs()) or 'none'}."
            )
        arrays = self._load(run, f"{attempts[-1]}.safetensors")
        return self._read(run, f"{attempts[-1]}.json"), arrays
