"""The main job: sweeps likelihoods and latent sizes, and shows what it found.

    python -m experiments.sweep                      # the digits, a few minutes
    python -m experiments.sweep --list
    python -m experiments.sweep --config=configs/mnist.py --workdir=runs/mnist
    python -m experiments.sweep --config.sweep.likelihood=bernoulli,laplace \
        --config.sweep.latent_dim=2,32 --config.sweep.beta=1.0,4.0 --workdir=runs/two

The same command on the same folder continues; finished runs are not trained again.
"""

from collections.abc import Iterable

from absl import flags

from experiments import command_line, grid, runner
from experiments.settings import SettingsError

_LIST = flags.DEFINE_bool("list", False, "List the runs of the sweep and end.")
_ONLY = flags.DEFINE_string(
    "only",
    "",
    "Train only these: indices, ranges or parts of names, as in '0-3 seed=1'.",
)


def main() -> None:
    config = command_line.config()
    runs = grid.expand(config)
    _refuse_hidden(config["sweep"], command_line.overridden())
    chosen = grid.choose(runs, _ONLY.value)
    if _LIST.value:
        for index, run in enumerate(runs):
            if run in chosen:
                print(f"{index:4d}  {run.name}")
        return
    command_line.join_processes()
    runner.train_and_report(config, runs, chosen, command_line.workdir())


def _refuse_hidden(sweep: Iterable[str], overridden: Iterable[str]) -> None:
    """Refuses a value that would be lost, as the sweep sets the same field."""
    for field in overridden:
        section, _, axis = field.rpartition(".")
        if section in ("", "model", "training") and axis in sweep:
            raise SettingsError(
                f"--config.{field} has no effect, as the sweep sets {axis}: set "
                f"--config.sweep.{axis}, or train one model with experiments.train."
            )


if __name__ == "__main__":
    command_line.define_flags("runs/sweep", "configs/digits.py")
    command_line.define_distributed_flags()
    command_line.run(main)
