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
    for place in ("path", "data_dir", "cache_dir"):  # Results do not depend on them.
        if place in config.get("data", {}):
            config["data"][place] = ""
    found = {}
    for run in sorted(folder.members.finished()):
        try:
            found[run] = {
                "result": folder.members.result(run),
                "bits_depend_on": folder.members.bits_depend_on(run),
            }
        except FolderError as error:
            report(str(error))
    return config, found


def keep(
    config: dict[str, Any],
    found: dict[str, Any],
    path: Path,
    report: Callable[[str], object],
) -> None:
    """Puts the results of a run folder into a record.

    A folder that has every field of the record's configuration replaces the results of
    the same runs. Results of another configuration are dropped.

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
    record = _read(path)
    if not changes(record["config"], config):
        results = record["results"] | found
    elif not changes(config, record["config"]):  # The folder is of an older version.
        config, results = record["config"], found | record["results"]
    else:
        dropped = "; ".join(changes(record["config"], config))
        report(f"{path} held runs of another config, which are dropped: {dropped}.")
        results = found
    write_atomically(path, to_json({"config": config, "results": results}))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns where runs of one name differ in two configurations, a line per field.

    The other runs of the sweep make no difference. Neither do fields that the old
    configuration does not have: they came later, and a new option leaves earlier
    results as they were.
    """
    old = {name: value for name, value in old.items() if name != "sweep"}
    return differences(old, _restricted(new, old))


def results(path: Path, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns, by name of the run, its ``result`` and what its ``bits_depend_on``.

    Args:
        path: the file of the record; it need not exist.
        config: the present configuration.

    Raises:
        FolderError: the record is damaged, or of another configuration.
    """
    record = _read(path)
    if found := changes(record["config"], config):
        raise FolderError(f"{path} is of another config: {'; '.join(found)}.")
    return {
        run: {**each, "result": with_nan(each["result"])}
        for run, each in record["results"].items()
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"config": {}, "results": {}}
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


def _restricted(new: Any, old: Any) -> Any:
    if not isinstance(new, Mapping) or not isinstance(old, Mapping):
        return new
    return {name: _restricted(new[name], old[name]) for name in old if name in new}
