"""Writes docs/results.md: published tables beside what we obtain.

    python -m experiments.papers --runs=runs/papers --page=docs/results.md
    python -m experiments.papers --readme=PAGE.md

The second also puts the rows that were run into a page of yours, between its two lines
``<!-- results -->``.

RUNS/NAME/VARIANT holds the runs of ``configs/papers/NAME.py:VARIANT``. The finished
ones are kept as RECORDS/NAME/VARIANT.json, a file of some kilobytes. The page is drawn
from these records alone: rows outlive their run folders, and runs of other machines can
be added. A row without a record of the present configuration is shown as not yet run.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

import runpy
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import command_line
from experiments.evaluation.status import LOST
from experiments.files.paths import expand_user
from experiments.files.writing import write_atomically
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import FolderError, SettingsError
from experiments.messages.wording import plain_name
from experiments.report.findings import rests_on_few_weights
from experiments.report.templates import templates
from experiments.runs import records
from experiments.runs.folder import RunFolder
from experiments.settings.grid import Run, choose, expand

_RUNS = flags.DEFINE_string("runs", "runs/papers", "Folder of the run folders.")
_RECORDS = flags.DEFINE_string("records", "docs/results", "Folder of the records.")
_PAGE = flags.DEFINE_string("page", "docs/results.md", "Page to write.")
_README = flags.DEFINE_string("readme", "", "Page to put a summary into.")

_MARK = "<!-- results -->"
_CONFIGS = Path(__file__).parents[1] / "configs" / "papers"


def main() -> None:
    runs, kept, page, readme = (
        expand_user(flag.value) for flag in (_RUNS, _RECORDS, _PAGE, _README)
    )
    if _RUNS.present and not runs.is_dir():
        raise SettingsError(
            f"--runs: {runs} is no folder: give that of the run folders, or leave it "
            "out to draw the page from records alone."
        )
    if _RECORDS.present and not kept.is_dir():
        raise SettingsError(
            f"--records: {kept} is no folder: make it, or leave the flag out to use "
            f"{_RECORDS.default}."
        )
    if not _PAGE.value:
        raise SettingsError(
            f"--page is empty: name a file, or leave it out for {_PAGE.default}."
        )
    keep(runs, kept)
    tables = gather(kept)
    summary = with_summary(_read(readme), tables) if _README.value else ""
    write_atomically(page, render("papers.md.jinja", tables))
    if _README.value:
        write_atomically(readme, summary)
    rows = [row for table in tables for row in table["rows"]]
    found = sum(bool(row["obtained"]) for row in rows)
    CONSOLE.print(f"{found} of {len(rows)} rows have been run -> {page}")


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"--readme: cannot read {page} ({error.strerror})."
        ) from error


def keep(runs: Path, kept: Path) -> None:
    """Puts what is finished in the run folders of the tables into records.

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
            if changes := records.changes(own, config):
                CONSOLE.print(f"{place} is left out: {'; '.join(changes)}")
            else:
                records.keep(own, found, kept / path.stem / f"{variant}.json", warn)


def gather(kept: Path) -> list[dict[str, Any]]:
    """The tables of ``configs/papers``, each row with what its runs gave.

    Args:
        kept: holds the records, as ``NAME/VARIANT.json``.
    """
    return [_table(path, kept / path.stem) for path in _tables()]


def _tables() -> list[Path]:
    return sorted(_CONFIGS.glob("[!_]*.py"))


def _variants(table: Mapping[str, Any]) -> list[str]:
    names = [variant for row in table["rows"] for variant, _ in row["runs"]]
    return list(dict.fromkeys(names))


def with_summary(page: str, tables: Sequence[Mapping[str, Any]]) -> str:
    """The page with the rows that were run between its two marks.

    Raises:
        SettingsError: it has no two marks.
    """
    parts = page.split(_MARK)
    if len(parts) != 3:
        raise SettingsError(
            f"--readme: the page has {len(parts) - 1} lines {_MARK}: put two where the "
            "summary should stand."
        )
    summary = render("papers_summary.md.jinja", tables)
    return f"{_MARK}\n{summary}{_MARK}".join([parts[0], parts[2]])


def render(template: str, tables: Sequence[Mapping[str, Any]]) -> str:
    """The tables as Markdown."""
    page = templates(Path(__file__).parent / "report").get_template(template)
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
                    obtained.append({**row, "variant": variant, **summary(found)})
                except (KeyError, OverflowError, TypeError, ValueError) as error:
                    CONSOLE.print(
                        f"left out: {kept / variant}.json holds no results of "
                        f"{row['model']} as they are written here ({error!r}): restore "
                        "it from the repository, or delete it."
                    )
        rows += obtained or [{**row, "variant": "", "obtained": ""}]
    return {**table, "path": f"configs/papers/{path.name}", "rows": rows}


def _finished(
    config: Mapping[str, Any], kept: Path, variant: str
) -> dict[Run, dict[str, Any]]:
    """What is recorded of a variant's runs with the present configuration."""
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


def summary(recorded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row's cells.

    Args:
        recorded: of each seed, its ``result`` and what its ``bits_depend_on``.
    """
    results = [each["result"] for each in recorded]
    sound = [result for result in results if result["status"] not in LOST]

    def mean(name: str, sign: int = 1, digits: int = 2) -> str:
        if not sound:
            return "–"
        return f"{sign * statistics.fmean(row[name] for row in sound):.{digits}f}"

    devices = dict.fromkeys(_device(each["bits_depend_on"]) for each in recorded)
    return {
        "obtained": _obtained(results),
        "negative_elbo": mean("elbo", sign=-1),
        "rate": mean("rate"),
        # Texts of a run folder or record, which may be a stranger's, in a page.
        "active_units": plain_name(", ".join(row["active_by_layer"] for row in sound))
        if sound
        else "–",
        "num_importance_samples": int(results[0]["num_importance_samples"]),
        "effective_samples": mean("effective_sample_size", digits=1),
        "last_gain": mean("last_gain"),
        "epochs": int(results[0]["epochs"]),
        "minutes": f"{statistics.fmean(row['seconds'] for row in results) / 60:.1f}",
        "device": plain_name(", ".join(devices)),
    }


def _obtained(results: Sequence[Mapping[str, Any]]) -> str:
    """The score of a row, its errors and what there is to say against it."""
    statuses = [result["status"] for result in results]
    if lost := [status for status in LOST if status in statuses]:
        if len(results) == 1:
            return lost[0]
        return ", ".join(
            f"{status} ({statuses.count(status)} of {len(results)} seeds)"
            for status in lost
        )
    score, error = (
        statistics.fmean(result[name] for result in results)
        for name in ("score", "score_se")
    )
    obtained = f"{score:.2f} ± {error:.2f}"
    if any(map(rests_on_few_weights, results)):
        obtained += " ‡"
    if len(results) > 1:
        spread = statistics.stdev(result["score"] for result in results)
        obtained += f" ({len(results)} seeds, sd {spread:.2f})"
    return obtained


def _device(facts: Mapping[str, Any]) -> str:
    if facts["backend"] == "cpu":
        return plain_name(f"{facts['num_cpus']} CPU cores")
    return plain_name(f"{facts['num_devices']} x {facts['device_kind']}")


if __name__ == "__main__":
    command_line.define_parts_flag()
    command_line.run(main)
