"""Writes metric rows, failures and results of a group; trackers get them too."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.evaluation import diagnosis, stored_arrays
from experiments.evaluation.results import result_row
from experiments.messages.console import warn
from experiments.runner import failures
from experiments.runner.history import History
from experiments.runner.measuring import Measured
from experiments.runner.position import Position
from experiments.runner.task import GroupTask
from experiments.runs.folder import RunFolder
from experiments.settings.grid import MOST_ATTEMPTS
from vae_jax.model import num_parameters
from vae_jax.population import member, param_shapes, unpad
from vae_jax.training import TrainState


class Recording:
    """Writes what a group produces into the run folder, and sends it to trackers.

    Only the first process has it.

    A run that is finished keeps its files: the last command may have ended after the
    result of one run and before that of another.

    Args:
        task: the group.
        folder: the run folder.
        history: the validations before training continues; the files of metric rows
            then hold theirs, and no others.
    """

    def __init__(self, task: GroupTask, folder: RunFolder, history: History):
        self._task, self._folder = task, folder
        finished = folder.members.finished()
        self._unfinished = [name for name in task.names if name not in finished]
        folder.metrics.restore(self._unfinished, self._own(history.rows()))
        for run in task.group.runs:
            if run.name in self._unfinished:
                folder.tracking.begin(run.name, run.settings, task.group.attempt)
        self._num_sent = 0
        self.saved(history)

    def _own(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns the rows of runs that are not finished."""
        return [row for row in rows if row["run"] in self._unfinished]

    def add(self, history: History, failed: Mapping[int, TrainState]) -> None:
        """Writes the rows of the last validation.

        Args:
            history: the validations so far.
            failed: the states of the members that failed since the one before it, by
                index.
        """
        task, folder = self._task, self._folder
        for index, state in failed.items():
            facts, arrays = failures.record(task, index, state, folder.path)
            folder.failures.save(task.names[index], task.group.attempt, facts, arrays)
            warn(failures.describe(facts))
        folder.metrics.log(self._own(history.rows(len(history) - 1)))

    def saved(self, history: History) -> None:
        """Sends the validations that a checkpoint holds to the trackers."""
        if self._folder.tracking:
            self._folder.tracking.log(self._own(history.rows(self._num_sent)))
            self._num_sent = len(history)

    def finish(
        self, position: Position, state: TrainState, measured: Measured, floor: Any
    ) -> list[dict[str, Any]]:
        """Stores the results of the group, and removes its checkpoints.

        A run that failed and starts again with other keys gets no result.

        Args:
            position: the last one.
            state: of all members then, on the host.
            measured: their measurements.
            floor: see ``constant_output_baseline``.

        Returns:
            The rows of the results.
        """
        task, folder = self._task, self._folder
        folder.metrics.end(task.names)
        rows: list[dict[str, Any]] = []
        reseeds = task.trainer.config.on_non_finite == "reseed"
        starts_again = reseeds and task.group.attempt + 1 < MOST_ATTEMPTS
        for i, run in enumerate(task.group.runs):
            own, found = member(state, i), member(measured, i)
            failed = bool(own.failure.offender)
            if run.name not in self._unfinished:
                continue
            if failed and starts_again:
                folder.tracking.fail(run.name)
                continue
            if failed:  # Measurements of its best parameters are no result.
                found = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan), found)
                arrays = {}
            else:
                parts = found.evaluation, found.pictures, floor
                arrays = stored_arrays.to_store(run, task.images.data, *parts)
            params = unpad(own.best_params, param_shapes(task.models[i]))
            row = self._row(i, position, own, found, floor)
            folder.members.save(run.name, params, row, arrays, folder.bits_depend_on)
            folder.tracking.finish(row)
            rows.append(row)
        folder.groups.end(task.group.name)
        return rows

    def _row(
        self,
        index: int,
        position: Position,
        own: TrainState,
        found: Measured,
        floor: Any,
    ) -> dict[str, Any]:
        """Returns the row of a run: its measurements, and the use of its latents."""
        task, data = self._task, self._task.images.data
        model, evaluation = task.models[index], found.evaluation
        row = result_row(
            task.group.runs[index],
            model,
            data,
            evaluation,
            floor=floor,
            best_epoch=int(own.best_epoch),
            epochs=int(own.epoch),
            last_gain=position.history.last_gain(index),
            num_parameters=num_parameters(param_shapes(model)),
            skipped_steps=int(own.skipped),
            attempt=task.group.attempt,
            seconds=round(position.seconds / len(task.models), 3),
        )
        return row | diagnosis.measured(
            task.settings.diagnostics,
            found.latent_use,
            row,
            np.asarray(evaluation.posterior_mean),
            data.test.labels,
            floor=float(floor.mean()),
            latent_dim=model.latent_dim,
        )
