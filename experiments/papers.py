"""Writes docs/results.md: published tables beside what run folders hold.

    python -m experiments.papers --runs=runs/papers --page=docs/results.md
    python -m experiments.papers --readme=README.md

The second also puts the rows that were run into a page that has a place for them. The
runs of `configs/papers/NAME.py:VARIANT` are looked for in RUNS/NAME/VARIANT. Rows
without finished runs of just that configuration say so.
"""

import runpy
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from absl import flags

from experiments import command_line
from experiments.grid import choose, expand
from experiments.progress import CONSOLE
from experiments.run_folder import FolderError, RunFolder, write_atomically
from experiments.settings import SettingsError

_RUNS = flags.DEFINE_string("runs", "runs/papers", "Folder of the run folders.")
_MARK = "<!-- results -->"

_PAGE = flags.DEFINE_string("page", "docs/results.md", "Page to write.")
_README = flags.DEFINE_string("readme", "", "Page to put a summary into.")


def main() -> None:
    tables = gather(Path(_RUNS.value).expanduser())
    write_atomically(Path(_PAGE.value), render("papers.md.jinja", tables))
    if _README.value:
        readme = Path(_README.value)
        write_atomically(readme, with_summary(readme.read_text(), tables))
    rows = [row for table in tables for row in table["rows"]]
    found = sum(bool(row["obtained"]) for row in rows)
    CONSOLE.print(f"{found} of {len(rows)} rows have been run -> {_PAGE.value}")


def gather(runs: Path) -> list[dict[str, Any]]:
    """The tables of ``configs/papers``, each row with what its runs gave.

    Args:
        runs: holds the run folders, as ``NAME/VARIANT``.
    """
    configs = Path(__file__).parents[1] / "configs" / "papers"
    return [_table(path, runs / path.stem) for path in sorted(configs.glob("[!_]*.py"))]


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
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template(template).render(tables=tables)


def _table(path: Path, runs: Path) -> dict[str, Any]:
    module = runpy.run_path(str(path))
    table = module["TABLE"]
    rows = []
    for row in table["rows"]:
        obtained = [
            {**row, "variant": variant, **found}
            for variant, only in row["runs"]
            if (found := _obtained(module["get_config"], runs, variant, only))
        ]
        rows += obtained or [{**row, "variant": "", "obtained": ""}]
    return {**table, "path": f"configs/papers/{path.name}", "rows": rows}


def _obtained(
    get_config: Any, runs: Path, variant: str, only: str
) -> dict[str, Any] | None:
    """What the finished runs of a row gave, or None where there are none.

    Args:
        get_config: of the table's configuration.
        runs: folder of its run folders.
        variant: of the configuration.
        only: part of the runs' names.
    """
    config = get_config(variant).to_dict()
    every = expand(config)
    try:
        chosen = choose(every, only)
        folder = RunFolder.open(runs / variant)
    except (FolderError, SettingsError):  # Not run, or left out of a smaller variant.
        return None
    if differences := folder.differences(config):
        CONSOLE.print(f"{folder.path} is left out: {'; '.join(differences)}")
        return None
    results = folder.results([run.name for run in chosen])
    return summary(results, folder.environment()) if results else None


def summary(
    results: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]
) -> dict[str, Any]:
    """A row's cells, from the results of its seeds and what their folder ran on."""

    def mean(name: str) -> float:
        return statistics.fmean(result[name] for result in results)

    obtained = f"{mean('score'):.2f} ± {mean('score_se'):.2f}"
    if len(results) > 1:
        spread = statistics.stdev(result["score"] for result in results)
        obtained += f" ({len(results)} seeds, sd {spread:.2f})"
    return {
        "obtained": obtained,
        "negative_elbo": f"{-mean('elbo'):.2f}",
        "rate": f"{mean('rate'):.2f}",
        "active_units": ", ".join(result["active_by_layer"] for result in results),
        "num_importance_samples": results[0]["num_importance_samples"],
        "epochs": results[0]["epochs"],
        "minutes": f"{mean('seconds') / 60:.1f}",
        "device": _device(environment["bits_depend_on"]),
    }


def _device(facts: Mapping[str, Any]) -> str:
    if facts["backend"] == "cpu":
        return f"{facts['num_cpus']} CPU cores"
    return f"{facts['num_devices']} x {facts['device_kind']}"


if __name__ == "__main__":
    command_line.run(main)
