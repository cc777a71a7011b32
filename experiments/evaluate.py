r"""Evaluates finished runs again, with more importance samples or other measurements.

    python -m experiments.evaluate --workdir=runs/sweep --num_samples=5000
    python -m experiments.evaluate --workdir=runs/sweep --only=likelihood=bernoulli

    python -m experiments.evaluate --workdir=runs/sweep --only=3 --sandwich_images=20
    python -m experiments.evaluate --workdir=runs/sweep --fit_prior=mixture
    python -m experiments.evaluate --workdir=runs/sweep --only=prior=diffusion \
        --noise_steps=4,16,64,0 --flow_images=100
    python -m experiments.evaluate --workdir=theirs --data_path=images.npz

The images come from the places in --data_path, --data_dir and --cache_dir, or from the
default places. Paths, downloads and devices in the folder's configuration are ignored.
Writes ``evaluation.csv`` into the run folder, beside the ``results.csv`` of training.

With --sandwich_images, log p(x) is also bounded by annealing, and its gap to the ELBO
is split in two: ``sandwich.csv``. On images that the model generates, annealing bounds
log p(x) from below and from above, which shows how far it can be trusted. With
--fit_prior, such a prior is fitted to the q(z) of each run's training images, and the
run is evaluated with it; encoder and decoder stay as they are: ``fitted_prior.csv``.

With --noise_steps, chains of latents are evaluated with other numbers of steps than
they were trained with, which share all parameters: ``noise_steps.csv``. With
--flow_images, the bound of the probability flow stands beside that of the chain:
``flow.csv``. The flow of a learned denoiser is another model than its chain.

A row of these tables stays until the same run is evaluated again with the same
settings.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

from typing import Any

from absl import flags

from experiments import command_line
from experiments.evaluation.columns import keys
from experiments.files.tables import add_to_table, read_table
from experiments.messages.console import CONSOLE
from experiments.messages.errors import FolderError

_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", 5000, "Importance samples per test image.", lower_bound=1
)
_ONLY = flags.DEFINE_string(
    "only", "", "Evaluate only these runs, as in experiments.sweep."
)
_SANDWICH_IMAGES = flags.DEFINE_integer(
    "sandwich_images", 0, "Test images to bound log p(x) of.", lower_bound=0
)
_TEMPERATURES = flags.DEFINE_integer(
    "temperatures", 500, "Temperatures of the annealing.", lower_bound=1
)
_CHAINS = flags.DEFINE_integer("chains", 16, "Chains per image.", lower_bound=1)
_GAP_STEPS = flags.DEFINE_integer(
    "gap_steps", 1000, "Steps of the search for each image's best q.", lower_bound=5
)
_FIT_PRIOR = flags.DEFINE_string(
    "fit_prior", None, "Prior to fit to each run's q(z), as in --fit_prior=mixture."
)
_FIT_STEPS = flags.DEFINE_integer(
    "fit_steps", 5000, "Steps of Adam that fit it.", lower_bound=1
)
_NOISE_STEPS = flags.DEFINE_list(
    "noise_steps", [], "Numbers of steps of chains of latents; 0: infinitely many."
)
_FLOW_IMAGES = flags.DEFINE_integer(
    "flow_images", 0, "Test images for the probability flow of chains.", lower_bound=0
)
_FLOW_TOLERANCE = flags.DEFINE_float(
    "flow_tolerance",
    1e-5,
    "Error of a step of the flow's solver, in nats and in units of the latents.",
    lower_bound=1e-6,
    upper_bound=0.1,
)

_EVALUATION, _FITTED, _SANDWICH = "evaluation.csv", "fitted_prior.csv", "sandwich.csv"
_STEPS, _FLOW = "noise_steps.csv", "flow.csv"


def main() -> None:
    from experiments.report.terminal import (
        print_flow,
        print_noise_steps,
        print_results,
        print_sandwich,
    )
    from experiments.runner import reevaluation
    from experiments.runner.images import Images
    from experiments.runs import loading
    from experiments.runs.folder import RunFolder
    from experiments.settings import grid

    command_line.refuse_idle(("temperatures", "chains", "gap_steps"), "sandwich_images")
    command_line.refuse_idle(("fit_steps",), "fit_prior")
    command_line.refuse_idle(("flow_tolerance",), "flow_images")
    prior, num_images = _FIT_PRIOR.value, _SANDWICH_IMAGES.value
    steps = reevaluation.numbers_of_steps(_NOISE_STEPS.value)
    flow_images = _FLOW_IMAGES.value
    annealing = {"num_temperatures": _TEMPERATURES.value, "num_chains": _CHAINS.value}
    left_out: list[str] = []
    folder = RunFolder.open(command_line.workdir())
    places = command_line.places()
    chosen = grid.choose(loading.stored_runs(folder, places), _ONLY.value)
    trained = {
        reevaluation.with_samples(run, _NUM_SAMPLES.value): row
        for run, row in loading.trained_runs(folder, chosen, left_out).items()
    }
    if prior is not None:
        reevaluation.check_fit(prior, trained)
    reevaluation.check_models(
        trained, sandwich_images=num_images, noise_steps=steps, flow_images=flow_images
    )
    images = Images(loading.stored_images(folder, chosen[0], places))
    asked = {
        _EVALUATION: True,
        _FITTED: prior,
        _SANDWICH: num_images,
        _STEPS: steps,
        _FLOW: flow_images,
    }
    for table in filter(asked.get, asked):  # Refused before any compute.
        read_table(folder.path / table, folder.owners)
    tables: dict[str, list[dict[str, Any]]] = {}

    def add(table: str, rows: list[dict[str, Any]]) -> None:
        with folder.writing():  # At once: rows outlast a kill.
            add_to_table(folder.path / table, rows, keys(table))
        tables.setdefault(table, []).extend(rows)

    looked_at = []
    for evaluated in reevaluation.evaluate(folder, trained, images, left_out):
        add(_EVALUATION, [one.row() for one in evaluated])
        if prior:
            add(_FITTED, [one.fitted_row(prior, _FIT_STEPS.value) for one in evaluated])
        for one in evaluated:
            if steps:
                add(_STEPS, [one.steps_row(number) for number in steps])
            if flow_images:
                add(_FLOW, [one.flow_row(flow_images, _FLOW_TOLERANCE.value)])
        if num_images:
            looked_at += evaluated
    if not tables:
        raise FolderError(left_out[0])
    rows = tables[_EVALUATION] + tables.get(_FITTED, [])
    print_results(rows, folder.config())
    for one in looked_at:
        row = one.sandwich_row(num_images, _GAP_STEPS.value, **annealing)
        add(_SANDWICH, [row])
        print_sandwich(row, one.run.settings.model.condition_on)
    classes = {run.name: run.settings.model.condition_on for run in trained}
    if steps:
        print_noise_steps(tables[_STEPS], classes)
    if flow_images:
        print_flow(tables[_FLOW], classes)
    for table in tables:
        CONSOLE.print(f"numbers: {folder.path / table}")
    command_line.leave_if_left_out(left_out)


if __name__ == "__main__":
    command_line.define_flags("runs/sweep")
    command_line.define_data_flags()
    command_line.define_parts_flag()
    command_line.run(main)
