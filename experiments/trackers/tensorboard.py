"""TensorBoard: the metric rows of a run folder, once more as files of events.

These files are written and replaced together with the metric rows, so they hold exactly
the same epochs.
"""

import contextlib
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.files.writing import remove

# Where torch is installed, tensorboardX imports it, which takes seconds; likewise the
# clients of remote storage. Files on a disk need none of them.
_NOT_NEEDED = {"boto3", "comet_ml", "google.cloud", "torch"} - sys.modules.keys()

sys.modules |= dict.fromkeys(_NOT_NEEDED)  # type: ignore[arg-type]  # Not installed.
try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
finally:
    for _name in _NOT_NEEDED:
        del sys.modules[_name]


class Events:
    """The files of events of runs.

    Args:
        folder: the folder with a folder for each run.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        # A SummaryWriter is not used: a full disk ends its thread with a traceback, and
        # a process that waits for it then hangs.
        self._writers: dict[str, EventsWriter] = {}

    def restart(self, runs: Collection[str]) -> None:
        """Removes all events of some runs."""
        self.end(runs)
        for run in runs:
            for stale in (self._folder / run).glob("events.*"):
                if not stale.is_dir():  # A folder there was not written by this class.
                    remove(stale)

    def log(self, row: Mapping[str, Any]) -> None:
        """Writes a metric row, with its ``run`` and ``epoch``.

        Raises:
            OSError: it cannot be written.
        """
        run = row["run"]
        if run not in self._writers:
            folder = self._folder / run
            folder.mkdir(parents=True, exist_ok=True)
            self._writers[run] = EventsWriter(str(folder.absolute() / "events"))
        event = Event(wall_time=time.time(), step=row["epoch"])
        for name, value in row.items():
            if "/" in name:
                event.summary.value.add(tag=name, simple_value=value)
        self._writers[run].write_event(event)
        self._writers[run].flush()

    def close(self) -> None:
        """Closes the files of all runs."""
        self.end(list(self._writers))

    def end(self, runs: Iterable[str]) -> None:
        """Closes the files of some runs."""
        for run in runs:
            if writer := self._writers.pop(run, None):
                # An error was already raised when the row was logged.
                with contextlib.suppress(OSError):
                    writer.close()
