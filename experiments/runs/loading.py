"""The runs and images of a folder, on the machine that reads it."""

from collections.abc import Mapping
from typing import Any

from experiments.data.images import ImageData, load_data
from experiments.messages.console import CONSOLE
from experiments.messages.errors import DataError, FolderError
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
