"""Records: results of runs in a small file, which outlives their run folders.

A record holds a configuration and, for each of its finished runs, the result and what
its bits depend on. Records are meant to be committed: a page of results can be made
from the repository alone, and completed on another machine.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.files.reading import read_object
from experiments.files.sealed import to_json, with_nan
from experiments.files.writing import write_atomically
from experiments.messages.errors import FolderError
from experiments.runs.folder import RunFolder
from experiments.settings.fingerprint import differences, fingerprints
from experiments.settings.grid import expand
from experiments.settings.stored import neutral


def finished(
    folder: RunFolder, report: Callable[[str], object]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the configuration of a run folder, and the results of its runs by name.

    Args:
        folder: the run folder.
        report: gets a line on every run that cannot be read and is left out.

    Raises:
        FolderError: it is damaged.
        SettingsError: its configuration cannot be used.
    """
    config = folder.config()
    folder.bind(fingerprints(expand(config), folder.images()))
    found = {}
    for run in sorted(folder.members.finished()):
        try:
            found[run] = {
                "result": folder.members.result(run),
                "bits_depend_on": folder.members.bits_depend_on(run),
            }
        except FolderError as error:
            report(str(error))
    return neutral(config), found  # Results do not depend on the fields of a machine.


def keep(
    config: dict[str, Any],
    found: dict[str, Any],
    path: Path,
    report: Callable[[str], object],
) -> None:
    """Puts the results of a run folder into a record.

    They replace the results of the same runs. Results of another configuration are
    dropped.

    Args:
        config: the folder's configuration, from ``finished``.
        found: the results of its runs, from ``finished``.
        path: the file of the record; made if it does not exist.
        report: gets a line on what is dropped.

    Raises:
        FolderError: the record is damaged or cannot be written.
    """
    if not found:
        return
    record = _read(path, config)
    if changes := differences(record["config"], config, sweep=False):
        dropped = "; ".join(changes)
        report(f"{path} held runs of another config, which are dropped: {dropped}.")
    else:
        found = record["results"] | found
    write_atomically(path, to_json({"config": config, "results": found}))


def results(path: Path, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns, by name of the run, its ``result`` and what its ``bits_depend_on``.

    Args:
        path: the file of the record; it need not exist.
        config: the present configuration.

    Raises:
        FolderError: the record is damaged, or of another configuration.
    """
    record = _read(path, config)
    if changes := differences(record["config"], config, sweep=False):
        raise FolderError(f"{path} is of another config: {'; '.join(changes)}.")
    return {
        run: {**each, "result": with_nan(each["result"])}
        for run, each in record["results"].items()
    }


def _read(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record in a file; an empty one of this configuration without it."""
    if not path.exists():
        return {"config": config, "results": {}}
    try:
        record = read_object(path)
        parts = [record[name] for name in ("config", "results")]
        for each in record["results"].values():
            parts += [each, each["result"], each["bits_depend_on"]]
        if all(isinstance(part, dict) for part in parts):
            return record
    except (AttributeError, OSError, KeyError, TypeError, ValueError):
        pass
    raise FolderError(
        f"{path} is not a record. Restore it from the repository, or delete it."
    )
