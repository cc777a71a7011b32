"""Published tables beside our results, as Markdown; ``experiments.papers`` has more."""

import runpy
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.evaluation.status import LOST
from experiments.files.templates import templates
from experiments.files.writing import write_atomically
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import FolderError, SettingsError
from experiments.messages.wording import plain_name
from experiments.report.groups import over_seeds
from experiments.report.members import Member, members_of
from experiments.runs import records
from experiments.runs.folder import RunFolder
from experiments.settings.fingerprint import differences
from experiments.settings.grid import Run, choose, expand

_CONFIGS = Path(__file__).parents[2] / "configs" / "papers"


def write_page(runs: Path, kept: Path, page: Path) -> str:
    """Updates the records, and the page of results.

    Args:
        runs: holds the run folders, as ``NAME/VARIANT``.
        kept: holds the records, as ``NAME/VARIANT.json``.
        page: the page of results.

    Returns:
        A line on how many rows have been run.

    Raises:
        FolderError: a file cannot be written.
    """
    keep(runs, kept)
    tables = gather(kept)
    write_atomically(page, render(tables))
    rows = [row for table in tables for row in table["rows"]]
    found = sum(bool(row["obtained"]) for row in rows)
    return f"{found} of {len(rows)} rows have been run -> {page}"


def keep(runs: Path, kept: Path) -> None:
    """Adds the finished runs of the tables' run folders to the records.

    Args:
        runs: holds the run folders, as ``NAME/VARIANT``.
        kept: holds the records, as ``NAME/VARIANT.json``.
    """
    for path in _tables():
        module = runpy.run_path(str(path))
        for variant in _variants(module["TABLE"]):
            place = runs / path.stem / variant
            if not place.exists():
                continue
            try:
                own, found = records.finished(RunFolder.open(place), warn)
            except (FolderError, SettingsError) as error:
                CONSOLE.print(f"{place} is left out: {error}")
                continue
            config = module["get_config"](variant).to_dict()
            if changes := differences(own, config, sweep=False):
                CONSOLE.print(f"{place} is left out: {'; '.join(changes)}")
            else:
                records.keep(own, found, kept / path.stem / f"{variant}.json", warn)


def gather(kept: Path) -> list[dict[str, Any]]:
    """Returns the tables of ``configs/papers``, each row with its results.

    Args:
        kept: holds the records, as ``NAME/VARIANT.json``.
    """
    return [_table(path, kept / path.stem) for path in _tables()]


def _tables() -> list[Path]:
    return sorted(_CONFIGS.glob("[!_]*.py"))


def _variants(table: Mapping[str, Any]) -> list[str]:
    names = [variant for row in table["rows"] for variant, _ in row["runs"]]
    return list(dict.fromkeys(names))


def render(tables: Sequence[Mapping[str, Any]]) -> str:
    """Returns the tables as Markdown."""
    page = templates(Path(__file__).parent).get_template("papers.md.jinja")
    return page.render(tables=tables)


def _table(path: Path, kept: Path) -> dict[str, Any]:
    module = runpy.run_path(str(path))
    table = module["TABLE"]
    finished = {
        variant: _finished(module["get_config"](variant).to_dict(), kept, variant)
        for variant in _variants(table)
    }
    rows = []
    for row in table["rows"]:
        obtained = []
        for variant, only in row["runs"]:
            if found := _chosen(finished[variant], only):
                try:
                    cells = summary(found, row.get("accuracy", ""))
                    obtained.append({**row, "variant": variant, **cells})
                except (KeyError, OverflowError, TypeError, ValueError) as error:
                    CONSOLE.print(
                        f"{kept / variant}.json is left out: it holds no results of "
                        f"{row['model']} ({error!r}). Restore it from the repository, "
                        "or delete it."
                    )
        rows += obtained or [{**row, "variant": "", "obtained": ""}]
    return {**table, "path": f"configs/papers/{path.name}", "rows": rows}


def _finished(
    config: Mapping[str, Any], kept: Path, variant: str
) -> dict[Run, dict[str, Any]]:
    """Returns the records of a variant's runs with the present configuration."""
    try:
        recorded = records.results(kept / f"{variant}.json", config)
    except FolderError as error:
        CONSOLE.print(f"left out: {error}")
        return {}
    return {run: recorded[run.name] for run in expand(config) if run.name in recorded}


def _chosen(finished: Mapping[Run, dict[str, Any]], only: str) -> list[dict[str, Any]]:
    try:
        return [finished[run] for run in choose(list(finished), only)]
    except SettingsError:  # Not run, or left out of a smaller variant.
        return []


def summary(
    recorded: Sequence[Mapping[str, Any]], accuracy: str = ""
) -> dict[str, Any]:
    """Returns the cells of a row.

    Args:
        recorded: of each seed, its ``result`` and what its ``bits_depend_on``.
        accuracy: the column of results whose complement, in percent, the row has in
            place of the score; '' for the score.

    Raises:
        KeyError, TypeError, ValueError: these are no results.
    """
    lines: list[str] = []
    members = members_of([each["result"] for each in recorded], lines.append)
    if lines:
        raise ValueError(lines[0])

    def mean(field: str, sign: int = 1, digits: int = 2) -> str:
        value, _, count = over_seeds(members, field)
        return f"{sign * value:.{digits}f}" if count else "–"

    sound = [member for member in members if not member.is_lost]
    layers = ", ".join(member.active_by_layer for member in sound)
    devices = dict.fromkeys(_device(each["bits_depend_on"]) for each in recorded)
    return {
        "obtained": _obtained(members, accuracy),
        "negative_elbo": mean("elbo", sign=-1),
        "rate": mean("rate"),
        # Texts of a run folder or record, which may be a stranger's, in a page.
        "active_units": plain_name(layers) if sound else "–",
        "num_importance_samples": members[0].num_importance_samples,
        "effective_samples": mean("effective_sample_size", digits=1),
        "last_gain": mean("last_gain"),
        "epochs": members[0].epochs,
        "minutes": f"{statistics.fmean(m.seconds for m in members) / 60:.1f}",
        "device": plain_name(", ".join(devices)),
    }


def _obtained(members: Sequence[Member], accuracy: str) -> str:
    """Returns the number of a row, its errors, and the reasons to doubt it."""
    statuses = [member.status for member in members]
    if lost := [status for status in LOST if status in statuses]:
        if len(members) == 1:
            return lost[0]
        return ", ".join(
            f"{status} ({statuses.count(status)} of {len(members)} seeds)"
            for status in lost
        )
    name, scale = (accuracy, 100) if accuracy else ("score", 1)
    value, spread, count = over_seeds(members, name)
    error = over_seeds(members, f"{name}_se")[0]
    value = 1 - value if accuracy else value
    obtained = f"{scale * value:.2f} ± {scale * error:.2f}"
    if not accuracy and any(member.is_weak for member in members):
        obtained += " ‡"
    return obtained + (
        f" ({count} seeds, sd {scale * spread:.2f})" if count > 1 else ""
    )


def _device(facts: Mapping[str, Any]) -> str:
    if facts["backend"] == "cpu":
        return plain_name(f"{facts['num_cpus']} CPU cores")
    return plain_name(f"{facts['num_devices']} x {facts['device_kind']}")
