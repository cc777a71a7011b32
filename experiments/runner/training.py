"""Trains one group to its end: the loop of ``vae_jax.fit``, with checkpoints."""

import contextlib
import functools
from concurrent.futures import Executor, Future

import numpy as np

from experiments.messages.console import CONSOLE, warn
from experiments.runner import processes
from experiments.runner.interruption import Interruption, Stopped
from experiments.runner.measuring import constant_output_baseline
from experiments.runner.position import Position, Saver
from experiments.runner.progress import GroupProgress
from experiments.runner.recording import Recording
from experiments.runner.task import CompiledGroup
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.folder import RunFolder
from experiments.runs.notes import Note
from experiments.settings.grid import Group


def train_group(
    compiled: CompiledGroup,
    folder: RunFolder | None,
    progress: GroupProgress,
    interruption: Interruption,
    background: Executor,
) -> None:
    """Trains a group from its last checkpoint, evaluates it and stores the results.

    Args:
        compiled: the group.
        folder: the run folder; None in a process that does not write.
        progress: shows every validation.
        interruption: says when to stop.
        background: computes the constant-output baseline, which is needed at the end,
            while the group trains.

    Raises:
        FolderError: the folder cannot be written, or a checkpoint is of another
            version.
        Stopped: on request, after a checkpoint.
    """
    task = compiled.task
    group, population = task.group, task.population

    @functools.cache
    def baseline() -> Future[np.ndarray]:
        arguments = task.settings, task.widest.likelihood, task.images
        return background.submit(constant_output_baseline, *arguments)

    with _checkpoints(group, folder) as checkpoints:
        position = _start(compiled, checkpoints, progress)
        recording = Recording(task, folder, position.history) if folder else None
        saved = recording.saved if recording else None
        saver = Saver(position, checkpoints, saved)
        first = position.epoch + 1
        progress.show("training")
        with interruption.deferred(), compiled.training(position.epoch) as train_epoch:
            for snapshot in population.epochs(
                train_epoch,
                compiled.validate,
                position.state,
                finished=position.epoch,
                active=position.active,
            ):
                failed = position.failed(snapshot)
                position = position.after(snapshot)
                if snapshot.validation:
                    progress.advance(position.epoch, snapshot.validation.best_bound)
                    if recording:
                        recording.add(position.history, failed)
                if position.epoch > first:  # The first epoch is not held up.
                    baseline()
                if interruption.requested():
                    saver.save(position, finish=True)
                    raise Stopped(
                        f"stopped after epoch {position.epoch} of {group.name}"
                    )
                saver.save(position)
            saver.save(position, finish=True)

    # Now everything is on disk: a request to stop ends the process at once.
    progress.show("evaluating")
    measured = compiled.measure(position.state.best_params)
    state = task.placement.fetch(position.state)
    if recording:
        progress.show("constant-output baseline")
        rows = recording.finish(position, state, measured, baseline().result())
        progress.finish(rows, position.seconds)


def _checkpoints(
    group: Group, folder: RunFolder | None
) -> contextlib.AbstractContextManager[Checkpoints | None]:
    """Opens the checkpoints of a group, with a note on its runs beside them."""
    if not folder:
        return contextlib.nullcontext()
    note, keep = Note.on(group), group.widest.checkpoint.keep
    path, owner = folder.groups.begin(note), folder.groups.owner(note)
    return contextlib.closing(Checkpoints(path, keep, owner))


def _start(
    compiled: CompiledGroup, checkpoints: Checkpoints | None, progress: GroupProgress
) -> Position:
    """Returns the position of the last good checkpoint, or that before training."""
    task, found = compiled.task, checkpoints and checkpoints.latest(warn)
    if processes.from_primary(found is None):
        progress.show("first state")
        return Position.fresh(compiled)
    arrays = processes.arrays_from_primary(found[1] if found else {})
    position = Position.restore(task, arrays)
    if checkpoints:
        CONSOLE.print(
            f"{task.group.name}: continues after epoch {position.epoch} of "
            f"{task.trainer.config.num_epochs}"
        )
    progress.advance(position.epoch, arrays["state/best_bound"])
    return position
