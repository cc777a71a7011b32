"""Trains one group to its end, from wherever it was left."""

import time
from concurrent.futures import Executor, Future
from typing import Any

import jax
import numpy as np

from experiments.evaluation import diagnosis, stored_arrays
from experiments.evaluation.results import result_row
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import FolderError
from experiments.runner import failures, processes
from experiments.runner.history import History
from experiments.runner.interruption import Interruption, Stopped
from experiments.runner.progress import Progress
from experiments.runner.task import (
    GroupTask,
    Measured,
    Programs,
    from_named_leaves,
    named_leaves,
)
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.folder import RunFolder
from experiments.runs.notes import Note
from experiments.settings.grid import MOST_ATTEMPTS
from vae_jax.model import Params
from vae_jax.population import TrainEpoch, member, param_shapes, unpad
from vae_jax.training import TrainState


class GroupTraining:
    """A group while it trains.

    Args:
        task: the group.
        programs: its compiled programs.
        folder: where everything goes; None in a process that is not the first.
        progress: shows every epoch.
        background: computes the baseline, which is not needed before the end, while
            the group trains.
    """

    def __init__(
        self,
        task: GroupTask,
        programs: Programs,
        folder: RunFolder | None,
        progress: Progress,
        background: Executor,
    ):
        self._task = task
        self._programs = programs
        self._folder = folder
        self._progress = progress
        self._background = background
        self._floor: Future[np.ndarray] | None = None
        self._names = [run.name for run in task.group.runs]
        self._settings = task.settings.checkpoint
        # A run may be finished already, where the last command ended amid the results.
        self._finished = folder.members.finished() if folder else set()
        self._started = time.perf_counter()

    def run(self, interruption: Interruption) -> None:
        """Trains, evaluates and stores the group.

        Raises:
            FolderError: the folder cannot be written.
            Stopped: on request, after a checkpoint.
        """
        self._progress.start_group(
            self._task.group, self._task.trainer.config.num_epochs
        )
        self._begin()
        self._progress.show("training")
        try:
            with (
                interruption.deferred(),
                self._task.training(self._programs.train, self._epoch) as train_epoch,
            ):
                self._train(train_epoch, interruption)
                self._checkpoint()
                if self._checkpoints:
                    self._checkpoints.wait()
        finally:
            if self._checkpoints:
                self._checkpoints.close()
        # From here on, everything is on disk: a request to stop ends the process.
        self._finish()

    # --- where it was left ---

    def _begin(self) -> None:
        """Starts from the last good checkpoint, or from the beginning."""
        group, found = self._task.group, None
        self._checkpoints = None
        if self._folder:
            note = Note.on(group)
            path = self._folder.groups.begin(note)
            owner = self._folder.groups.owner(note)
            self._checkpoints = Checkpoints(path, self._settings.keep, owner)
            found = self._checkpoints.latest(warn)
        population = self._task.population
        if processes.from_primary(found is not None):
            arrays = processes.arrays_from_primary(found[1] if found else {})
            self._restore(arrays)
        else:
            self._progress.show("first state")
            self._state = population.init(self._programs.init, *self._task.statistics)
            self._active = np.ones(len(self._names), bool)
            self._epoch, self._seconds_before = 0, 0.0
            self._history = History(self._names)
        self._saved_epoch, self._saved_at = self._epoch, time.perf_counter()
        if self._folder:
            rows = [row for row in self._history.rows() if self._is_new(row["run"])]
            new = [name for name in self._names if self._is_new(name)]
            self._folder.metrics.restore(new, rows)

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        place, shapes = self._task.placement, self._task.population.state_shapes

        def part(prefix):
            return {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }

        state, members = part("state/"), part("members/")
        try:
            if _types(state) != _types(named_leaves(shapes)) or any(
                not np.array_equal(members.get(name), array)
                for name, array in self._task.member_arrays.items()
            ):
                raise ValueError("its arrays are others")
            self._epoch = int(arrays["epoch"])
            self._seconds_before = float(arrays["seconds"])
            self._history = History(self._names, part("history/"))
            self._history.check()
        except (LookupError, TypeError, ValueError) as error:
            raise FolderError(
                f"checkpoints/{self._task.group.name} in the run folder is not of this "
                f"version ({error}): delete it to begin this group again, or choose "
                "another --workdir."
            ) from error
        self._active = state["active"]
        self._state = place.place(place.pad(from_named_leaves(state, shapes)))
        if self._folder:
            CONSOLE.print(
                f"{self._task.group.name}: continues after epoch {self._epoch} of "
                f"{self._task.trainer.config.num_epochs}"
            )
        self._progress.advance(self._epoch, np.asarray(state["best_bound"]))

    def _is_new(self, run: str) -> bool:
        return run not in self._finished

    # --- epochs ---

    def _train(self, train_epoch: TrainEpoch, interruption: Interruption) -> None:
        task = self._task
        population, programs = task.population, self._programs
        members = population.placed_members
        validation_x = task.placement.place_shared(task.validation_x)
        first = self._epoch + 1
        for snapshot in population.epochs(
            train_epoch,
            lambda state: programs.validate(state, members, validation_x),
            self._state,
            finished=self._epoch,
            active=self._active,
        ):
            self._epoch, self._state = snapshot.epoch, snapshot.state
            if snapshot.validation:
                metrics = task.placement.fetch(snapshot.metrics)
                self._record(metrics, snapshot.validation)
            if self._epoch > first:  # The first epoch is not held up.
                self._start_floor()
            if interruption.requested():
                self._checkpoint()
                if self._checkpoints:
                    self._checkpoints.wait()
                raise Stopped(f"stopped after epoch {self._epoch} of {task.group.name}")
            if self._is_due():
                self._checkpoint()

    def _start_floor(self) -> Future[np.ndarray]:
        if self._floor is None:
            self._floor = self._background.submit(self._task.floor)
        return self._floor

    def _record(self, metrics: Any, validation: Any) -> None:
        failed = self._active & (validation.failure.offender != 0)
        self._history.add(self._epoch, metrics, validation, self._active)
        self._active = validation.active
        self._progress.advance(self._epoch, validation.best_bound)
        if failed.any():
            self._record_failures(failed)
        if self._folder:
            rows = self._history.rows(len(self._history) - 1)
            self._folder.metrics.log(row for row in rows if self._is_new(row["run"]))

    def _record_failures(self, failed: np.ndarray) -> None:
        state = self._task.placement.fetch(self._state)
        if not self._folder:
            return
        for i in np.flatnonzero(failed).tolist():
            run = self._task.group.runs[i]
            facts, arrays = failures.record(
                self._task, i, member(state, i), self._folder.path
            )
            self._folder.failures.save(
                run.name, self._task.group.attempt, facts, arrays
            )
            warn(failures.describe(facts))

    # --- checkpoints ---

    def _is_due(self) -> bool:
        every_epochs, every_seconds = (
            self._settings.every_epochs,
            self._settings.every_seconds,
        )
        by_epochs = 0 < every_epochs <= self._epoch - self._saved_epoch
        waited = time.perf_counter() - self._saved_at
        return by_epochs or (
            every_seconds > 0 and processes.from_primary(waited >= every_seconds)
        )

    def _checkpoint(self) -> None:
        if self._saved_epoch == self._epoch:
            return
        state = named_leaves(self._task.placement.fetch(self._state))
        self._saved_epoch, self._saved_at = self._epoch, time.perf_counter()
        if not self._checkpoints:
            return
        arrays = {
            "epoch": np.int32(self._epoch),
            "seconds": np.float64(self._seconds()),
            **_prefixed("state/", state),
            **_prefixed("members/", self._task.member_arrays),
            **_prefixed("history/", self._history.arrays()),
        }
        # Training goes on in the same memory while this is written.
        self._checkpoints.save(
            self._epoch, {name: np.array(array) for name, array in arrays.items()}
        )

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    # --- results ---

    def _finish(self) -> None:
        task, folder = self._task, self._folder
        self._progress.show("evaluating")
        measured = task.evaluate(self._programs.evaluate, self._state.best_params)
        state = task.placement.fetch(self._state)
        if not folder:
            return
        folder.metrics.close()
        self._progress.show("constant-output baseline")
        floor = self._start_floor().result()
        rows = []
        for i, run in enumerate(task.group.runs):
            own, found = member(state, i), member(measured, i)
            failed = bool(own.failure.offender)
            if not self._is_new(run.name) or (failed and self._starts_again()):
                continue
            if failed:
                # Whatever its best parameters give, it is not a result.
                found = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), found)
                arrays = {}
            else:
                arrays = stored_arrays.to_store(
                    run,
                    task.data,
                    found.evaluation,
                    found.pictures,
                    floor,
                )
            shapes = param_shapes(task.models[i])
            params = unpad(own.best_params, shapes)
            rows.append(self._result(i, own, params, found, floor))
            folder.members.save(
                run.name, params, rows[-1], arrays, folder.bits_depend_on
            )
        folder.groups.end(task.group.name)
        self._progress.finish_group(rows, self._seconds())

    def _result(
        self,
        index: int,
        state: TrainState,
        params: Params,
        found: Measured,
        floor: np.ndarray,
    ) -> dict[str, Any]:
        """The row of a run: what was measured, and what its latents do."""
        task = self._task
        model = task.models[index]
        row = result_row(
            task.group.runs[index],
            model,
            task.data,
            found.evaluation,
            floor=floor,
            best_epoch=int(state.best_epoch),
            epochs=int(state.epoch),
            last_gain=self._history.last_gain(index),
            num_parameters=model.num_parameters(params),
            skipped_steps=int(state.skipped),
            attempt=task.group.attempt,
            seconds=round(self._seconds() / len(task.models), 3),
        )
        return row | diagnosis.columns(
            task.settings.diagnostics,
            found.latent_use,
            row,
            np.asarray(found.evaluation.posterior_mean),
            task.data.test.labels,
            floor=float(floor.mean()),
            latent_dim=model.latent_dim,
        )

    def _starts_again(self) -> bool:
        return (
            self._task.trainer.config.on_non_finite == "reseed"
            and self._task.group.attempt + 1 < MOST_ATTEMPTS
        )


def _types(leaves: dict[str, Any]) -> dict[str, Any]:
    return {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def _prefixed(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": array for name, array in arrays.items()}
