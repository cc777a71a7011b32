"""Launches the jobs of a sweep and waits for them.

Nothing here needs to know how a job ended, only whether it got further: a result or a
checkpoint of its runs was written.
"""

import glob
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.files.writing import remove
from experiments.launch.engines import Command
from experiments.launch.jobs import Job, JobFiles, Launch, command, ranges
from experiments.messages.console import CONSOLE, warn
from experiments.messages.wording import counted
from experiments.runner import planning
from experiments.runner.interruption import Interruption, Stopped
from experiments.runs.folder import RunFolder
from experiments.settings.grid import Group, Run


class Jobs:
    """The jobs of a sweep while they run.

    Args:
        folder: the run folder, opened for writing.
        runs: all runs of the sweep.
        chosen: the runs to train.
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
        self._files = JobFiles(folder.path / "jobs", folder.owners)
        self._launch = launch
        self._engine = launch.engine
        self._index = {run.name: index for index, run in enumerate(runs)}
        self._running = self._find_running(planning.unfinished(chosen, folder))
        self._waiting = self._plan(chosen)
        self._failed: list[str] = []
        self._num_jobs = len(self._running) + len(self._waiting)
        self._num_done = 0
        work = f"{counted(self._num_jobs, 'job')} ({self._engine.name})"
        planning.announce(chosen, folder, work)

    # --- which jobs there are ---

    def _find_running(self, unfinished: set[str]) -> list[Job]:
        """Returns the jobs of some runs that an earlier command left to this engine.

        Notes are removed on jobs that are done, and on those that it does not have.
        """
        found, finished = [], self._folder.members.finished()
        for job in self._files.noted():
            is_own = job.launcher == self._engine.name
            is_gone = is_own and not self._is_at_engine(job)
            if is_gone or finished.issuperset(job.runs):
                self._files.forget(job)
            elif is_own and not unfinished.isdisjoint(job.runs):
                found.append(job)
        return found

    def _plan(self, chosen: Sequence[Run]) -> list[Job]:
        """Returns the jobs of all other runs: groups, or slices of those not begun."""
        taken = {run for job in self._running for run in job.runs}
        rest = [run for run in chosen if run.name not in taken]
        groups, jobs = self._folder.groups, []
        for group in planning.plan(rest, self._folder):
            size = self._launch.slice_size
            if not size or (groups.path / f"{group.name}.json").exists():
                size = len(group.runs)
            for start in range(0, len(group.runs), size):
                part = Group(group.runs[start : start + size], group.attempt)
                jobs.append(Job(part.name, tuple(run.name for run in part.runs)))
        return jobs

    # --- launching and waiting ---

    def run(self, interruption: Interruption) -> str:
        """Launches the jobs and waits until all of them are done or have failed.

        Returns:
            A message if some failed, else the empty string.

        Raises:
            LaunchError: the engine refuses the jobs.
            Stopped: on request; jobs of this machine have saved their work by then.
        """
        before = self._num_environments()
        while self._running or self._waiting:
            self._submit()
            time.sleep(self._engine.poll_seconds)
            self._look()
            if interruption.requested():
                self._stop()
        if self._num_environments() > before:
            warn(
                f"{self._folder.path} was continued in another environment (continued "
                "in environment.json): its numbers hold, but its bits may not be those "
                "of an undisturbed run."
            )
        self._find_running(set())
        if not self._failed:
            self._files.clear()
            return ""
        return (
            f"{len(self._failed)} of {counted(self._num_jobs, 'job')} failed. "
            f"{self._failed[0]} Give the same command to try them again."
        )

    def _num_environments(self) -> int:
        return len(self._folder.environment().get("continued", []))

    def _submit(self) -> None:
        """Gives the engine as many jobs as it takes now."""
        count = max(0, self._engine.most_at_once - len(self._running))
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._running += batch
        new = [job for job in batch if not self._is_held(job)]
        for job in batch:
            if job not in new:
                CONSOLE.print(f"{job.name}: waits for another command that trains it")
        if not new:
            return
        for job in new:
            job.steps = self._steps(job)
        self._files.path.mkdir(exist_ok=True)
        handles = self._engine.submit([self._command(job) for job in new])
        for job, handle in zip(new, handles, strict=True):
            job.launcher, job.handle = self._engine.name, handle
            self._files.note(job)

    def _command(self, job: Job) -> Command:
        only = ranges([self._index[run] for run in job.runs])
        log = self._files.log(job).absolute()
        return Command(command(self._launch.arguments, only), str(log), str(Path.cwd()))

    def _is_at_engine(self, job: Job) -> bool:
        return bool(job.handle) and self._engine.is_running(job.handle)

    def _is_held(self, job: Job) -> bool:
        """Returns whether a process trains runs of a job: any command may."""
        return len(self._folder.claims.free(job.runs)) < len(job.runs)

    def _steps(self, job: Job) -> frozenset[str]:
        """Returns the names of the results and checkpoints of the runs of a job."""
        finished, groups = self._folder.members.finished(), self._folder.groups
        steps = finished.intersection(job.runs)
        for note in groups.begun(finished, warn):
            if not set(job.runs).isdisjoint(note.runs):
                # Not Path.glob, which raises if a command removes a folder just then.
                steps.update(
                    glob.iglob(f"{note.name}/[0-9]*.safetensors", root_dir=groups.path)
                )
        return frozenset(steps)

    def _look(self) -> None:
        """Finds out which jobs are done, and which ended too early."""
        over = [
            job.name
            for job in self._running
            if not self._is_at_engine(job) and not self._is_held(job)
        ]
        if self._engine.is_attached and not over:
            return
        # Read last: a job that is over has written all its results.
        finished = self._folder.members.finished()
        for job in list(self._running):
            is_over, is_done = job.name in over, finished.issuperset(job.runs)
            if is_done and not self._engine.is_attached:
                # A queue may lose sight of a job; its results show that it is done.
                is_over = not self._is_held(job)
            if is_over:
                self._running.remove(job)
                (self._end if is_done else self._try_again)(job)

    def _end(self, job: Job) -> None:
        self._num_done += 1
        CONSOLE.print(
            f"[{self._num_done}/{self._num_jobs}] {job.name}: "
            f"{counted(len(job.runs), 'model')} trained"
        )
        remove(self._files.log(job))
        self._files.forget(job)

    def _try_again(self, job: Job) -> None:
        """Puts a job back that ended too early, unless it gets no further."""
        if job.handle:  # Not one that another command left.
            steps = self._steps(job)
            job.failures = job.failures + 1 if steps <= job.steps else 0
        job.handle = ""
        if job.failures <= self._launch.retries:
            self._waiting.append(job)
            warn(f"{job.name} ended too early and is launched again.")
        else:
            self._failed.append(f"{job.name} failed: {self._files.last_words(job)}")
            warn(self._failed[-1])

    def _stop(self) -> None:
        """Has the engine end its jobs, if they end with this command.

        Raises:
            Stopped: some jobs are not done.
        """
        if not self._engine.is_attached:
            raise Stopped(f"left to the queue, unfinished jobs: {len(self._running)}")
        self._engine.stop()
        while any(map(self._is_at_engine, self._running)):
            time.sleep(self._engine.poll_seconds)
        finished = self._folder.members.finished()
        jobs = (*self._running, *self._waiting)
        if left := [job for job in jobs if not finished.issuperset(job.runs)]:
            raise Stopped(f"stopped, unfinished jobs: {len(left)}")
