"""Evaluates finished runs again, with more importance samples or on other settings.

    python -m experiments.evaluate --workdir=runs/sweep --num_samples=5000
    python -m experiments.evaluate --workdir=runs/sweep --only=likelihood=bernoulli

Writes ``evaluation.csv`` into the run folder, beside the ``results.csv`` of training.
"""

import dataclasses

from absl import flags

from experiments import command_line, grid, runner
from experiments.data import load_data
from experiments.progress import print_results
from experiments.results import result_row
from experiments.run_folder import FolderError, RunFolder

_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 5000, "Importance samples per test image.", lower_bound=1
)
_ONLY = flags.DEFINE_string(
    "only", "", "Evaluate only these runs, as in experiments.sweep."
)


def main() -> None:
    folder = RunFolder.open(command_line.workdir())
    finished = folder.finished()
    chosen = grid.choose(grid.expand(folder.config()), _ONLY.value)
    runs = [_with_samples(run) for run in chosen if run.name in finished]
    if not runs:
        raise FolderError(
            f"{folder.path} holds no finished run of the {len(chosen)} chosen: train "
            "first, with the command in its environment.json."
        )
    data = load_data(runs[0].settings.data)
    device_data = runner.DeviceData.put(data)
    rows = []
    for group in grid.group(runs):
        task = runner.GroupTask(group, data, device_data)
        evaluation = task.evaluate_stored(folder)
        trained = folder.results([run.name for run in group.runs])
        rows += [
            {
                **row,
                **result_row(
                    run,
                    model,
                    data,
                    runner.member(evaluation, i),
                    last_gain=row["last_gain"],
                ),
            }
            for i, (row, run, model) in enumerate(
                zip(trained, group.runs, task.models, strict=True)
            )
        ]
    print_results(rows)
    print(f"numbers: {folder.write_table('evaluation.csv', rows)}")


def _with_samples(run: grid.Run) -> grid.Run:
    evaluation = dataclasses.replace(
        run.settings.evaluation, num_samples=_NUM_SAMPLES.value
    )
    settings = dataclasses.replace(run.settings, evaluation=evaluation)
    return dataclasses.replace(run, settings=settings)


if __name__ == "__main__":
    command_line.define_flags("runs/sweep")
    command_line.run(main)
