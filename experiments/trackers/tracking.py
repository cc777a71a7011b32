"""Sends the runs of a folder to the trackers that are asked for.

A run has one identity in all trackers and commands: a note in the folder keeps it. An
epoch is sent after a checkpoint holds it, and a tracker itself says which epochs it
has. So a run that continues sends every epoch exactly once, however the command before
it ended. Runs that are finished and not completely sent are sent by the next command.

One thread sends everything, so that training never waits for a network. If a tracker
fails, one warning says so, and the command continues without it.
"""

import dataclasses
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.files.sealed import read_record, write_record
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import one_line
from experiments.trackers.interface import Description, TrackedRun, services

_REPORT = "report"  # No run has this name.
_PATIENCE = 5.0  # Seconds until a command says what it waits for.


class Tracking:
    """The runs of a folder in trackers; TensorBoard is not among them.

    Args:
        folder: the run folder.
        owners: the fingerprint of each run by name.
        trackers: their names.

    Raises:
        SettingsError: a tracker cannot be used here.
    """

    def __init__(
        self, folder: Path, owners: Mapping[str, str], trackers: Iterable[str]
    ):
        self._folder = folder
        self._owners = owners
        self._services = services(trackers)
        self._failed: set[str] = set()
        self._open: dict[tuple[str, str], TrackedRun] = {}  # by tracker and run
        self._thread = ThreadPoolExecutor(max_workers=1)

    def __bool__(self) -> bool:
        """Returns whether there is a tracker to send anything to."""
        return bool(self._services.keys() - self._failed)

    def is_sent(self, run: str, attempt: int) -> bool:
        """Returns whether all trackers have a finished run completely."""
        return not self or self._services.keys() <= set(
            self._note(run, attempt)["complete"]
        )

    def begin(self, run: str, settings: Any, attempt: int) -> None:
        """Opens a run in all trackers that do not have it completely.

        Args:
            run: its name.
            settings: a dataclass.
            attempt: how often it was started before, with other keys; each attempt is
                a run of its own in the trackers.

        Raises:
            FolderError: the note on its identity cannot be written.
        """
        if not self:
            return
        note = self._note(run, attempt)
        config = dataclasses.asdict(settings)
        facts = {"fingerprint": note["fingerprint"], "attempt": attempt}
        description = self._description(note, config | facts)

        def begin(tracker: str) -> None:
            # Read now: the thread may just have sent the rest of it.
            if tracker not in self._note(run, attempt)["complete"]:
                service = self._services[tracker]
                self._open[tracker, run] = service.begin(description)

        self._submit(begin)

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Sends metric rows, of epochs that a checkpoint holds, to open runs."""
        by_run: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_run.setdefault(row["run"], []).append(row)

        def log(tracker: str) -> None:
            for run, own in by_run.items():
                if opened := self._open.get((tracker, run)):
                    opened.log(own)

        self._submit(log)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Sends the row of the result of an open run, which is then complete."""
        run = result["run"]

        def finish(tracker: str) -> None:
            if opened := self._open.pop((tracker, run), None):
                opened.finish(result)
                note = self._note(run, result["attempt"])
                note["complete"] = sorted({*note["complete"], tracker})
                write_record(self._path(run), note)

        self._submit(finish)

    def fail(self, run: str) -> None:
        """Ends an open run whose attempt failed: the next attempt is another run."""

        def fail(tracker: str) -> None:
            if opened := self._open.pop((tracker, run), None):
                opened.end(failed=True)

        self._submit(fail)

    def report(self, files: Sequence[Path]) -> None:
        """Sends the files of the report on the sweep, as a run of its own."""
        if not self:
            return
        description = self._description(self._note(_REPORT, 0), {})

        def report(tracker: str) -> None:
            self._services[tracker].begin(description).attach(files)

        self._submit(report)

    def close(self) -> None:
        """Ends all open runs as stopped, and waits until everything is sent."""

        def end(tracker: str) -> None:
            for key in [key for key in self._open if key[0] == tracker]:
                self._open.pop(key).end(failed=False)

        try:
            if last := self._submit(end):
                self._wait(last)
        finally:
            self._thread.shutdown()

    def _wait(self, last: Future[None]) -> None:
        try:
            last.result(_PATIENCE)
        except TimeoutError:
            names = " and ".join(self._services)
            CONSOLE.print(f"sending the last metrics to {names}; all else is saved.")
            last.result()

    def _submit(self, call: Callable[[str], None]) -> Future[None] | None:
        """Has the thread call a function for each tracker by name, in order."""
        return self._thread.submit(self._call, call) if self else None

    def _call(self, call: Callable[[str], None]) -> None:
        for tracker in self._services:
            if tracker in self._failed:
                continue
            try:
                call(tracker)
            except Exception as error:  # Of any class: the packages have many.
                self._failed.add(tracker)
                warn(
                    f"{tracker} accepts nothing more ({type(error).__name__}: "
                    f"{one_line(error)}): the command goes on without it. The same "
                    "command sends the rest later."
                )

    def _description(
        self, note: Mapping[str, Any], config: Mapping[str, Any]
    ) -> Description:
        sweep = self._folder.absolute().name
        return Description(note["id"], note["run"], sweep, config, self._folder)

    def _path(self, run: str) -> Path:
        return self._folder / "trackers" / f"{run}.json"

    def _note(self, run: str, attempt: int) -> dict[str, Any]:
        """Returns the note on a run; a new one if there is none of this attempt."""
        own = {
            "run": run,
            "fingerprint": self._owners.get(run, ""),
            "attempt": attempt,
        }
        try:
            note = read_record(self._path(run))
            if not re.fullmatch("[0-9a-f]{16}", note["id"]):  # It names files.
                raise ValueError("its id is no id")
            if own.items() <= note.items():
                return {**note, "complete": [str(each) for each in note["complete"]]}
        except FileNotFoundError:
            pass
        except (OSError, KeyError, TypeError, ValueError) as error:
            warn(
                f"{self._path(run)} is damaged ({error}): the trackers get {run} as a "
                "new run."
            )
        note = {**own, "id": secrets.token_hex(8), "complete": []}
        write_record(self._path(run), note)
        return note
