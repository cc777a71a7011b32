"""What runs gave, kept as a small file when their run folders are long gone.

A record holds a configuration and, of each of its runs that is finished, the result
and what its bits depend on. Records are made to be committed: a page of results can be
drawn from the repository alone, and completed on another machine.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.messages.errors import FolderError
from experiments.files.reading import read_json
from experiments.files.sealed import to_json, with_nan
from experiments.files.writing import write_atomically
from experiments.settings.fingerprint import differences, fingerprints
from experiments.settings.grid import expand
from experiments.runs.folder import RunFolder


def finished(
    folder: RunFolder, report: Callable[[str], object]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the configuration of a run folder, and what its runs gave, by name.

    Args:
        folder: the run folder.
        report: is given a line on every run that cannot be read, which is left out.

    Raises:
        FolderError: it is damaged.
        SettingsError: its configuration cannot be used.
    """
    config = folder.config()
    folder.bind(fingerprints(expand(config), folder.images()))
    for place in (
        "path",
        "data_dir",
        "cache_dir",
    ):  # Of the machine, not of the result.
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
    """Puts what a run folder holds into a record.

    Results of the same runs are replaced, by those of a folder that has every field of
    the record's configuration; those of another configuration are dropped.

    Args:
        config: the folder's configuration, from ``finished``.
        found: its runs, from the same.
        path: of the record; made where there is none.
        report: is given a line on what is dropped.

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
    """Where runs of the same name of two configurations differ, a line for each field.

    Which other runs there are in the sweep is no difference. Neither are fields that
    the old one does not have: they came later, and a new option leaves what was there
    before as it was.
    """
    old = {name: value for name, value in old.items() if name != "sweep"}
    return differences(old, _restricted(new, old))


def results(path: Path, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name of the run, its ``result`` and what its ``bits_depend_on``.

    Args:
        path: of the record; there may be none.
        config: the present configuration.

    Raises:
        FolderError: a record of another configuration, or one that is damaged.
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
        record = read_json(path)
        parts = [record[name] for name in ("config", "results")]
        for each in record["results"].values():
            parts += [each, each["result"], each["bits_depend_on"]]
        if all(isinstance(part, dict) for part in parts):
            return record
    except (AttributeError, OSError, KeyError, TypeError, ValueError):
        pass
    raise FolderError(
        f"{path} is no record: restore it from the repository, or delete it."
    )


def _restricted(new: Any, old: Any) -> Any:
    if not isinstance(new, Mapping) or not isinstance(old, Mapping):
        return new
    return {name: _restricted(new[name], old[name]) for name in old if name in new}
