"""The interface of a tracker: a service that keeps metrics, results and reports.

TensorBoard only reads files of the run folder (``tensorboard``). Each other tracker is
a module of this room with the functions of ``Service``. It imports its package, an
optional dependency, so it is imported only if it is asked for.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from experiments.messages.errors import SettingsError

FIELD = "config.trackers"
TRACKERS = ("tensorboard", "wandb", "mlflow")
DEFAULT = ("tensorboard",)


class Description(NamedTuple):
    """A run, as a tracker knows it.

    Attributes:
        id: the same each time the run continues; no other run has it.
        name: the run's name.
        sweep: the name of the sweep that it belongs to.
        config: its settings, groups of fields nested.
        folder: the folder for files of the tracker.
    """

    id: str
    name: str
    sweep: str
    config: Mapping[str, Any]
    folder: Path


class TrackedRun(Protocol):
    """A run that is open in a tracker.

    Its methods raise errors of any class if the tracker does not accept the data.
    """

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Sends metric rows with their ``epoch``; those that it has are left out."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Sends the row of the result, and ends the run as complete."""

    def attach(self, files: Sequence[Path]) -> None:
        """Sends the files of a report, and ends the run as complete."""

    def end(self, *, failed: bool) -> None:
        """Ends the run as stopped, for now; or as failed, for good."""


class Service(Protocol):
    """A tracker. All calls come from one thread, except ``check``."""

    def check(self) -> None:
        """Refuses settings with which nothing could be sent.

        Raises:
            SettingsError: the tracker cannot be used here.
        """

    def begin(self, run: Description) -> TrackedRun:
        """Opens a run: a new one, or the one with this id to continue it."""


def services(names: Iterable[str]) -> dict[str, Service]:
    """Returns the services among some trackers by name, ready to be used.

    Raises:
        SettingsError: one of them is not installed, or cannot be used here.
    """
    found = {}
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            continue
        try:
            module = importlib.import_module(f"experiments.trackers.{name}")
        except ImportError as error:
            why = f"{name} cannot be imported ({error})"
            remedy = f"Run pip install 'vae_jax[{name}]', or leave it out"
            raise SettingsError.of(FIELD, name, why, remedy) from error
        found[name] = cast(Service, module)
        found[name].check()
    return found
