"""Writes docs/results.md: published tables beside our results.

    python -m experiments.papers --runs=runs/papers --page=docs/results.md

RUNS/NAME/VARIANT holds the runs of ``configs/papers/NAME.py:VARIANT``. The finished
ones are kept as RECORDS/NAME/VARIANT.json, a file of some kilobytes. The page is drawn
from these records alone: rows outlive their run folders, and runs of other machines can
be added. A row without a record of the present configuration is shown as not yet run.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

from absl import flags

from experiments import command_line
from experiments.files.paths import expand_user
from experiments.messages.console import CONSOLE
from experiments.messages.errors import SettingsError

_RUNS = flags.DEFINE_string("runs", "runs/papers", "Folder of the run folders.")
_RECORDS = flags.DEFINE_string("records", "docs/results", "Folder of the records.")
_PAGE = flags.DEFINE_string("page", "docs/results.md", "Page to write.")


def main() -> None:
    from experiments.report.papers import write_page

    runs, kept, page = (expand_user(flag.value) for flag in (_RUNS, _RECORDS, _PAGE))
    if _RUNS.present and not runs.is_dir():
        remedy = "Give the folder of the run folders, or leave the flag out"
        raise SettingsError.of("--runs", str(runs), "it is no folder", remedy)
    if _RECORDS.present and not kept.is_dir():
        remedy = f"Make it, or leave the flag out to use {_RECORDS.default}"
        raise SettingsError.of("--records", str(kept), "it is no folder", remedy)
    if not _PAGE.value:
        remedy = f"Name a file, or leave the flag out for {_PAGE.default}"
        raise SettingsError.of("--page", "", "it names no file", remedy)
    CONSOLE.print(write_page(runs, kept, page))


if __name__ == "__main__":
    command_line.define_parts_flag()
    command_line.run(main)
