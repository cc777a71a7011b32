"""Trains a sweep in this process and reports on all that is finished."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.data.images import load_data
from experiments.files.tables import write_table
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import FolderError
from experiments.report.page import write_report
from experiments.report.terminal import print_results
from experiments.runner import processes
from experiments.runner.interruption import Interruption
from experiments.runner.loop import check, check_devices, train
from experiments.runs.folder import RunFolder
from experiments.settings.fingerprint import fingerprints
from experiments.settings.grid import Run


def train_and_report(
    config: Mapping[str, Any], runs: Sequence[Run], chosen: Sequence[Run], workdir: Path
) -> list[str]:
    """Trains the chosen runs of a configuration and reports on all that are finished.

    Args:
        config: the configuration, which the folder is bound to.
        runs: every run of it.
        chosen: those to train now; finished ones are not trained again.
        workdir: the run folder.

    Returns:
        Lines on what the report leaves out.

    Raises:
        DataError: the data cannot be had or used.
        FolderError: the folder cannot be written, is in use, or belongs to another
            config or other data.
        SettingsError: a setting that does not fit the data.
        Stopped: on request, after everything was saved.
    """
    with Interruption() as interruption:
        data = load_data(runs[0].settings.data)
        check(chosen, data)
        check_devices(chosen, data)
        folder = None
        if processes.is_primary():
            owners = fingerprints(runs, data.fingerprint)
            folder = RunFolder.create(workdir, config, owners, data.fingerprint, warn)
        try:
            if folder:
                _refuse_launched(folder)
            train(data, chosen, folder, interruption)
            return report(folder, runs) if folder else []
        finally:
            if folder:
                folder.close()


def _refuse_launched(folder: RunFolder) -> None:
    """Refuses to train what jobs may be training: every run is trained once."""
    if any(folder.jobs.glob("*.json")):
        raise FolderError(
            f"{folder.jobs} holds jobs that are not gathered: give the same --launcher "
            "again to finish and gather them, or delete that folder to train their "
            "runs anew."
        )


def report(folder: RunFolder, runs: Sequence[Run]) -> list[str]:
    """Writes the table and the report of all runs that are finished, and prints both.

    What cannot be read is left out and named; the rest is there.

    Args:
        folder: where they are.
        runs: every run of the configuration.

    Returns:
        Lines on what was left out.
    """
    left_out: list[str] = []
    with folder.writing():
        rows = folder.members.results([run.name for run in runs], left_out.append)
        strangers = sorted(folder.members.finished() - folder.owners.keys())
        left_out += [
            f"{folder.path / 'members' / name} is left out: it is of no run of this "
            "configuration; move it out of the folder."
            for name in strangers
        ]
        if rows:
            table = folder.path / "results.csv"
            write_table(table, rows)
            page = write_report(folder, rows, left_out)
            print_results(rows)
            CONSOLE.print(f"numbers: {table}\nreport:  {page}")
    return left_out
