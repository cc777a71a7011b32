"""The main job: one command sweeps likelihoods and latent sizes and shows what it found.

    python -m experiments.sweep                      # the digits, a few minutes
    python -m experiments.sweep --list
    python -m experiments.sweep --config=configs/mnist.py --workdir=runs/mnist
    python -m experiments.sweep --config.sweep.likelihood=bernoulli,laplace \
        --config.sweep.latent_dim="(2, 32)" --workdir=runs/two

The same command on the same folder continues; finished runs are not trained again.
"""

from absl import flags

from experiments import command_line, grid, runner
from experiments.data import load_data
from experiments.progress import Progress, print_results
from experiments.report import write_report
from experiments.run_folder import RunFolder

_LIST = flags.DEFINE_bool("list", False, "List the runs of the sweep and end.")
_ONLY = flags.DEFINE_string(
    "only",
    "",
    "Train only these: indices, ranges or parts of names, as in '0-3 seed=1'.",
)


def main() -> None:
    config = command_line.config()
    runs = grid.expand(config)
    chosen = grid.choose(runs, _ONLY.value)
    if _LIST.value:
        for index, run in enumerate(runs):
            if run in chosen:
                print(f"{index:4d}  {run.name}")
        return
    train_and_report(config, runs, chosen)


def train_and_report(config, runs, chosen) -> None:
    """Trains the chosen runs of a configuration and reports on all that are finished.

    Args:
        config: the configuration, which the folder is bound to.
        runs: every run of it.
        chosen: those to train now.
    """
    console = command_line.CONSOLE
    data = load_data(runs[0].settings.data)
    runner.check(chosen, data)
    folder = RunFolder.create(command_line.workdir(), config)
    finished = folder.finished()
    groups = grid.group([run for run in chosen if run.name not in finished])
    waiting = sum(len(group.runs) for group in groups)
    console.print(data.describe(), highlight=False)
    console.print(
        f"{len(chosen)} runs, {len(chosen) - waiting} finished before; "
        f"{waiting} to train in {len(groups)} programs -> {folder.path}",
        highlight=False,
    )
    if groups:
        with Progress(groups, console) as progress:
            runner.run_groups(groups, data, folder, progress)
    rows = folder.results([run.name for run in runs])
    table = folder.write_table("results.csv", rows)
    print_results(console, rows)
    report = write_report(folder.path)
    console.print(f"numbers: {table}\nreport:  {report}", highlight=False)


if __name__ == "__main__":
    command_line.define_flags("runs/sweep", "configs/digits.py")
    command_line.run(main)
