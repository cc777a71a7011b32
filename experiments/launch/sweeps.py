"""Trains a sweep, in this process or by jobs, and reports on all finished runs."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.data.images import load_data
from experiments.data.sources import Split
from experiments.evaluation.columns import in_order
from experiments.files.tables import write_table
from experiments.launch.jobs import Launch, refuse_earlier_jobs
from experiments.launch.launching import Jobs
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import LaunchError
from experiments.runner import processes
from experiments.runner.interruption import Interruption
from experiments.runner.loop import train
from experiments.runner.planning import check, check_devices
from experiments.runner.progress import announce
from experiments.runs.folder import RunFolder
from experiments.settings.fingerprint import fingerprints
from experiments.settings.grid import Run
from experiments.trackers.interface import services


def train_and_report(
    config: Mapping[str, Any],
    runs: Sequence[Run],
    chosen: Sequence[Run],
    workdir: Path,
    *,
    launch: Launch | None = None,
    reports: bool = True,
) -> list[str]:
    """Trains the chosen runs of a configuration and reports on all finished ones.

    Args:
        config: the configuration, to which the folder is bound.
        runs: all its runs.
        chosen: the runs to train now; finished ones are not trained again.
        workdir: the run folder.
        launch: how jobs are launched; None: this process trains.
        reports: whether to write ``results.csv`` and the report.

    Returns:
        Lines on what the report leaves out.

    Raises:
        DataError: the data are missing or cannot be used.
        FolderError: the folder cannot be written, is in use by another sweep, or
            belongs to another config or other data.
        LaunchError: the engine refuses the jobs, or some of them failed; the finished
            runs are reported.
        SettingsError: a setting does not fit the data, or a tracker cannot be used.
        Stopped: on request, after everything was saved.
    """
    if launch:
        # This process computes nothing: accelerators are left to the jobs.
        jax.config.update("jax_platforms", "cpu")
    trackers = runs[0].settings.trackers
    if processes.is_primary():
        services(trackers)  # Refused before anything is computed.
    with Interruption() as interruption, contextlib.ExitStack() as stack:
        data = load_data(runs[0].settings.data)
        check(chosen, data)
        if not launch:
            check_devices(chosen, data)
        folder, failed = None, ""
        if processes.is_primary():
            refuse_earlier_jobs(workdir)
            owners = fingerprints(runs, data.fingerprint)
            folder = RunFolder.create(
                workdir,
                config,
                owners,
                data.fingerprint,
                warn,
                computes=not launch,
                trackers=trackers,
            )
            stack.callback(folder.close)
            announce(data, chosen)
        if launch:
            assert folder is not None  # A launching command is one process.
            with interruption.deferred():
                failed = Jobs(folder, runs, chosen, launch).run(interruption)
        else:
            train(data, chosen, folder, interruption)
        left_out = []
        if folder and reports:
            send_the_rest(folder, runs)
            left_out = report(folder, runs, data.test)
        if failed:
            raise LaunchError(failed)
        return left_out


def send_the_rest(folder: RunFolder, runs: Sequence[Run]) -> None:
    """Sends finished runs to the trackers that an earlier command did not send them to.

    It was killed before, a tracker failed, or it did not ask for this tracker.

    Args:
        folder: the run folder.
        runs: all runs of the configuration.
    """
    if not folder.tracking:
        return
    by_name = {run.name: run for run in runs}
    for row in folder.members.results(list(by_name), lambda line: None):
        name, attempt = row["run"], row["attempt"]
        # Another command may be about to send it.
        if not folder.tracking.is_sent(name, attempt) and folder.claims.take([name]):
            folder.tracking.begin(name, by_name[name].settings, attempt)
            folder.tracking.log(folder.metrics.read(name, warn))
            folder.tracking.finish(row)


def report(folder: RunFolder, runs: Sequence[Run], images: Split) -> list[str]:
    """Writes the table and the report of all finished runs, and prints both.

    Runs that cannot be read are left out and named; the others are reported.

    Args:
        folder: the run folder.
        runs: all runs of the configuration.
        images: the test images.

    Returns:
        Lines on what was left out.
    """
    # Within this function: a job draws nothing, so it needs no plotting.
    from experiments.report.page import write_report
    from experiments.report.terminal import print_results

    left_out: list[str] = []
    with folder.writing():
        rows = folder.members.results([run.name for run in runs], left_out.append)
        strangers = sorted(folder.members.finished() - folder.owners.keys())
        left_out += [
            f"{folder.path / 'members' / name} is left out: it is of no run of this "
            "configuration. Move it out of the folder."
            for name in strangers
        ]
        if rows:
            table = folder.path / "results.csv"
            write_table(table, [in_order(row) for row in rows])
            page = write_report(folder, rows, left_out, runs, images)
            folder.tracking.report([table, page])
            print_results(rows, folder.config())
            CONSOLE.print(f"numbers: {table}\nreport:  {page}")
    return left_out
