"""Trains and evaluates the groups of a sweep; a single model is a sweep of one run."""

import collections
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Future,
    ThreadPoolExecutor,
    wait,
)

import jax

from experiments.data.images import ImageData
from experiments.messages.console import CONSOLE
from experiments.messages.wording import counted
from experiments.runner import memory, planning
from experiments.runner.images import Images
from experiments.runner.interruption import Interruption, Stopped
from experiments.runner.progress import GroupProgress, Progress
from experiments.runner.training import train_group
from experiments.runs.folder import RunFolder
from experiments.settings.grid import Group, Run


def train(
    data: ImageData,
    chosen: Sequence[Run],
    folder: RunFolder | None,
    interruption: Interruption,
) -> None:
    """Trains the runs that are not finished and that no other command trains.

    Args:
        data: the images.
        chosen: the runs.
        folder: the run folder; None in a process that does not write.
        interruption: says when to stop.

    Raises:
        Stopped: on request, after everything was saved.
    """
    waiting = planning.next_groups(chosen, folder)
    if folder:
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        work = f"{counted(len(waiting), 'program')} on {devices}"
        planning.announce(chosen, folder, work)
    images = Images(data)
    while waiting:
        with Progress(waiting, shown=folder is not None) as progress:
            run_groups(waiting, images, folder, progress, interruption)
        # Some runs start again with other keys, and another command may have ended.
        waiting = planning.next_groups(planning.free(chosen, folder), folder)
    if folder and (left := planning.unfinished(chosen, folder)):
        CONSOLE.print(
            f"{counted(len(left), 'run')} left to another command, which trains in "
            f"{folder.path} too and reports on all when it ends"
        )


def run_groups(
    groups: Sequence[Group],
    images: Images,
    folder: RunFolder | None,
    progress: Progress,
    interruption: Interruption,
) -> None:
    """Trains, evaluates and stores every group that no other command trains.

    Each lane is a thread that takes one group after another. No bit depends on the
    number of lanes: it does not decide how groups are cut, and a group that does not
    fit into memory beside those that train waits.

    Args:
        groups: the groups.
        images: the data set.
        folder: the run folder; None in a process that does not write.
        progress: shows every validation.
        interruption: says when to stop.

    Raises:
        Stopped: on request, after everything was saved.
    """
    num_lanes = planning.num_lanes(groups)
    if num_lanes > 1:  # A long group that comes last would train alone.
        groups = planning.longest_first(groups, images.data)
    limit = memory.available(groups[0].widest.parallel.memory_gib)
    room = memory.Room(limit)
    background, threads = ThreadPoolExecutor(num_lanes), ThreadPoolExecutor(num_lanes)

    def compile_group(group: Group) -> Future[memory.Fitting]:
        return background.submit(memory.compile_fitting, group, images, limit)

    supply = _Supply(groups, folder, progress, compile_group, num_lanes)

    def lane() -> None:
        while not interruption.is_asked() and (found := supply.next()):
            task = found.compiled.task
            with room.taken(found.needed):
                shown = GroupProgress(progress, task.group)
                train_group(found.compiled, folder, shown, interruption, background)
            if folder and not folder.tracking:  # These may not be sent yet.
                folder.claims.release(task.names)

    try:
        _wait([threads.submit(lane) for _ in range(num_lanes)], interruption)
    finally:
        # A request to stop does not wait for programs that are being compiled.
        threads.shutdown(wait=False)
        background.shutdown(wait=False, cancel_futures=True)


class _Supply:
    """Gives compiled groups to the lanes; while they train, the next ones may compile.

    A program compiles on one core, and the steps of small networks need hardly more
    than one. So a single lane has the next group compiled ahead
    (``parallel.compile_ahead``), and several lanes only on cores that they leave free.

    Args:
        groups: the groups, in the order in which they are compiled.
        folder: the run folder; None in a process that does not write.
        progress: counts the groups.
        compile_group: begins to compile a group.
        num_lanes: number of lanes.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        folder: RunFolder | None,
        progress: Progress,
        compile_group: Callable[[Group], Future[memory.Fitting]],
        num_lanes: int,
    ):
        self._waiting = collections.deque(groups)
        self._folder, self._progress = folder, progress
        self._compile_group = compile_group
        free = planning.num_cores() - num_lanes if num_lanes > 1 else 1
        compiles_ahead = groups[0].widest.parallel.compile_ahead
        self._num_ahead = max(0, min(free, num_lanes)) if compiles_ahead else 0
        self._num_asking = 0
        self._compiling: list[Future[memory.Fitting]] = []
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def next(self) -> memory.Fitting | None:
        """Returns a group when it is compiled; None if there are no more.

        A group that does not fit into memory is cut into slices.
        """
        with self._lock:
            self._num_asking += 1
            self._compile()
        with self._turn:  # Other lanes wait for their turn to wait.
            if not self._compiling:
                return None
            done, _ = wait(self._compiling, return_when=FIRST_COMPLETED)
            future = next(future for future in self._compiling if future in done)
            found = future.result()
            with self._lock:
                self._compiling.remove(future)
                self._num_asking -= 1
                self._come_next(found.compiled.task.group, found.rest)
                self._compile()
            return found

    def _compile(self) -> None:
        """Begins to compile the next groups that no other command trains."""
        wanted = self._num_asking + self._num_ahead
        while self._waiting and len(self._compiling) < wanted:
            group = self._waiting.popleft()
            if planning.claim(group, self._folder):
                first, *rest = planning.parts(group)
                self._come_next(first, rest)
                self._compiling.append(self._compile_group(first))
            else:
                self._progress.drop(group)

    def _come_next(self, first: Group, rest: Sequence[Group]) -> None:
        """Puts the other slices of a group in front of the groups that wait."""
        if self._folder and rest:
            planning.note_slices([first, *rest], self._folder)
        self._progress.add(rest)
        self._waiting.extendleft(reversed(rest))


def _wait(lanes: Sequence[Future[None]], interruption: Interruption) -> None:
    """Waits for all lanes; if one fails, the others save their work and end.

    Raises:
        Exception: that of a lane that failed, or else of one that was stopped.
    """
    wait(lanes, return_when=FIRST_EXCEPTION)
    if any(lane.done() and lane.exception() for lane in lanes):
        interruption.ask()
        interruption.wait_until_saved()
    errors = [error for lane in lanes if lane.done() and (error := lane.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        if not isinstance(error, Stopped):
            wait(lanes)  # They use the folder, which is closed now.
        raise error
