"""Evaluates finished runs again, with more importance samples or on other settings.

    python -m experiments.evaluate --workdir=runs/sweep --num_samples=5000
    python -m experiments.evaluate --workdir=runs/sweep --only=likelihood=bernoulli

    python -m experiments.evaluate --workdir=runs/sweep --only=3 --sandwich_images=20

Writes ``evaluation.csv`` into the run folder, beside the ``results.csv`` of training.
With --sandwich_images, log p(x) is also put between annealed bounds and the ELBO's gap
to it split in two, and ``sandwich.csv`` written.
"""

import dataclasses
import functools
from typing import Any

import jax
from absl import flags

from experiments import command_line, grid, sandwich
from experiments.data import ImageData, load_data
from experiments.group_task import (
    TEST_VIEW,
    DeviceData,
    GroupTask,
    build_model,
    member,
)
from experiments.progress import print_results, print_sandwich
from experiments.results import result_row
from experiments.run_folder import FolderError, RunFolder
from experiments.sandwich import SandwichSettings

_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 5000, "Importance samples per test image.", lower_bound=1
)
_ONLY = flags.DEFINE_string(
    "only", "", "Evaluate only these runs, as in experiments.sweep."
)
_SANDWICH_IMAGES = flags.DEFINE_integer(
    "sandwich_images", 0, "Test images to look at closely.", lower_bound=0
)
_TEMPERATURES = flags.DEFINE_integer(
    "temperatures", 500, "Temperatures of the annealing.", lower_bound=1
)
_CHAINS = flags.DEFINE_integer("chains", 16, "Chains per image.", lower_bound=1)
_GAP_STEPS = flags.DEFINE_integer(
    "gap_steps", 1000, "Steps of the search for each image's best q.", lower_bound=5
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
    device_data = DeviceData.put(data)
    rows = []
    for group in grid.group(runs):
        task = GroupTask(group, data, device_data)
        evaluation = task.evaluate_stored(folder)
        trained = folder.results([run.name for run in group.runs])
        rows += [
            {
                **row,
                **result_row(
                    run,
                    model,
                    data,
                    member(evaluation, i),
                    last_gain=row["last_gain"],
                ),
            }
            for i, (row, run, model) in enumerate(
                zip(trained, group.runs, task.models, strict=True)
            )
        ]
    print_results(rows)
    print(f"numbers: {folder.write_table('evaluation.csv', rows)}")
    if _SANDWICH_IMAGES.value:
        rows = [_sandwich(folder, run, data, device_data) for run in runs]
        print_sandwich(rows)
        print(f"numbers: {folder.write_table('sandwich.csv', rows)}")


def _sandwich(
    folder: RunFolder, run: grid.Run, data: ImageData, device_data: DeviceData
) -> dict[str, Any]:
    model = build_model(run.settings, data)
    settings = SandwichSettings(
        num_images=_SANDWICH_IMAGES.value,
        num_samples=_NUM_SAMPLES.value,
        num_temperatures=_TEMPERATURES.value,
        num_chains=_CHAINS.value,
        gap_steps=_GAP_STEPS.value,
    )
    measured = jax.jit(functools.partial(sandwich.measure, settings, model))(
        folder.load_params(run.name),
        jax.random.key(run.settings.seed),
        device_data.view(model.likelihood.view, TEST_VIEW),
    )
    return {"run": run.name, "view": model.likelihood.view} | sandwich.columns(measured)


def _with_samples(run: grid.Run) -> grid.Run:
    evaluation = dataclasses.replace(
        run.settings.evaluation, num_samples=_NUM_SAMPLES.value
    )
    settings = dataclasses.replace(run.settings, evaluation=evaluation)
    return dataclasses.replace(run, settings=settings)


if __name__ == "__main__":
    command_line.define_flags("runs/sweep")
    command_line.run(main)
