"""A sweep as jobs: commands that an engine runs elsewhere, and what becomes of them.

A job is the command line of the sweep itself, restricted to a group of runs (or a slice
of one) and with a run folder of its own, ``jobs/<name>``. Killed and given again, it
goes on from its last checkpoint; so nothing here needs to know how a job ended, only
whether it got further. What it finished is put into the folder of the sweep as if it
had been trained there, and the job's folder is removed.
"""

import dataclasses
import glob
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.data.images import load_data
from experiments.files import locks
from experiments.files.reading import read_json
from experiments.files.writing import write_atomically
from experiments.launch import here
from experiments.launch.engines import Command, Launcher
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import FolderError, LaunchError
from experiments.messages.wording import counted
from experiments.runner import failures, loop
from experiments.runner.interruption import Interruption, Stopped
from experiments.runner.progress import announce
from experiments.runs.folder import RunFolder
from experiments.runs.notes import is_group_name
from experiments.settings.fingerprint import fingerprints
from experiments.settings.grid import Group, Run


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a sweep is launched."""

    engine: Launcher
    retries: int  # so often in a row may a job end without having got further
    slice_size: int  # the most runs of a job; 0: whole groups
    arguments: tuple[str, ...]  # of the command line of a sweep in one process


@dataclasses.dataclass
class Job:
    """Runs that one command trains.

    Beside its folder ``path`` stand ``path.json``, this note, for as long as the job is
    not gathered; and what ``launchers.Command`` needs.
    """

    path: Path
    runs: tuple[str, ...]
    launcher: str = ""  # which engine it was last given to, and its name there
    handle: str = ""
    failures: int = 0
    progress: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.path.name

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.name}{suffix}")

    def write_note(self) -> None:
        note = {"runs": self.runs, "launcher": self.launcher, "handle": self.handle}
        write_atomically(self.beside(".json"), json.dumps(note) + "\n")

    def is_done(self) -> bool:
        """Whether its results are all there, and a report.

        The report is the last thing a command writes. That of one which was launched
        again may be older than the results: only the lock tells that it has ended.
        """
        if not (self.path / "report.html").exists():
            return False
        return RunFolder(self.path).members.finished().issuperset(self.runs)

    def has_got_further(self) -> bool:
        """Whether a checkpoint or a result was written since this was last asked."""
        before, self.progress = self.progress, frozenset(self._steps())
        return not self.progress <= before

    def _steps(self) -> Iterator[str]:
        # Not Path.glob: it raises where the job removes a folder at that moment.
        yield from glob.iglob("checkpoints/*/[0-9]*.safetensors", root_dir=self.path)
        yield from glob.iglob("members/*/result.json", root_dir=self.path)

    def remove(self) -> None:
        """Deletes all there is of a job, its note last."""
        for path in (self.path, *map(self.beside, (".log", ".lock", ".json"))):
            _remove(path)


# --- the command of a job -------------------------------------------------------------

# Options that say how a sweep is launched, and those that a job has of its own.
LAUNCH_FLAGS = ("max_jobs", "slice", "retries", "slurm", "ray")
_NOT_PASSED_ON = ("launcher", *LAUNCH_FLAGS, "only", "workdir")


def command(arguments: Sequence[str], only: str, workdir: Path) -> tuple[str, ...]:
    """The command line of a job.

    Args:
        arguments: those of the sweep that launches it.
        only: the job's runs, as --only takes them.
        workdir: the job's folder.
    """
    kept, rest = [], iter(arguments)
    for argument in rest:
        match = re.match(r"--?([^=]+)(=?)", argument)
        if match and match[1] in _NOT_PASSED_ON:
            if not match[2]:
                next(rest, None)  # Its value.
        elif argument != "--":  # What follows it is no option.
            kept.append(argument)
    own = (f"--only={only}", f"--workdir={workdir}")
    return (sys.executable, "-m", "experiments.sweep", *kept, *own)


def ranges(indices: Sequence[int]) -> str:
    """Indices as --only takes them, those in a row as a range: ``0-3 8``."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return " ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in parts)


# --- which jobs there are -------------------------------------------------------------


def plan(chosen: Sequence[Run], folder: RunFolder, slice_size: int) -> list[Job]:
    """The jobs that are not gathered: those begun as they were begun, then the rest.

    Args:
        chosen: the runs to train. A job that was begun is taken whole for any of them.
        folder: the folder of the sweep. What was begun in it by a command without
            --launcher is handed over to a job.
        slice_size: the most runs of a job that was not begun; 0: whole groups.
    """
    finished = folder.members.finished()
    waiting = {run.name for run in chosen} - finished
    jobs = []
    notes = {path: _read_note(path) for path in sorted(folder.jobs.glob("*.json"))}
    _refuse_strange([job for job in notes.values() if job], folder)
    for note, job in notes.items():
        if job is None:
            _remove(note)  # Damaged: its runs are grouped afresh.
        elif finished.issuperset(job.runs):
            job.remove()  # The process died before it did.
        elif waiting.intersection(job.runs):
            jobs.append(job)
    taken = {run for job in jobs for run in job.runs}
    for job in jobs:
        folder.groups.end(job.name)  # It was handed over.
    rest = [run for run in chosen if run.name not in taken]
    for group in loop.plan(rest, folder):
        is_begun = (folder.path / "checkpoints" / f"{group.name}.json").exists()
        size = slice_size if slice_size and not is_begun else len(group.runs)
        for start in range(0, len(group.runs), size):
            part = Group(group.runs[start : start + size], group.attempt)
            job = Job(folder.jobs / part.name, tuple(run.name for run in part.runs))
            _hand_over(folder, job)
            job.write_note()
            folder.groups.end(job.name)
            jobs.append(job)
    return jobs


def _read_note(path: Path) -> Job | None:
    try:
        note = read_json(path)
        if not (is_group_name(path.stem) and note["runs"]):
            return None  # It may be named '..'.
        return Job(
            path.with_suffix(""),
            tuple(map(str, note["runs"])),
            str(note["launcher"]),
            str(note["handle"]),
        )
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _refuse_strange(jobs: Sequence[Job], folder: RunFolder) -> None:
    """Refuses notes on runs of another sweep: a run's name is that of folders."""
    for job in jobs:
        if strange := set(job.runs) - folder.owners.keys():
            raise FolderError(
                f"{job.beside('.json')} belongs to another sweep, which has a run "
                f"{min(strange)!r}: delete it to train its other runs anew, or give "
                "the sweep that launched it."
            )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _hand_over(folder: RunFolder, job: Job) -> None:
    """Gives a job the checkpoints and failures that its runs have in the folder."""
    parts = [
        folder.path / "checkpoints" / job.name,
        folder.path / "checkpoints" / f"{job.name}.json",
        *(folder.path / "failures" / run for run in job.runs),
    ]
    parts = [path for path in parts if path.exists()]
    if job.path.exists() or not parts:
        return
    beside = job.beside(".new")
    shutil.rmtree(beside, ignore_errors=True)
    for path in (*parts, folder.path / "config.json"):
        copy = beside / path.relative_to(folder.path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copy(path, copy)
    beside.rename(job.path)


# --- launching and gathering ----------------------------------------------------------


def train_and_report(
    config: Mapping[str, Any],
    runs: Sequence[Run],
    chosen: Sequence[Run],
    workdir: Path,
    launch: Launch,
) -> list[str]:
    """``here.train_and_report``, with the training done by jobs.

    Args:
        config: the configuration, which the folder is bound to.
        runs: every run of it.
        chosen: those to train now.
        workdir: the run folder.
        launch: how.

    Raises:
        LaunchError: the engine refuses the jobs, or some of them failed; what the
            others reached is gathered and reported.
        Stopped: on request; nothing is lost.
        DataError, FolderError, SettingsError: as there.
    """
    # This process computes nothing: accelerators are left to the jobs.
    jax.config.update("jax_platforms", "cpu")
    with Interruption() as interruption:
        data = load_data(runs[0].settings.data)
        loop.check(chosen, data)
        owners = fingerprints(runs, data.fingerprint)
        folder = RunFolder.create(
            workdir, config, owners, data.fingerprint, warn, computes=False
        )
        try:
            with interruption.deferred():
                sweep = Sweep(folder, runs, chosen, launch)
                announce(data, chosen)
                sweep.run(interruption)
            left_out = here.report(folder, runs)
            sweep.refuse_failed()
            return left_out
        finally:
            folder.close()


class Sweep:
    """A sweep while its jobs run.

    Args:
        folder: the folder of the sweep, opened for writing.
        runs: every run of it.
        chosen: those to train.
        launch: how.
    """

    def __init__(
        self,
        folder: RunFolder,
        runs: Sequence[Run],
        chosen: Sequence[Run],
        launch: Launch,
    ):
        self._folder = folder
        self._launch = launch
        self._engine = launch.engine
        self._index = {run.name: index for index, run in enumerate(runs)}
        self._finished = folder.members.finished()
        self._environments: list[Any] = []
        self._waiting = plan(chosen, folder, launch.slice_size)
        self._running: list[Job] = []
        self._failed: list[tuple[Job, str]] = []  # with what was wrong
        self._num_jobs, self._num_gathered = len(self._waiting), 0
        count = len({run.name for run in chosen} - self._finished)
        CONSOLE.print(
            f"{counted(len(chosen), 'run')}, {len(chosen) - count} finished before; "
            f"{count} to train in {counted(self._num_jobs, 'job')} "
            f"({self._engine.name}) -> {folder.path}"
        )

    def run(self, interruption: Interruption) -> None:
        """Launches the jobs and gathers them as they end.

        Raises:
            Stopped: on request; jobs of this machine have saved their work by then.
        """
        self._find_running()
        is_stopped = False
        while self._running or (self._waiting and not is_stopped):
            if not is_stopped:
                self._submit()
            time.sleep(self._engine.poll_seconds)
            for job in list(self._running):
                if job.is_done():
                    self._gather(job)
                # In this order: what has ended has written all it will.
                elif not self._engine.is_running(job.handle) and not job.is_done():
                    self._try_again(job, is_stopped)
            if interruption.requested() and not is_stopped:
                if not self._engine.is_attached:
                    raise Stopped(
                        f"left to the queue, unfinished jobs: {len(self._running)}"
                    )
                is_stopped = True
                self._engine.stop()
        if is_stopped and self._waiting:
            raise Stopped(f"stopped, unfinished jobs: {len(self._waiting)}")
        if not self._waiting and not any(self._folder.jobs.glob("*.json")):
            shutil.rmtree(self._folder.jobs, ignore_errors=True)

    def _find_running(self) -> None:
        """Takes up the jobs that an earlier command has left in the engine's care."""
        for job in list(self._waiting):
            if job.is_done() or (
                job.launcher == self._engine.name
                and self._engine.is_running(job.handle)
            ):
                self._waiting.remove(job)
                self._running.append(job)

    def _submit(self) -> None:
        count = max(0, self._engine.most_at_once - len(self._running))
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        if not batch:
            return
        for job in batch:
            job.has_got_further()
        handles = self._engine.submit([self._command(job) for job in batch])
        for job, handle in zip(batch, handles, strict=True):
            job.launcher, job.handle = self._engine.name, handle
            job.write_note()
            self._running.append(job)

    def _command(self, job: Job) -> Command:
        only = ranges([self._index[run] for run in job.runs])
        path = job.path.absolute()
        arguments = command(self._launch.arguments, only, path)
        return Command(arguments, str(path), str(Path.cwd()))

    def _try_again(self, job: Job, is_stopped: bool) -> None:
        """Puts a job back that ended before it was done, unless it does so for ever."""
        self._running.remove(job)
        if job.has_got_further():
            job.failures = 0
        elif not is_stopped:
            job.failures += 1
        if job.failures > self._launch.retries:
            self._fail(job, _last_words(job))
            return
        self._waiting.append(job)
        if not is_stopped:
            warn(f"{job.name} ended too early and is launched again.")

    def _fail(self, job: Job, reason: str) -> None:
        self._failed.append((job, reason))
        warn(f"{job.name} failed: {reason}")

    def _gather(self, job: Job) -> None:
        """Gathers and removes a job that is done, unless its process has yet to end."""
        # Whoever waits for the lock finds the job gone, and does not begin it anew.
        lock = locks.take(job.beside(".lock"))
        if lock is None:
            return
        try:
            new = [run for run in job.runs if run not in self._finished]
            try:
                source = RunFolder.open(job.path)
                source.bind(self._folder.owners)
                _verify(source, new)
            except FolderError as error:  # The other jobs are gathered.
                self._running.remove(job)
                self._fail(job, str(error))
                return
            self._copy(source, new)
            self._finished.update(new)
            job.remove()
        finally:
            os.close(lock)
        self._running.remove(job)
        self._num_gathered += 1
        CONSOLE.print(
            f"[{self._num_gathered}/{self._num_jobs}] {job.name}: "
            f"{counted(len(new), 'model')} gathered"
        )

    def _copy(self, source: RunFolder, runs: Sequence[str]) -> None:
        """Puts what a job has of runs into the folder, verified, results last."""
        folder, environment = self._folder, source.environment()
        if environment["bits_depend_on"] not in self._environments:
            self._environments.append(environment["bits_depend_on"])
            folder.record_environment(environment, warn)
        for run in runs:
            # In place of rows from before it was handed over, or from a gathering that
            # was ended.
            folder.metrics.restore([run], source.metrics.read(run, warn))
            for attempt in range(source.failures.count(run)):
                facts, state = source.failures.load(run, attempt)
                facts["replay"] = failures.replay_command(run, folder.path)
                folder.failures.save(run, attempt, facts, state)
            folder.members.save(
                run,
                source.members.params(run),
                source.members.result(run),
                source.members.arrays(run),
                source.members.bits_depend_on(run),
            )
        folder.metrics.close()

    def refuse_failed(self) -> None:
        """Says which jobs failed, if any did.

        Raises:
            LaunchError: some did.
        """
        if self._failed:
            job, reason = self._failed[0]
            raise LaunchError(
                f"{len(self._failed)} of {counted(self._num_jobs, 'job')} failed, as "
                f"{job.name} did: {reason} The same command tries them again."
            )


def _verify(source: RunFolder, runs: Sequence[str]) -> None:
    """Reads all that is gathered of runs.

    Raises:
        FolderError: some of it is damaged.
    """
    source.environment()
    for run in runs:
        for attempt in range(source.failures.count(run)):
            source.failures.load(run, attempt)
        source.members.params(run)
        source.members.result(run)
        source.members.arrays(run)
        source.members.bits_depend_on(run)


def _last_words(job: Job) -> str:
    """The last line that a job's command printed, and where the others are."""
    log = job.beside(".log")
    try:
        with open(log, errors="replace") as file:
            line = next((x.strip() for x in reversed(list(file)) if x.strip()), "")
    except FileNotFoundError:
        return "its command was never started."
    return f"{line!r} is its last line in {log}."
