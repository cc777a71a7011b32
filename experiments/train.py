r"""Trains one model: a sweep of a single run, with the same folder and report.

    python -m experiments.train
    python -m experiments.train --config=configs/mnist.py --config.model.latent_dim=32 \
        --config.model.likelihood=discretized_logistic --workdir=runs/logistic

The same command on the same folder continues from its last checkpoint.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

from experiments import command_line
from experiments.messages.errors import SettingsError


def main() -> None:
    from experiments.launch import sweeps
    from experiments.settings import grid

    given = command_line.given_config()
    for field in given.overridden:
        if field.startswith("sweep."):
            raise SettingsError(
                f"--config.{field} has no effect on one model. Set a field of "
                "config.model or config.training, or use experiments.sweep."
            )
    config = {**given.fields, "sweep": {}}
    runs = grid.expand(config)
    command_line.join_processes()
    command_line.show_what_is_not_obeyed()
    left_out = sweeps.train_and_report(config, runs, runs, command_line.workdir())
    command_line.leave_if_left_out(left_out)


if __name__ == "__main__":
    command_line.define_flags("runs/train", "configs/digits.py")
    command_line.define_distributed_flags()
    command_line.define_parts_flag()
    command_line.run(main)
