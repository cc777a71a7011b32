"""Notes on the groups of runs that are begun and not finished.

A note lies beside the checkpoints of a group and says which runs train together, so
that a group is continued as it was begun.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from experiments.files.sealed import Owner, read_record, write_record
from experiments.files.writing import remove
from experiments.messages.errors import AnotherOwnerError
from experiments.settings.fingerprint import group_fingerprint
from experiments.settings.grid import MOST_ATTEMPTS, Group


class Note(NamedTuple):
    """Names the runs that were begun together."""

    name: str  # of the group
    runs: tuple[str, ...]
    attempt: int  # number of times they were begun before, with other keys

    @classmethod
    def on(cls, group: Group) -> "Note":
        """Returns the note on a group."""
        return cls(group.name, tuple(run.name for run in group.runs), group.attempt)


def _read(path: Path) -> tuple[Note, dict[str, str]]:
    """Returns a note, and the fingerprints of its runs; errors are of any class."""
    facts = read_record(path)
    note = Note(facts["name"], tuple(facts["runs"].keys()), facts["attempt"])
    if note.name != path.stem:
        raise ValueError("it belongs to another group")
    if type(note.attempt) is not int or note.attempt not in range(MOST_ATTEMPTS):
        raise ValueError(f"its attempt is {note.attempt!r}")
    # Another name, such as '..', may lead to another folder.
    if not re.fullmatch(r"\w+-\w+", note.name) or not note.runs:
        raise ValueError("it belongs to no group")
    return note, facts["runs"]


class GroupNotes:
    """The notes of a run folder.

    Args:
        path: the folder of all checkpoints.
        owners: the fingerprint of each run by name.
    """

    def __init__(self, path: Path, owners: Mapping[str, str]):
        self.path = path
        self._owners = owners

    def begin(self, note: Note) -> Path:
        """Notes which runs train together; returns the folder of their checkpoints."""
        facts = {
            "name": note.name,
            "runs": {run: self._owners[run] for run in note.runs},
            "attempt": note.attempt,
        }
        write_record(self.path / f"{note.name}.json", facts)
        return self.path / note.name

    def owner(self, note: Note) -> Owner:
        """Returns the owner of a group's checkpoints."""
        runs = [self._owners[run] for run in note.runs]
        return Owner(note.name, group_fingerprint(runs, note.attempt))

    def runs(self) -> set[str]:
        """Returns the names of all runs in notes, of whichever configuration."""
        found: set[str] = set()
        for path in self._files():
            try:
                found.update(read_record(path)["runs"])
            except (OSError, KeyError, TypeError, ValueError):
                continue  # ``begun`` reports it.
        return found

    def begun(self, finished: set[str], report: Callable[[str], object]) -> list[Note]:
        """Returns the notes on groups that are begun and not ended.

        Args:
            finished: names of the finished runs.
            report: gets a line on every damaged note; the note is removed, and its
                runs are grouped again.

        Raises:
            AnotherOwnerError: a note is on runs of another configuration.
        """
        notes = []
        for path in self._files():
            try:
                note, owners = _read(path)
            except FileNotFoundError:  # Another command has ended it just now.
                continue
            except (AttributeError, OSError, KeyError, TypeError, ValueError) as error:
                self.discard(path.stem, str(error), report)
                continue
            if others := [
                run for run in note.runs if owners[run] != self._owners.get(run)
            ]:
                raise AnotherOwnerError(
                    f"{path} belongs to another sweep, where {others[0]!r} has another "
                    "configuration or other images. Delete it to group its runs again, "
                    "or put back its own."
                )
            if finished.issuperset(note.runs):
                self.end(note.name)  # A process died before it ended the group.
            else:
                notes.append(note)
        return notes

    def discard(self, group: str, reason: str, report: Callable[[str], object]) -> None:
        """Removes a damaged note and reports it."""
        path = self.path / f"{group}.json"
        report(f"{path} is damaged ({reason}): its runs are grouped again.")
        remove(path)

    def end(self, group: str) -> None:
        """Removes the checkpoints and the note of a group whose results are written."""
        folder = self.path / group
        if folder.is_symlink():
            remove(folder)
        # Two commands may do so at once: errors and leftovers are harmless.
        shutil.rmtree(folder, ignore_errors=True)
        remove(self.path / f"{group}.json")

    def _files(self) -> list[Path]:
        return sorted(path for path in self.path.glob("*.json") if path.is_file())
