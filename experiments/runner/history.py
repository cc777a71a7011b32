"""What was measured of a group while it trained: the source of every metric row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vae_jax.training import EpochMetrics, Validation

_LOGGED, _BEST, _EPOCH = "logged", "best_bound", "epoch"


class History:
    """Validations of a group, as arrays over its runs.

    Checkpoints hold it whole, so that the rows of a resumed run are those that an
    undisturbed one has, whatever became of the files they were written to.
    """

    def __init__(self, runs: Sequence[str], arrays: Mapping[str, np.ndarray] = {}):
        """
        Args:
            runs: names.
            arrays: as ``arrays()`` returned them, to continue.
        """
        self.runs = runs
        names = list(arrays)
        self._validations = [
            dict(zip(names, values, strict=True))
            for values in zip(*arrays.values(), strict=True)
        ]

    def add(
        self, epoch: int, metrics: EpochMetrics, validation: Validation, active: Any
    ) -> None:
        """Adds what a validation reports, stacked over the runs.

        Args:
            epoch: epochs finished.
            metrics: means over the steps of the last of them.
            validation: the validation after it.
            active: which runs were still training; the rest and those that fail have
                no row.
        """
        scalars = {
            "train": metrics.terms._asdict() | {"gradient_norm": metrics.gradient_norm},
            "validation": validation.terms._asdict(),
        }
        self._validations.append(
            {
                _EPOCH: np.int32(epoch),
                _LOGGED: np.asarray(active) & (validation.failure.offender == 0),
                _BEST: np.asarray(validation.best_bound),
                **{
                    f"{split}/{name}": np.asarray(value)
                    for split, values in scalars.items()
                    for name, value in values.items()
                },
            }
        )

    def rows(self, start: int = 0) -> list[dict[str, Any]]:
        """Metric rows from a validation on: a run, an epoch and its scalars each."""
        return [
            {
                "run": run,
                "epoch": int(validation[_EPOCH]),
                # Sorted, as files give arrays back: a run that is continued writes the
                # bytes of one that is not.
                **{
                    name: float(validation[name][i])
                    for name in sorted(validation)
                    if "/" in name
                },
            }
            for validation in self._validations[start:]
            for i, run in enumerate(self.runs)
            if validation[_LOGGED][i]
        ]

    def last_gain(self, index: int) -> float:
        """Nats by which a run's best validation bound rose in its last fifth of epochs.

        Its own last: others may train on where it was stopped. NaN where no validation
        came before, to compare with.
        """
        bounds = {
            int(validation[_EPOCH]): validation[_BEST][index]
            for validation in self._validations
            if validation[_LOGGED][index]
        }
        last = max(bounds, default=0)
        before = [epoch for epoch in bounds if 5 * epoch <= 4 * last]
        if not before:
            return float("nan")
        with np.errstate(invalid="ignore"):  # -inf where no bound was ever finite.
            return float(bounds[last] - bounds[max(before)])

    def check(self) -> None:
        """Refuses a history that was not continued from one of these runs.

        Raises:
            IndexError, KeyError, TypeError: its arrays are others.
        """
        self.rows()
        for index in range(len(self.runs)):
            self.last_gain(index)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, as arrays with a leading axis over validations."""
        if not self._validations:
            return {}
        return {
            name: np.stack([validation[name] for validation in self._validations])
            for name in self._validations[0]
        }

    def __len__(self) -> int:
        return len(self._validations)
