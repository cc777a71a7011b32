"""MLflow: any store that MLFLOW_TRACKING_URI names, with a server or on a disk.

The store says which epochs of a run it has. Runs are opened by ``MlflowClient``: the
functions of ``mlflow`` itself know only one active run.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from experiments.messages.errors import SettingsError, one_line
from experiments.trackers.interface import FIELD, Description

_EXPERIMENT = "vae_jax"
_ID = "vae_jax.id"  # The tag by which a run is found again.

# The most that a store takes at once, and of one value.
_MOST_METRICS, _MOST_PARAMS, _LONGEST = 1000, 100, 500


def check() -> None:
    """Refuses a store that does not answer.

    Raises:
        SettingsError: it does not answer.
    """
    try:
        _experiment(MlflowClient())
    except Exception as error:  # Of any class, by the kind of the store.
        why = f"the store of MLflow cannot be used ({one_line(error)})"
        remedy = "Set MLFLOW_TRACKING_URI to one that can, as in sqlite:///mlflow.db"
        raise SettingsError.of(FIELD, "mlflow", why, remedy) from error


def begin(run: Description) -> "_Run":
    """Opens a run: a new one, or the one with this id to continue it."""
    return _Run(run)


class _Run:
    """A run that is open in MLflow."""

    def __init__(self, run: Description):
        self._client = client = MlflowClient()
        own = _find(client, run) or client.create_run(
            _experiment(client),
            tags={_ID: run.id, "sweep": run.sweep},
            run_name=run.name,
        )
        self._id = own.info.run_id
        client.update_run(self._id, status="RUNNING")
        missing = [
            Param(name, text[:_LONGEST])
            for name, text in _flat(run.config)
            if name not in own.data.params
        ]
        for some in _cut(missing, _MOST_PARAMS):
            client.log_batch(self._id, params=some)
        # By metric: a kill may have cut an epoch in two.
        self._last = {
            name: max(each.step for each in client.get_metric_history(self._id, name))
            for name in own.data.metrics
        }

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Sends metric rows with their ``epoch``; those that it has are left out."""
        now = int(time.time() * 1000)
        metrics = []
        for row in rows:
            for name, value in row.items():
                if "/" in name and row["epoch"] > self._last.get(name, -1):
                    metrics.append(Metric(name, value, now, row["epoch"]))
                    self._last[name] = row["epoch"]
        for some in _cut(metrics, _MOST_METRICS):
            self._client.log_batch(self._id, metrics=some)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Sends the row of the result, and ends the run as complete."""
        numbers = {n: v for n, v in result.items() if isinstance(v, (int, float))}
        tags = [RunTag(n, str(v)) for n, v in result.items() if n not in numbers]
        now, step = int(time.time() * 1000), result["epochs"]
        self._client.log_batch(
            self._id,
            metrics=[
                Metric(name, float(value), now, step)
                for name, value in numbers.items()
                if name not in self._last
            ],
            tags=tags,
        )
        self._client.set_terminated(self._id)

    def attach(self, files: Sequence[Path]) -> None:
        """Sends the files of a report, and ends the run as complete."""
        for file in files:
            self._client.log_artifact(self._id, str(file))
        self._client.set_terminated(self._id)

    def end(self, *, failed: bool) -> None:
        """Ends the run as stopped, for now; or as failed, for good."""
        self._client.set_terminated(self._id, "FAILED" if failed else "KILLED")


def _experiment(client: MlflowClient) -> str:
    """Returns the id of the experiment that holds the runs; made if there is none."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except MlflowException:  # Another process may have made it just now.
        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _find(client: MlflowClient, run: Description) -> Run | None:
    """Returns the run with an id, if there is one."""
    found = client.search_runs([_experiment(client)], f"tags.`{_ID}` = '{run.id}'")
    return found[0] if found else None


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the fields of nested groups, named as in 'model.latent_dim'."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _cut(values: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """Yields the values in parts of at most so many."""
    for start in range(0, len(values), most):
        yield values[start : start + most]
