"""Jobs: the commands that train parts of a sweep, and their files.

A job is the command line of the sweep itself, restricted to a group of runs (or a slice
of one), without the report. Like every command in a folder it claims the runs that it
trains, so no run is trained twice at once, and the same command continues after a kill
from its last checkpoint.
"""

import dataclasses
import glob
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.files.reading import read_object
from experiments.files.writing import remove, write_atomically
from experiments.launch.engines import Launcher
from experiments.messages.errors import FolderError


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a sweep is launched."""

    engine: Launcher
    retries: int  # number of times in a row that a job may end without getting further
    slice_size: int  # the most runs of a job; 0: whole groups
    arguments: tuple[str, ...]  # of the command line that launches


@dataclasses.dataclass
class Job:
    """Runs that one command trains."""

    name: str
    runs: tuple[str, ...]
    launcher: str = ""  # the engine that has it, and its name there; "": none
    handle: str = ""
    failures: int = 0  # number of times in a row that it ended without getting further
    steps: frozenset[str] = frozenset()  # results and checkpoints when it was begun


# --- the command of a job -------------------------------------------------------------

# Options that say how a sweep is launched.
LAUNCH_FLAGS = ("max_jobs", "slice", "retries", "slurm", "ray")
_NOT_PASSED_ON = ("launcher", *LAUNCH_FLAGS, "only")


def command(arguments: Sequence[str], only: str) -> tuple[str, ...]:
    """Returns the command line of a job.

    Args:
        arguments: those of the command that launches it.
        only: the job's runs, as --only takes them.
    """
    kept, rest = [], iter(arguments)
    for argument in rest:
        match = re.match(r"--?([^=]+)(=?)", argument)
        if match and match[1] in _NOT_PASSED_ON:
            if not match[2]:
                next(rest, None)  # Its value.
        elif argument != "--":  # It would end the options.
            kept.append(argument)
    own = (f"--only={only}", "--noreport")
    return (sys.executable, "-m", "experiments.sweep", *kept, *own)


def ranges(indices: Sequence[int]) -> str:
    """Returns indices as --only takes them, consecutive ones as a range: ``0-3 8``."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return " ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in parts)


# --- the files of jobs ----------------------------------------------------------------


def refuse_earlier_jobs(workdir: Path) -> None:
    """Refuses a folder with jobs of an earlier version, which had folders of their own.

    Raises:
        FolderError: there is such a job.
    """
    # Unlike Path.glob, it finds nothing where no path can be.
    if found := glob.glob("*/config.json", root_dir=workdir / "jobs"):
        raise FolderError(
            f"{workdir / 'jobs' / found[0]} is of a job of an earlier version: its "
            f"results are not in {workdir}. Give the same command to that version to "
            f"finish it, or delete {workdir / 'jobs'} to train its runs again."
        )


class JobFiles:
    """For each job, the log of its command and, while an engine has it, a note.

    Args:
        path: the folder of these files.
        owners: the fingerprint of each run of the sweep by name.
    """

    def __init__(self, path: Path, owners: Mapping[str, str]):
        self.path = path
        self._owners = owners

    def noted(self) -> list[Job]:
        """Returns the jobs that engines have, as far as notes say.

        A note that is damaged, or of another sweep, is removed.
        """
        found = []
        for path in sorted(self.path.glob("*.json")):
            try:
                note = read_object(path)
                facts = (str(note["launcher"]), str(note["handle"]))
                job = Job(path.stem, tuple(note["runs"]), *facts)
                if not self._owners.keys() >= set(job.runs):
                    raise ValueError("it is of another sweep")
                found.append(job)
            except (OSError, KeyError, TypeError, ValueError):
                remove(path)
        return found

    def note(self, job: Job) -> None:
        """Notes which engine has a job."""
        note = {"runs": job.runs, "launcher": job.launcher, "handle": job.handle}
        write_atomically(self.path / f"{job.name}.json", json.dumps(note) + "\n")

    def forget(self, job: Job) -> None:
        """Removes the note on a job."""
        remove(self.path / f"{job.name}.json")

    def log(self, job: Job) -> Path:
        """Returns the file for what the command of a job prints."""
        return self.path / f"{job.name}.log"

    def last_words(self, job: Job) -> str:
        """Returns the last line that the command of a job printed, and its log."""
        try:
            lines = self.log(job).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "its command was never started."
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{last!r} is its last line in {self.log(job)}."

    def clear(self) -> None:
        """Removes everything, unless an engine has a job."""
        if not any(self.path.glob("*.json")):
            shutil.rmtree(self.path, ignore_errors=True)
