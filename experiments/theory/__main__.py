"""Runs the theory: every claim is predicted, measured and judged.

    python -m experiments.theory                 # all programs, with their verdicts
    python -m experiments.theory identity
    python -m experiments.theory --page=docs/theory.md

The programs, in the order of the page: coin, marginalization, identity,
reparameterization, reconstruction, ignoring_encoder, aggregated_posterior, generation;
of part two: noise_chain, diffusion_bound, scores, flows, memorization. Their figures go
to --workdir. With --page, all programs run and print docs/theory.md
and its figures. Ends with status 1 if a claim fails.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

import importlib
import sys
import time
from typing import TYPE_CHECKING

from absl import flags
from rich.table import Table

from experiments import command_line
from experiments.files.paths import expand_user
from experiments.messages.console import CONSOLE
from experiments.messages.errors import SettingsError

if TYPE_CHECKING:
    from experiments.theory.claims import Story

_PAGE = flags.DEFINE_string("page", "", "Page to write, such as docs/theory.md.")


def main(names: list[str]) -> None:
    from experiments.settings.values import prefixed
    from experiments.theory.page import PROGRAMS, write_figures, write_page
    from vae_jax.checks import require_known

    with prefixed("the "):
        for name in names:
            require_known("program", name, PROGRAMS)
    if _PAGE.value and names:
        raise SettingsError("--page needs all programs: give no name.")
    workdir = command_line.workdir()
    stories: dict[str, Story] = {}
    for name in names or PROGRAMS:
        started = time.perf_counter()
        stories[name] = importlib.import_module(f"experiments.theory.{name}").run()
        write_figures(workdir / name, stories[name])
        CONSOLE.print(_table(name, stories[name], time.perf_counter() - started))
    if _PAGE.value:
        write_page(expand_user(_PAGE.value), stories)
    failed = [c for story in stories.values() for c in story.claims if not c.holds]
    count = sum(len(story.claims) for story in stories.values())
    CONSOLE.print(f"{count - len(failed)} of {count} claims hold.")
    CONSOLE.print(f"figures: {workdir}")
    if failed:
        sys.exit(1)


def _table(name: str, story: "Story", seconds: float) -> Table:
    from experiments.report.terminal import terminal_table

    table = terminal_table(f"{name} ({seconds:.0f} s)")
    for header in ("claim", "predicted", "measured", "verdict"):
        table.add_column(header)
    for claim in story.claims:
        verdict = "holds" if claim.holds else "FAILS"
        table.add_row(claim.statement, claim.predicted, claim.measured, verdict)
    return table


if __name__ == "__main__":
    command_line.define_flags("runs/theory")
    command_line.run(main, positional=True)
