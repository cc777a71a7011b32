"""The validations of a group while it trains: the source of every metric row."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vae_jax.training import EpochMetrics, Validation

_LOGGED, _BEST, _EPOCH = "logged", "best_bound", "epoch"


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """Validations of a group, as arrays over them and over its runs.

    Checkpoints hold all of them: a run that is continued gets the rows of one that was
    not disturbed, even if the files with its rows are damaged.

    Attributes:
        runs: names.
        arrays: by name, ``[validations, runs]``; the epochs ``[validations]``.
    """

    runs: Sequence[str]
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def restore(
        cls, runs: Sequence[str], arrays: Mapping[str, np.ndarray]
    ) -> "History":
        """Returns a history from a checkpoint.

        Args:
            runs: names.
            arrays: as in its attributes.

        Raises:
            LookupError, TypeError, ValueError: the arrays are of other runs, or of
                another version.
        """
        if len({len(array) for array in arrays.values()}) > 1:
            raise ValueError("its validations are incomplete")
        found = cls(runs, arrays)
        found.rows()
        for index in range(len(runs)):
            found.last_gain(index)
        return found

    def after(
        self, epoch: int, metrics: EpochMetrics, validation: Validation, active: Any
    ) -> "History":
        """Returns the history with one more validation.

        Args:
            epoch: number of epochs finished.
            metrics: means over the steps of the last of them, ``[runs]``.
            validation: the validation after it, ``[runs]``.
            active: which runs trained until here; the others have no row, nor have
                those that fail now.
        """
        scalars = {
            "train": metrics.terms._asdict() | {"gradient_norm": metrics.gradient_norm},
            "validation": validation.terms._asdict(),
        }
        added = {
            _EPOCH: np.int32(epoch),
            _LOGGED: np.asarray(active) & (validation.failure.offender == 0),
            _BEST: validation.best_bound,
            **{
                f"{split}/{name}": value
                for split, values in scalars.items()
                for name, value in values.items()
            },
        }
        new = {name: np.asarray(value)[None] for name, value in added.items()}
        arrays = {
            name: np.concatenate([self.arrays[name], value])
            if name in self.arrays
            else value
            for name, value in new.items()
        }
        return History(self.runs, arrays)

    def __len__(self) -> int:
        return len(self.arrays.get(_EPOCH, ()))

    def rows(self, start: int = 0) -> list[dict[str, Any]]:
        """Returns a metric row for each run and validation: run, epoch and scalars.

        Args:
            start: index of the first validation.
        """
        # Sorted, as arrays that are read from a file are: a continued run writes the
        # same bytes.
        names = [name for name in sorted(self.arrays) if "/" in name]
        return [
            {
                "run": run,
                "epoch": int(self.arrays[_EPOCH][validation]),
                **{name: float(self.arrays[name][validation, i]) for name in names},
            }
            for validation in range(start, len(self))
            for i, run in enumerate(self.runs)
            if self.arrays[_LOGGED][validation, i]
        ]

    def last_gain(self, index: int) -> float:
        """Returns how much a run's best validation bound rose in its last epochs, nats.

        In the last fifth of the epochs that this run trained: others may train longer.
        NaN if there is no earlier validation to compare with.
        """
        if not self.arrays:
            return math.nan
        logged = self.arrays[_LOGGED][:, index]
        epochs = self.arrays[_EPOCH][logged]
        bounds = self.arrays[_BEST][logged, index]
        before = 5 * epochs <= 4 * epochs.max(initial=0)
        if not before.any():
            return math.nan
        with np.errstate(invalid="ignore"):  # -inf where no bound was ever finite.
            return float(bounds[-1] - bounds[before][-1])
