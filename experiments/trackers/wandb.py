"""Weights & Biases, with its server or offline.

Its own variables of the environment decide where runs go (docs/trackers.md). A run that
continues offline gets another folder with the same id. The package's own command reads
which epochs the earlier folders hold.
"""

import csv
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from experiments.messages.console import CONSOLE
from experiments.messages.errors import SettingsError, one_line
from experiments.trackers.interface import FIELD, Description

_PROJECT = "vae_jax"


def check() -> None:
    """Refuses a server where nobody is logged in.

    Raises:
        SettingsError: nobody is logged in, and runs are not kept offline.
    """
    if _mode() not in ("online", "shared", "run"):
        return
    try:
        why = "" if wandb.login(prompt=False) else "nobody is logged in on this machine"
    except wandb.Error as error:
        why = f"the login failed ({one_line(error)})"
    if why:
        remedy = "Run wandb login, or set WANDB_MODE=offline"
        raise SettingsError.of(FIELD, "wandb", why, remedy)


def _mode() -> str:
    return str(wandb.setup().settings.mode)


def begin(run: Description) -> "_Run":
    """Opens a run: a new one, or the one with this id to continue it."""
    return _Run(run)


class _Run:
    """A run that is open in Weights & Biases."""

    def __init__(self, run: Description):
        # Not in the run folder: the package would leave links there that lead out.
        beside = run.folder.absolute().parent
        folder = Path(os.environ.get("WANDB_DIR") or beside)
        self._run = wandb.init(
            id=run.id,
            name=run.name,
            group=os.environ.get("WANDB_RUN_GROUP") or run.sweep,
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            config=dict(run.config),
            allow_val_change=True,  # Such as the number of devices.
            dir=str(folder),
            resume="allow" if _mode() == "online" else None,
            reinit="create_new",  # Many runs are open at once.
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )
        # The server knows epochs that another machine sent.
        sent = [self._run.step - 1]
        for path in folder.glob(f"*wandb/*run-*-{run.id}/run-{run.id}.wandb"):
            if path.parent != Path(self._run.dir).parent:
                sent += _epochs(path)
        self._last = max(sent)
        _announce(
            f"offline, in {folder / 'wandb'}"
            if self._run.offline
            else str(self._run.project_url)
        )

    def log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Sends metric rows with their ``epoch``; those that it has are left out."""
        for row in rows:
            if (epoch := row["epoch"]) > self._last:
                values = {name: row[name] for name in row if "/" in name}
                self._run.log(values, step=epoch, commit=True)
                self._last = epoch

    def finish(self, result: Mapping[str, Any]) -> None:
        """Sends the row of the result, and ends the run as complete."""
        self._run.summary.update(dict(result))
        self._run.finish()

    def attach(self, files: Sequence[Path]) -> None:
        """Sends the files of a report, and ends the run as complete."""
        artifact = wandb.Artifact("report", type="report")
        for file in files:
            artifact.add_file(str(file))
            if file.suffix == ".csv":
                artifact.add(_table(file), file.stem)
        self._run.log_artifact(artifact)
        self._run.finish()

    def end(self, *, failed: bool) -> None:
        """Ends the run as stopped, for now; or as failed, for good."""
        self._run.finish(exit_code=int(failed))


def _table(path: Path) -> wandb.Table:
    """Returns a CSV table as one that Weights & Biases shows."""

    def cell(text: str) -> float | str:
        try:
            return float(text)
        except ValueError:
            return text

    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    cells = [list(map(cell, row)) for row in rows]
    # A cell in a column of numbers may be empty.
    return wandb.Table(columns=[*header], data=cells, allow_mixed_types=True)


@functools.cache  # Once in a process.
def _announce(place: str) -> None:
    CONSOLE.print(f"wandb:   {place}")


def _epochs(path: Path) -> Iterator[int]:
    """Yields the epochs in a file of Weights & Biases; a kill may have cut its end."""
    command = (sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path))
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    for line in found.stdout.splitlines():
        record = json.loads(line)
        if record["type"] == "history":
            yield record["history"]["step"]["num"]
