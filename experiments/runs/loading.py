"""The runs and images of a folder, on the machine that reads it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.data.images import ImageData, load_data
from experiments.evaluation.status import DIVERGED
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import DataError, FolderError
from experiments.messages.wording import counted, listed
from experiments.runs.folder import RunFolder
from experiments.settings import stored
from experiments.settings.fingerprint import fingerprints
from experiments.settings.grid import Run, expand


def stored_runs(folder: RunFolder, places: Mapping[str, str]) -> tuple[Run, ...]:
    """Returns the runs of a folder, and binds the folder to them.

    Args:
        folder: the run folder.
        places: where the images are: the fields of ``stored.PLACES`` that are given.

    Raises:
        SettingsError: a path is missing, or is given for data without a path.
    """
    return _bound(folder, stored.on_this_machine(folder.config(), places))


def runs_without_images(folder: RunFolder) -> tuple[Run, ...]:
    """Returns the runs of a folder whose images are not read; binds it to them."""
    return _bound(folder, stored.without_images(folder.config()))


def _bound(folder: RunFolder, config: Mapping[str, Any]) -> tuple[Run, ...]:
    runs = expand(config)
    folder.bind(fingerprints(runs, folder.images()))
    return runs


def stored_images(folder: RunFolder, run: Run, places: Mapping[str, str]) -> ImageData:
    """Returns the images of one of the ``stored_runs``.

    Prints the stored fields of another machine, which are not used.

    Raises:
        DataError: they cannot be loaded.
        FolderError: they are not the images of training.
    """
    not_obeyed = stored.not_obeyed(folder.config(), places, stored.PLACES)
    try:
        data = load_data(run.settings.data)
        folder.refuse_other_images(data.fingerprint)
    except (DataError, FolderError) as error:
        reason = f"{error} ({not_obeyed})" if not_obeyed else str(error)
        raise type(error)(reason) from error
    if not_obeyed:
        CONSOLE.print(not_obeyed)
    return data


def trained_runs(
    folder: RunFolder,
    chosen: Sequence[Run],
    left_out: list[str],
    report: Callable[[str], object] = warn,
) -> dict[Run, dict[str, Any]]:
    """Returns the runs whose models can be used, and their rows of training.

    Args:
        folder: the run folder.
        chosen: some of its runs.
        left_out: gets a line for each run whose result cannot be read.
        report: gets a line on the runs that diverged, and on those not finished.

    Raises:
        FolderError: there are none.
    """
    names, finished = [run.name for run in chosen], folder.members.finished()
    rows = {row["run"]: row for row in folder.members.results(names, left_out.append)}
    diverged = [name for name, row in rows.items() if row["status"] == DIVERGED]
    trained = {
        run: rows[run.name]
        for run in chosen
        if run.name in rows and run.name not in diverged
    }
    if not trained:
        if len(diverged) == len(names):
            raise FolderError(
                f"{listed(names, ' ')} in {folder.path} diverged, so no model can be "
                "used: choose other runs by --only, or train with a smaller "
                "learning_rate in another --workdir."
            )
        raise FolderError(
            next(iter(left_out), "")
            or f"{folder.path} holds no finished run of the {len(chosen)} chosen that "
            "has not diverged: train first, with the command in its environment.json."
        )
    unfinished = [name for name in names if name not in finished]
    for reason, runs in ((DIVERGED, diverged), ("not finished", unfinished)):
        if runs:
            report(
                f"{len(runs)} of {counted(len(chosen), 'chosen run')} left out, as "
                f"they are {reason}: {listed(runs, ' ')}."
            )
    return trained
