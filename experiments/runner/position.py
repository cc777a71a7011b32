"""How far the training of a group has come: a value that checkpoints hold."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.messages.errors import FolderError
from experiments.runner import processes
from experiments.runner.history import History
from experiments.runner.leaves import from_named_leaves, named_leaves
from experiments.runner.task import CompiledGroup, GroupTask
from experiments.runs.checkpoints import Checkpoints
from vae_jax.population import Snapshot, member
from vae_jax.training import TrainState

# Prefixes of names in a checkpoint.
_PARTS, _HISTORY = ("state/", "members/"), "history/"


@dataclasses.dataclass(frozen=True, eq=False)
class Position:
    """How far the training of a group has come.

    Attributes:
        task: the group.
        epoch: number of epochs finished.
        began: when training would have begun without interruptions, as
            ``time.perf_counter`` counts seconds.
        state: of all members, padded and placed; valid until the next epoch begins.
        active: whether each member still trains, ``[members]``.
        history: the validations so far.
    """

    task: GroupTask
    epoch: int
    began: float
    state: TrainState
    active: np.ndarray
    history: History

    @classmethod
    def fresh(cls, compiled: CompiledGroup) -> "Position":
        """Returns the position before the first epoch."""
        task, began = compiled.task, time.perf_counter()
        active = np.ones(len(task.models), bool)
        return cls(task, 0, began, compiled.init(), active, History(task.names))

    @classmethod
    def restore(cls, task: GroupTask, arrays: Mapping[str, np.ndarray]) -> "Position":
        """Returns the position that a checkpoint holds.

        Args:
            task: the group.
            arrays: as ``arrays`` returned them.

        Raises:
            FolderError: the arrays are of another version, or of other members.
        """
        place, shapes = task.placement, task.population.state_shapes
        like = {"state": shapes, "members": task.member_arrays}
        history = {
            name.removeprefix(_HISTORY): array
            for name, array in arrays.items()
            if name.startswith(_HISTORY)
        }
        try:
            epoch, seconds = int(arrays["epoch"]), float(arrays["seconds"])
            named = {name: arrays[name] for name in arrays if name.startswith(_PARTS)}
            if _types(named) != _types(named_leaves(like)):
                raise ValueError("its arrays are others")
            found = from_named_leaves(named, like)
            for name, array in task.member_arrays.items():
                if not np.array_equal(found["members"][name], array):
                    raise ValueError(f"{name} of its members is another")
            validations = History.restore(task.names, history)
        except (LookupError, TypeError, ValueError) as error:
            raise FolderError(
                f"checkpoints/{task.group.name} in the run folder is not of this "
                f"version ({error}): delete it to begin this group again, or choose "
                "another --workdir."
            ) from error
        state = found["state"]
        began = time.perf_counter() - seconds
        placed = place.place(place.pad(state))
        return cls(task, epoch, began, placed, state.active, validations)

    @property
    def seconds(self) -> float:
        """Seconds of training until now, without interruptions."""
        return time.perf_counter() - self.began

    def failed(self, snapshot: Snapshot) -> dict[int, TrainState]:
        """Returns the states of the members that failed since this position, by index.

        A failure is seen at the next validation; all processes take part.
        """
        if not snapshot.validation:
            return {}
        failed = self.active & (snapshot.validation.failure.offender != 0)
        if not failed.any():
            return {}
        state = self.task.placement.fetch(snapshot.state)
        return {i: member(state, i) for i in np.flatnonzero(failed).tolist()}

    def after(self, snapshot: Snapshot) -> "Position":
        """Returns the position after an epoch."""
        epoch, state, metrics, validation = snapshot
        moved = dataclasses.replace(self, epoch=epoch, state=state)
        if not validation:
            return moved
        metrics = self.task.placement.fetch(metrics)
        history = self.history.after(epoch, metrics, validation, self.active)
        return dataclasses.replace(
            moved, active=np.asarray(validation.active), history=history
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the content of a checkpoint, on the host: copies, by name."""
        tree = {
            "epoch": np.int32(self.epoch),
            "seconds": np.float64(self.seconds),
            "state": self.task.placement.fetch(self.state),
            "members": self.task.member_arrays,
            "history": self.history.arrays,
        }
        # Training continues in the same memory while they are written.
        return {name: np.array(leaf) for name, leaf in named_leaves(tree).items()}


class Saver:
    """Saves positions of a group as often as ``config.checkpoint`` asks for.

    Args:
        position: where training starts; it needs no saving.
        checkpoints: those of the group; None in a process that does not write.
        saved: called with the validations that a checkpoint holds, once it is on disk;
            None in such a process.
    """

    def __init__(
        self,
        position: Position,
        checkpoints: Checkpoints | None,
        saved: Callable[[History], object] | None,
    ):
        self._settings = position.task.settings.checkpoint
        self._checkpoints, self._saved = checkpoints, saved
        self._epoch, self._time = position.epoch, time.perf_counter()

    def save(self, position: Position, *, finish: bool = False) -> None:
        """Saves a position if it is due.

        Args:
            position: the present one.
            finish: saves it in any case, and returns once it is on disk.
        """
        if (finish or self._is_due(position)) and position.epoch != self._epoch:
            arrays = position.arrays()  # All processes take part.
            self._epoch, self._time = position.epoch, time.perf_counter()
            if self._checkpoints and self._saved:
                saved = functools.partial(self._saved, position.history)
                self._checkpoints.save(position.epoch, arrays, saved)
        if finish and self._checkpoints:
            self._checkpoints.wait()

    def _is_due(self, position: Position) -> bool:
        epochs, seconds = self._settings.every_epochs, self._settings.every_seconds
        waited = time.perf_counter() - self._time
        return 0 < epochs <= position.epoch - self._epoch or (
            seconds > 0 and processes.from_primary(waited >= seconds)
        )


def _types(leaves: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
