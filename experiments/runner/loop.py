"""Trains and evaluates the groups of a sweep; a single model is a sweep of one run."""

import collections
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from experiments.data.images import ImageData
from experiments.messages.console import CONSOLE
from experiments.messages.wording import counted
from experiments.runner import memory, planning
from experiments.runner.images import Images
from experiments.runner.interruption import Interruption
from experiments.runner.progress import Progress
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

    While a group trains, a thread compiles the next one (``parallel.compile_ahead``)
    and then computes the group's constant-output baseline: this takes one core, and the
    steps of small networks need hardly more than one. A group that does not fit into
    memory is cut into slices.

    Args:
        groups: the groups.
        images: the data set.
        folder: the run folder; None in a process that does not write.
        progress: shows every validation.
        interruption: says when to stop.

    Raises:
        Stopped: on request, after everything was saved.
    """
    limit = memory.available(groups[0].widest.parallel.memory_gib)
    waiting = collections.deque(groups)
    background = ThreadPoolExecutor(max_workers=1)

    def compile_next() -> Future[memory.Fitting] | None:
        while waiting:
            group = waiting.popleft()
            if planning.claim(group, folder):
                return background.submit(memory.compile_fitting, group, images, limit)
            progress.drop(group)
        return None

    try:
        ahead = compile_next()
        while ahead:
            compiled, rest = ahead.result()
            task = compiled.task
            if folder and rest:
                planning.note_slices([task.group, *rest], folder)
            progress.add(rest)
            waiting.extendleft(reversed(rest))
            compiles_ahead = task.settings.parallel.compile_ahead
            if compiles_ahead:
                ahead = compile_next()
            train_group(compiled, folder, progress, interruption, background)
            if folder:
                folder.claims.release(task.names)
            if not compiles_ahead:
                ahead = compile_next()
    finally:
        # A request to stop does not wait for the next group's programs.
        background.shutdown(wait=False, cancel_futures=True)
