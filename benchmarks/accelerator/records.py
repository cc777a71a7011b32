"""The facts of a part, kept piece by piece, and the time that a call may take."""

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.files.reading import read_facts
from experiments.files.writing import atomically, write_atomically
from experiments.messages.errors import SettingsError, one_line

# How often a piece is begun before it is left out because it ends the process.
_MOST_BEGUN = 2

Facts = dict[str, Any]


class OutOfTime(Exception):
    """The time of this call is over; the next call goes on."""


class Deadline:
    """The end of a call; its first piece always begins, however long it takes."""

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes
        self._fresh = True

    @property
    def is_over(self) -> bool:
        """Whether a piece in several steps should stop here."""
        return time.monotonic() > self._end

    def require(self, minutes: float) -> None:
        """Raises OutOfTime if a piece of so many minutes would end too late."""
        if not self._fresh and time.monotonic() + 60 * minutes > self._end:
            raise OutOfTime
        self._fresh = False


class Record:
    """The pieces of a part, in a JSON file that is written after each piece.

    A piece that fails is kept with its failure. A piece that ends the process (killed,
    or crashed in a driver) is begun twice and then left out, so that it cannot keep the
    others from being measured.

    Args:
        path: the file; arrays of a piece lie beside it.
        conditions: the machine and the images, which all pieces share.
        deadline: of this call.
        again: whether pieces that are there are measured again.

    Raises:
        SettingsError: the file has pieces of other conditions.
    """

    def __init__(
        self,
        path: Path,
        conditions: Mapping[str, str],
        deadline: Deadline,
        again: bool = False,
    ):
        self._path, self.deadline = path, deadline
        self._conditions = dict(conditions)
        self.pieces: dict[str, Facts] = {}
        self._begun: dict[str, int] = {}
        if again:
            for old in path.parent.glob(f"{path.stem}.*"):
                old.unlink()
        if not path.exists():
            return
        found = read_facts(path)
        for name, value in self._conditions.items():
            if (other := found["conditions"].get(name)) != value:
                raise SettingsError.of(
                    f"{name} of {path}",
                    other,
                    f"it is now {value!r}, and pieces of both cannot be compared",
                    "Give another folder as --records, or --again to measure all of "
                    "this part again",
                )
        self.pieces, self._begun = found["pieces"], found["begun"]

    def piece(
        self,
        name: str,
        measure: Callable[..., Facts],
        *arguments: Any,
        minutes: float = 1.0,
    ) -> None:
        """Measures a piece, unless its facts are there.

        Args:
            name: of the piece.
            measure: returns its facts.
            *arguments: of ``measure``.
            minutes: that it takes at most, roughly.

        Raises:
            OutOfTime: it does not begin in this call, or ended at a place to go on.
        """
        if name in self.pieces:
            return
        begun = self._begun.pop(name, 0)
        if begun == _MOST_BEGUN:
            self._keep(name, {"failure": f"it ended the process {begun} times"})
            return
        self.deadline.require(minutes)
        print(f"{self._path.stem}: {name}", flush=True)
        self._begun[name] = begun + 1
        self._write()
        started = time.perf_counter()
        try:
            facts = measure(*arguments)
        except (OutOfTime, KeyboardInterrupt):
            del self._begun[name]
            self._write()
            raise
        except Exception as error:
            traceback.print_exc()
            print(f"{self._path.stem}: {name} failed", file=sys.stderr)
            facts = {"failure": f"{type(error).__name__}: {one_line(error)}"}
        del self._begun[name]
        self._keep(name, {**facts, "seconds in all": time.perf_counter() - started})

    @property
    def failures(self) -> list[str]:
        """Names of the pieces that failed."""
        return [name for name, facts in self.pieces.items() if "failure" in facts]

    def _keep(self, name: str, facts: Facts) -> None:
        self.pieces[name] = facts
        self._write()

    def _write(self) -> None:
        facts = {
            "conditions": self._conditions,
            "pieces": self.pieces,
            "begun": self._begun,
        }
        write_atomically(self._path, json.dumps(facts, indent=1) + "\n")

    # --- arrays ---

    def keep_arrays(self, name: str, tree: Any) -> None:
        """Keeps the arrays of a tree beside the record, whole or not at all."""
        leaves = jax.device_get(jax.tree.leaves(tree))
        with atomically(self._arrays(name)) as path, open(path, "wb") as file:
            np.savez(file, *leaves)
        # A piece that gets on may be killed as often as it takes.
        self._begun = dict.fromkeys(self._begun, 0)
        self._write()

    def arrays(self, name: str, like: Any) -> Any | None:
        """Returns arrays that were kept, in a tree ``like`` theirs; None without them.

        Raises:
            ValueError: they have other shapes than ``like``.
        """
        path = self._arrays(name)
        if not path.exists():
            return None
        with np.load(path) as stored:
            leaves = [stored[key] for key in stored.files]
        shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
        if [leaf.shape for leaf in leaves] != shapes:
            raise ValueError(f"{path} holds arrays of other shapes: delete it")
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def drop_arrays(self, name: str) -> None:
        """Deletes arrays that were kept."""
        self._arrays(name).unlink(missing_ok=True)

    def _arrays(self, name: str) -> Path:
        slug = "".join(c if c.isalnum() else "_" for c in name)
        return self._path.with_suffix(f".{slug}.npz")


@contextlib.contextmanager
def timed(into: Facts, name: str) -> Iterator[None]:
    """Adds the seconds that the block takes to facts."""
    started = time.perf_counter()
    yield
    into[name] = time.perf_counter() - started
