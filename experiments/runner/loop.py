"""Trains and evaluates the groups of a sweep; a single model is a sweep of one run."""

import collections
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import jax

from experiments.data.images import ImageData
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import SettingsError
from experiments.messages.wording import counted
from experiments.runner import memory, processes
from experiments.runner.interruption import Interruption
from experiments.runner.progress import Progress
from experiments.runner.streaming import import_grain
from experiments.runner.task import (
    DeviceData,
    build_model,
    layout,
    split_epoch,
    training_sample,
)
from experiments.runner.training import GroupTraining
from experiments.runs.folder import RunFolder
from experiments.runs.notes import Note
from experiments.settings.grid import Group, Run, group


def check(runs: Sequence[Run], data: ImageData) -> None:
    """Refuses what only the data can show to be wrong, before any compute is spent.

    Raises:
        DataError: streaming without what it needs.
        SettingsError: a batch or a VampPrior larger than the data, a test of more
            images than there are, or a view they cannot give.
    """
    num_images, num_sampled = len(data.train.images), len(training_sample(data))
    for run in runs:
        if run.settings.data.stream:
            import_grain()
        batch_size = run.settings.training.batch_size
        if batch_size > num_images:
            raise SettingsError(
                f"training.batch_size is {batch_size}, but {data.name} has "
                f"{num_images} training images: choose at most {num_images}."
            )
        components = run.settings.model.prior_components
        if run.settings.model.prior == "vamp" and components > num_sampled:
            raise SettingsError(
                f"model.prior_components is {components}, but {data.name} has "
                f"{num_sampled} training images, at which a VampPrior's pseudo-inputs "
                f"start: choose at most {num_sampled}."
            )
        permutations = run.settings.diagnostics.permutations
        if permutations and len(data.test.images) < 2:
            raise SettingsError(
                f"diagnostics.permutations is {permutations}, but {data.name} has 1 "
                "test image: a two-sample test needs at least 2. Use 0, for no test."
            )
        build_model(run.settings, data)


def check_devices(runs: Sequence[Run], data: ImageData) -> None:
    """Refuses what this process's devices cannot do, before any compute is spent.

    Raises:
        SettingsError: more devices than there are, or too little memory for streaming.
    """
    num_devices = jax.device_count()
    for members in group(runs):
        settings = members.widest
        if settings.parallel.batch > num_devices:
            raise SettingsError(
                f"parallel.batch is {settings.parallel.batch}, but there are "
                f"{num_devices} devices: choose at most {num_devices}."
            )
        num_columns = num_devices // settings.parallel.batch
        if settings.parallel.members > num_columns:
            # Not refused: a run may be continued on a smaller machine.
            warn(
                f"parallel.members is {settings.parallel.members}, but there are "
                f"{num_devices} devices, {settings.parallel.batch} to each batch: "
                f"members are split over {num_columns}."
            )
        per_column = layout(settings, len(members.runs)).per_column
        split_epoch(settings, data, per_column)


def plan(chosen: Sequence[Run], folder: RunFolder) -> list[Group]:
    """The groups to train: those begun as they were begun, then the rest by program.

    Args:
        chosen: the runs to train.
        folder: says which of them are finished, begun, or were stopped by a value
            that is not finite.

    Raises:
        FolderError: a group was begun by another sweep.
    """
    by_name = {run.name: run for run in chosen}
    finished = folder.members.finished()
    waiting = {name: by_name[name] for name in by_name if name not in finished}
    groups = []
    # The largest first: a whole stays begun until all slices of it are noted.
    notes = folder.groups.begun(finished, warn)
    for note in sorted(notes, key=lambda note: -len(note.runs)):
        unfinished = [name for name in note.runs if name in waiting]
        if not unfinished or not set(note.runs) <= by_name.keys():
            continue
        begun = Group(tuple(by_name[name] for name in note.runs), note.attempt)
        if Note.on(begun) != note or len(group(begun.runs)) > 1:
            reason = "its runs do not train together"
            folder.groups.discard(note.name, reason, warn)
            continue
        groups.append(begun)
        for name in unfinished:
            del waiting[name]
    attempts = {
        name: folder.failures.count(name)
        if run.settings.training.on_non_finite == "reseed"
        else 0
        for name, run in waiting.items()
    }
    return [*groups, *group(waiting.values(), attempts)]


def run_groups(
    groups: Sequence[Group],
    data: ImageData,
    folder: RunFolder | None,
    progress: Progress,
    interruption: Interruption,
) -> bool:
    """Trains, evaluates and stores every group that no other command trains.

    While a group trains, the next one compiles (``parallel.compile_ahead``), and then
    the group's baseline is searched: these keep one core busy, and the steps of small
    networks hardly more than another. A group that does not fit into memory is cut into
    slices.

    Args:
        groups: what to train.
        data: the images.
        folder: where results go; None in a process that is not the first.
        progress: is told of every epoch.
        interruption: says when to stop.

    Returns:
        Whether there may be more to train: some was trained, or another command has
        changed what there is to do since it was planned.

    Raises:
        Stopped: on request, after everything was saved.
    """
    device_data = DeviceData(data)
    limit = memory.available(groups[0].widest.parallel.memory_gib)
    waiting = collections.deque(groups)
    background = ThreadPoolExecutor(max_workers=1)
    claims: set[Claim] = set()

    def compile_next() -> Future[memory.Fitting] | None:
        while waiting:
            group = waiting.popleft()
            claim = _claim(group, folder)
            claims.add(claim)
            if claim == "taken":
                return background.submit(
                    memory.compile_fitting, group, data, device_data, limit
                )
            progress.drop(group)
        return None

    try:
        ahead = compile_next()
        while ahead:
            task, programs, rest = ahead.result()
            if folder and rest:
                _note_slices([task.group, *rest], folder)
            progress.add(rest)
            waiting.extendleft(reversed(rest))
            compiles_ahead = task.settings.parallel.compile_ahead
            if compiles_ahead:
                ahead = compile_next()
            training = GroupTraining(task, programs, folder, progress, background)
            training.run(interruption)
            if folder:
                folder.claims.release([run.name for run in task.group.runs])
            if not compiles_ahead:
                ahead = compile_next()
    finally:
        # A request to stop does not wait for the next group's programs.
        background.shutdown(wait=False, cancel_futures=True)
    return bool(claims - {"elsewhere"})


# Of a group: taken by this command, in the hands of another, or no longer to be trained
# as it was planned.
Claim = Literal["taken", "elsewhere", "changed"]


def _claim(group: Group, folder: RunFolder | None) -> Claim:
    """Takes a group for this command, unless another one has it; in every process."""

    def claim() -> Claim:
        assert folder is not None
        names = [run.name for run in group.runs]
        if not folder.claims.take(names):
            return "elsewhere"
        # Another command may have trained it, or begun it otherwise, in the meantime.
        if plan(group.runs, folder) == [group]:
            return "taken"
        folder.claims.release(names)
        return "changed"

    return processes.from_primary(claim() if folder else None)


def _note_slices(slices: Sequence[Group], folder: RunFolder) -> None:
    """Notes how a group was cut: one that is continued is not cut otherwise."""
    runs = tuple(run for part in slices for run in part.runs)
    whole = Group(runs, slices[0].attempt)
    for part in (whole, *slices):
        folder.groups.begin(Note.on(part))
    folder.groups.end(whole.name)


def train(
    data: ImageData,
    chosen: Sequence[Run],
    folder: RunFolder | None,
    interruption: Interruption,
) -> None:
    waiting = _plan(chosen, folder)
    if folder:
        count = len({run.name for run in chosen} - folder.members.finished())
        CONSOLE.print(
            f"{counted(len(chosen), 'run')}, {len(chosen) - count} finished before; "
            f"{count} to train in {counted(len(waiting), 'program')} on "
            f"{jax.device_count()} x {jax.devices()[0].device_kind} -> {folder.path}"
        )
    left: Sequence[Run] = chosen  # Those that this command may still have to train.
    while waiting:
        with Progress(waiting, shown=folder is not None) as progress:
            may_be_more = run_groups(waiting, data, folder, progress, interruption)
        if not may_be_more:
            # Of a group, another command may train some runs and not the rest.
            left = _free(waiting, folder)
        # Runs that start again with other keys, for example.
        waiting = _plan(left, folder)
    if folder and (
        count := len({run.name for run in chosen} - folder.members.finished())
    ):
        CONSOLE.print(
            f"{counted(count, 'run')} left to another command, which trains in "
            f"{folder.path} too and reports on all when it ends"
        )


def _free(groups: Sequence[Group], folder: RunFolder | None) -> list[Run]:
    """The runs of some groups that no other command trains, in every process."""
    by_name = {run.name: run for group in groups for run in group.runs}
    names = processes.from_primary(folder.claims.free(by_name) if folder else None)
    return [by_name[name] for name in names]


def _plan(chosen: Sequence[Run], folder: RunFolder | None) -> list[Group]:
    """What comes next of the first process's plan, in every process.

    Runs are started anew together, once no slice is left in which another may fail.
    """
    groups = plan(chosen, folder) if folder else []
    attempt = min((group.attempt for group in groups), default=0)
    names = [
        ([run.name for run in group.runs], attempt)
        for group in groups
        if group.attempt == attempt
    ]
    by_name = {run.name: run for run in chosen}
    return [
        Group(tuple(by_name[name] for name in members), attempt)
        for members, attempt in processes.from_primary(names)
    ]
