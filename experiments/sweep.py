r"""Trains a sweep of models and reports on them: the main command.

    python -m experiments.sweep                      # the digits, a few minutes
    python -m experiments.sweep --list
    python -m experiments.sweep --config=configs/mnist.py --workdir=runs/mnist
    python -m experiments.sweep --config.sweep.likelihood=bernoulli,laplace \
        --config.sweep.latent_dim=2,32 --config.sweep.beta=1.0,4.0 --workdir=runs/two

    python -m experiments.sweep --launcher=slurm --slurm=partition=gpu,gpus_per_node=1

The same command on the same folder continues; finished runs are not trained again.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

import sys
from collections.abc import Iterable
from typing import Any

from absl import flags

from experiments import command_line
from experiments.launch import engines, jobs
from experiments.launch.jobs import Launch
from experiments.messages.errors import SettingsError

_LIST = flags.DEFINE_bool("list", False, "List the runs of the sweep and end.")
_ONLY = flags.DEFINE_string(
    "only",
    "",
    "Train only these runs: indices, ranges or parts of names. Terms separated by "
    "spaces add up, commas within a name mean 'and': '0-3 likelihood=beta,seed=1'.",
)
_LAUNCHER = flags.DEFINE_enum(
    "launcher",
    None,
    ["local", "slurm", "ray"],
    "Train each group of runs in a job of its own: on this machine, on Slurm, or on a "
    "running Ray cluster. Without it, this process trains everything.",
)
_MAX_JOBS = flags.DEFINE_integer(
    "max_jobs",
    None,
    "Jobs at once; by default one on this machine, and all that fit on a cluster.",
    lower_bound=1,
)
_SLICE = flags.DEFINE_integer(
    "slice", 0, "The most runs of a job; 0: whole groups.", lower_bound=0
)
_RETRIES = flags.DEFINE_integer(
    "retries",
    2,
    "How many times in a row a job that ended without getting further is launched "
    "again.",
    lower_bound=0,
)
_REPORT = flags.DEFINE_bool(
    "report",
    True,
    "Write results.csv and the report at the end. --noreport only trains, as jobs do.",
)
_OPTIONS = {
    name: flags.DEFINE_list(
        name, [], f"Resources of a job of {name.capitalize()}: --{name}={example}."
    )
    for name, example in engines.OPTION_EXAMPLES.items()
}


def main() -> None:
    from experiments.settings import grid

    config, overridden, _ = command_line.given_config()
    runs = grid.expand(config)
    _refuse_hidden(config["sweep"], overridden)
    chosen = grid.choose(runs, _ONLY.value)
    if _LIST.value:
        names = {run.name for run in chosen}
        for index, run in enumerate(runs):
            if run.name in names:
                print(f"{index:4d}  {run.name}")
        return
    from experiments.launch import sweeps

    launch, workdir = _launch(), command_line.workdir()
    if not launch:
        command_line.join_processes()
    command_line.show_what_is_not_obeyed()
    left_out = sweeps.train_and_report(
        config, runs, chosen, workdir, launch=launch, reports=_REPORT.value
    )
    command_line.leave_if_left_out(left_out)


def _launch() -> Launch | None:
    """Returns how jobs are launched; None: this process trains.

    Raises:
        LaunchError: the engine is not available, or options exclude each other.
        SettingsError: options of a launcher are given without one.
    """
    engine = _LAUNCHER.value
    command_line.refuse_idle(jobs.LAUNCH_FLAGS, "launcher")
    if not engine:
        return None
    for name in _OPTIONS:
        if _OPTIONS[name].value and name != engine:
            raise engines.LaunchError(
                f"--{name} has no effect with --launcher={engine}. Choose --launcher="
                f"{name}, or leave out --{name}."
            )
    for name in ("distributed", "coordinator", "num_processes", "process_id"):
        if flags.FLAGS[name].present:
            raise engines.LaunchError(
                f"--{name} has no effect with --launcher={engine}: a job is one "
                f"process. Leave out --{name} or --launcher."
            )
    given = _OPTIONS[engine].value if engine in _OPTIONS else []
    options = engines.parse_options(engine, given)
    folder = command_line.workdir().absolute() / "jobs" / "submitit"
    return Launch(
        engines.make_launcher(engine, folder, _MAX_JOBS.value, options),
        _RETRIES.value,
        _SLICE.value,
        tuple(sys.argv[1:]),  # Files of options are expanded.
    )


def _refuse_hidden(sweep: Any, overridden: Iterable[str]) -> None:
    """Refuses a value that has no effect, because each grid sets the same field."""
    grids = sweep if isinstance(sweep, tuple) else [sweep]
    for field in overridden:
        section, _, axis = field.rpartition(".")
        is_axis = section in ("", "model", "training")
        if is_axis and all(axis in grid for grid in grids):
            raise SettingsError(
                f"--config.{field} has no effect: the sweep sets {axis}. Set "
                f"--config.sweep.{axis}, or train one model with experiments.train."
            )


if __name__ == "__main__":
    command_line.define_flags("runs/sweep", "configs/digits.py")
    command_line.define_distributed_flags()
    command_line.define_parts_flag()
    command_line.run(main)
