"""Tables of results in the terminal."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from experiments.evaluation.status import LOST, by_status
from experiments.messages.console import CONSOLE, warn
from experiments.messages.wording import counted, listed
from experiments.report.differences import Result
from experiments.report.groups import Group, group_members
from experiments.report.members import density, members_of, quantity
from experiments.report.tables import score_table

_DECIMALS = 3
_WIDEST = 1000  # characters of a line


def print_results(
    rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any] | None = None
) -> None:
    """Prints a table of scores for each unit: scores in two units are never compared.

    Args:
        rows: results of runs.
        config: their configuration, if it is known.
    """
    for status, runs in by_status(rows).items():
        warn(
            f"{len(runs)} of {counted(len(rows), 'model')} {status} ({LOST[status]}): "
            f"{listed(runs, ' ')}"
        )
    for group in group_members(members_of(rows, warn, config)):
        _print_whole(_rich_table(dataclasses.replace(group, decimals=_DECIMALS)))


def _print_whole(table: Table) -> None:
    """Prints a table as wide as it is: a narrow terminal wraps it, and cuts nothing."""
    wide = CONSOLE.options.update(max_width=_WIDEST)
    table.width = CONSOLE.measure(table, options=wide).maximum
    CONSOLE.print(table)


def _rich_table(group: Group) -> Table:
    """Returns the table of a group for the terminal."""
    scores = score_table(group, "*")
    table = terminal_table(scores.title, "; ".join(scores.notes))
    for name in scores.rows:
        table.add_column(f"\n{name}", no_wrap=True)
    for i, head in enumerate(scores.heads):
        above = "" if i else scores.columns
        table.add_column(f"{above}\n{head}", justify="right", no_wrap=True)
    for labels, entries in scores.lines:
        numbers = ("*" * is_best + text for text, is_best in entries)
        table.add_row(*labels, *(number.replace("± ", "±") for number in numbers))
    return table


def print_result(result: Result) -> None:
    """Prints the differences of two selections, A and B, and what they say."""
    name = quantity(result.density, is_bound=result.measure == "elbo")
    num_images = result.lines[-1].found.num_images
    table = terminal_table(
        f"{name} of {counted(num_images, 'test image')}, {result.unit}, smaller is "
        "better",
        "± standard error, paired over images and seeds; * clear difference",
    )
    table.add_column("", no_wrap=True)
    for heading in ("A", "B", "B - A", "seeds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in result.lines:
        clear = "*" * bool(line.found.is_clear)
        table.add_row(
            line.setting,
            *(f"{scores.mean():.{_DECIMALS}f}" for scores in line.scores),
            clear + line.found.number(_DECIMALS).replace("± ", "±"),
            str(line.found.num_seeds),
        )
    _print_whole(table)
    CONSOLE.print(result.statement(_DECIMALS))


def terminal_table(title: str, caption: str = "") -> Table:
    """Returns a table without columns and rows, in the style of all commands."""
    return Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )


def print_sandwich(row: Mapping[str, Any], condition_on: str = "") -> None:
    """Prints the losses between a run's ELBO and log p(x), and bounds of log p(x).

    Args:
        row: as in ``sandwich.csv``.
        condition_on: of the run's model; with 'label', the bounds are of log p(x|y).
    """
    table = terminal_table(
        f"{row['run']}, nats per image ({row['view']} view)",
        f"{row['num_images']} images each; HMC acceptance "
        f"{row['acceptance']:.2f}, effective chains "
        f"{row['annealed_effective_sample_size']:.1f} (median)",
    )
    lines = {
        label.format(density=density(condition_on)): name
        for name, label in _SANDWICH_LINES.items()
        if not math.isnan(row[name])
    }
    _add_means(table, lines, row)
    CONSOLE.print(table)


def print_noise_steps(
    rows: Sequence[Mapping[str, Any]], condition_on: Mapping[str, str]
) -> None:
    """Prints bounds of chains of latents by their number of steps, run by run.

    Args:
        rows: as in ``noise_steps.csv``.
        condition_on: of each run's model, as in ``print_sandwich``.
    """
    for _, own in itertools.groupby(rows, key=lambda row: row["run"]):
        lines = list(own)
        table = terminal_table(
            _bound_title(lines[0], condition_on),
            "with the parameters of the trained model; the change is paired over "
            "images, and relative to the steps of training",
        )
        for heading in ("steps", "-ELBO", "s.e.", "change", "s.e."):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in lines:
            names = ("bound", "bound_se", "bound_change", "bound_change_se")
            numbers = (f"{row[name]:.{_DECIMALS}f}" for name in names)
            table.add_row(str(row["noise_steps"] or "∞"), *numbers)
        CONSOLE.print(table)


def print_flow(
    rows: Sequence[Mapping[str, Any]], condition_on: Mapping[str, str]
) -> None:
    """Prints bounds of probability flows beside those of their chains.

    Args:
        rows: as in ``flow.csv``.
        condition_on: of each run's model, as in ``print_sandwich``.
    """
    for row in rows:
        failed = f"; the solver failed for {row['num_failed']}" * bool(
            row["num_failed"]
        )
        table = terminal_table(
            _bound_title(row, condition_on),
            f"{counted(row['num_images'], 'image')}{failed}; "
            f"{row['flow_evaluations']:.0f} evaluations of the denoiser each. The flow "
            "of a learned denoiser is another model than its chain",
        )
        lines = {
            "chain of latents": "bound",
            "probability flow": "flow_bound",
            "flow - chain": "flow_change",
        }
        _add_means(table, lines, row)
        CONSOLE.print(table)


def _bound_title(row: Mapping[str, Any], condition_on: Mapping[str, str]) -> str:
    """Returns the title of a table on the bound of a run."""
    name = quantity(density(condition_on[row["run"]]), is_bound=True)
    return f"{row['run']}: {name} in {row['unit']}, smaller is better"


def _add_means(table: Table, names: Mapping[str, str], row: Mapping[str, Any]) -> None:
    """Adds a line of mean and standard error for each name of a row."""
    table.add_column("", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("s.e.", justify="right", no_wrap=True)
    for words, name in names.items():
        table.add_row(words, *(f"{row[n]:.3f}" for n in (name, f"{name}_se")))


_SANDWICH_LINES = {
    "elbo": "ELBO",
    "amortization_gap": "+ amortization: the encoder's loss",
    "approximation_gap": "+ approximation: the family's loss",
    "annealed_log_px": "= log {density}, annealed from below",
    "importance_log_px": "  log {density}, importance-weighted",
    "last_rise": "rise of the best q's ELBO at the end",
    "simulated_lower": "generated images: from below",
    "simulated_upper": "generated images: from above",
    "simulated_gap": "generated images: above - below",
}
