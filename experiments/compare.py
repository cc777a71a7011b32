r"""Compares two runs or two settings of a sweep, paired over test images and seeds.

    python -m experiments.compare likelihood=laplace likelihood=beta \
        --workdir=runs/sweep
    python -m experiments.compare A B --elbo --output=differences.csv
    python -m experiments.compare model model --workdir=runs/one \
        --other_workdir=runs/two

A and B are runs, chosen as by --only of experiments.sweep: by name, by a part of it, or
by index. Where A has one value on an axis and B another one, the axis is compared. On
all other axes the runs of a pair are equal: the same seed, the same latent size, and so
on. Runs without a partner are named and left out.

Prints the difference of -log p(x), its standard error, and what it says. Writes nothing
without --output.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

from absl import flags

from experiments import command_line
from experiments.files.paths import expand_user
from experiments.files.reading import refuse_other_file
from experiments.files.tables import starts_table, write_table
from experiments.messages.console import CONSOLE
from experiments.messages.errors import SettingsError

_ELBO = flags.DEFINE_bool("elbo", False, "Compare the ELBO in place of log p(x).")
_OTHER = flags.DEFINE_string(
    "other_workdir", "", "Folder of B, if it is not that of A."
)
_OUTPUT = flags.DEFINE_string("output", "", "CSV file to write the differences to.")


def main(selections: list[str]) -> None:
    """Compares the two selections that the command line names."""
    from experiments.report.differences import compare_sides
    from experiments.report.pairs import Side
    from experiments.report.terminal import print_result

    if len(selections) != 2:
        given = " ".join(selections) or "nothing"
        raise SettingsError(
            f"{given} is to be compared: two selections are needed. Name them, as in"
            " `python -m experiments.compare likelihood=laplace likelihood=beta`."
        )
    output = expand_user(_OUTPUT.value) if _OUTPUT.value else None
    if output:
        refuse_other_file(
            output,
            "table",
            lambda start: starts_table(start, ("a", "b", "setting")),
            "--output",
        )
    first = command_line.workdir()
    second = expand_user(_OTHER.value) if _OTHER.value else first
    a, b = (
        Side.open(name, only, folder)
        for name, only, folder in zip("AB", selections, (first, second), strict=True)
    )
    left_out: list[str] = []
    measure = "elbo" if _ELBO.value else "log_px"
    results = compare_sides((a, b), measure, left_out.append)
    for side in (a, b):
        CONSOLE.print(f"{side.name}: {side.words}")
    for result in results:
        print_result(result)
    if output:
        own = {"a": a.words, "b": b.words}
        write_table(output, [own | row for result in results for row in result.rows()])
        CONSOLE.print(f"numbers: {output}")
    command_line.leave_if_left_out(left_out)


if __name__ == "__main__":
    command_line.define_flags("runs/sweep")
    command_line.define_parts_flag()
    command_line.run(main, positional=True)
