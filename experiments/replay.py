"""Replays the step in which a run met a value that is not finite.

    python -m experiments.replay --workdir=runs/sweep --run=likelihood=beta,seed=0

The images come from where --data_path, --data_dir and --cache_dir say, as in
experiments.evaluate.

Prints which images, gradients and parameters are not finite. Ends with status 1 where
the step is finite this time, as it may be on another device.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

import sys

from absl import flags

from experiments import command_line
from experiments.messages.console import CONSOLE
from experiments.messages.errors import FolderError, SettingsError

_RUN = flags.DEFINE_string("run", "", "Name of the run.")


def main() -> None:
    from experiments.runner import failures
    from experiments.runs import loading
    from experiments.runs.folder import RunFolder

    folder = RunFolder.open(command_line.workdir())
    replayable = folder.failures.runs()
    remedy = f"No run of {folder.path} met a value that is not finite"
    if replayable:
        remedy = (
            f"Name a run that met a value that is not finite: {' '.join(replayable)}"
        )
    if not _RUN.value:
        raise SettingsError(f"--run is missing: nothing is replayed. {remedy}.")
    places = command_line.places()
    runs = {run.name: run for run in loading.stored_runs(folder, places)}
    if _RUN.value in folder.members.finished() - set(replayable):
        status = folder.members.result(_RUN.value)["status"]
        why = f"it has no step to replay, as its training ended (status: {status})"
        raise SettingsError.of("--run", _RUN.value, why, remedy)
    facts, arrays = folder.failures.load(_RUN.value)
    run = runs[_RUN.value]
    data = loading.stored_images(folder, run, places)
    try:
        reproduced, lines = failures.replay(facts, arrays, run, data)
    except (LookupError, TypeError, ValueError) as error:
        raise FolderError(
            f"{folder.path / 'failures' / run.name} cannot be replayed ({error!r}): it "
            "is damaged, or of another version. Restore it, or use the version that "
            "wrote it."
        ) from error
    CONSOLE.print("\n".join(lines))
    if not reproduced:
        sys.exit(1)


if __name__ == "__main__":
    command_line.define_flags("runs/sweep")
    command_line.define_data_flags()
    command_line.define_parts_flag()
    command_line.run(main)
