"""Evaluates finished runs again, with more importance samples or on other settings.

    python -m experiments.evaluate --workdir=runs/sweep --num_samples=5000
    python -m experiments.evaluate --workdir=runs/sweep --only=likelihood=bernoulli

    python -m experiments.evaluate --workdir=runs/sweep --only=3 --sandwich_images=20
    python -m experiments.evaluate --workdir=runs/sweep --fit_prior=mixture

Writes ``evaluation.csv`` into the run folder, beside the ``results.csv`` of training.
With --sandwich_images, log p(x) is also put between annealed bounds and the ELBO's gap
to it split in two, and ``sandwich.csv`` written. With --fit_prior, each run is also
evaluated with such a prior fitted to its training images' q(z), encoder and decoder as
they are, and ``fitted_prior.csv`` written.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import command_line, grid, sandwich
from experiments.data import ImageData, load_data
from experiments.group_task import (
    TEST_VIEW,
    TRAIN_VIEW,
    DeviceData,
    GroupTask,
    build_model,
    member,
)
from experiments.progress import print_results, print_sandwich
from experiments.results import mean_with_error, result_row
from experiments.run_folder import FolderError, RunFolder
from experiments.sandwich import SandwichSettings
from experiments.settings import SettingsError
from vae_jax.evaluation import Evaluation, evaluate
from vae_jax.fitting import FITTABLE, fit_prior, require_own_prior
from vae_jax.model import VAE
from vae_jax.priors import make_prior
from vae_jax.training import MemberKeys

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
_FIT_PRIOR = flags.DEFINE_enum(
    "fit_prior", None, list(FITTABLE), "Prior to fit to each run's q(z)."
)
_FIT_STEPS = flags.DEFINE_integer(
    "fit_steps", 5000, "Steps of Adam that fit it.", lower_bound=1
)

_FIT_BATCH = 500
_FIT_LEARNING_RATE = 1e-2


def main() -> None:
    command_line.refuse_idle(("temperatures", "chains", "gap_steps"), "sandwich_images")
    command_line.refuse_idle(("fit_steps",), "fit_prior")
    folder = RunFolder.open(command_line.workdir())
    finished = folder.finished()
    chosen = grid.choose(grid.expand(folder.config()), _ONLY.value)
    runs = [_as_evaluated(run) for run in chosen if run.name in finished]
    if not runs:
        raise FolderError(
            f"{folder.path} holds no finished run of the {len(chosen)} chosen: train "
            "first, with the command in its environment.json."
        )
    if _FIT_PRIOR.value:
        _check_fit(runs)
    data = load_data(runs[0].settings.data)
    folder.refuse_other_images(data.fingerprint)
    device_data = DeviceData.put(data)
    trained = {row["run"]: row for row in folder.results([run.name for run in runs])}
    attempts = {name: row["attempt"] for name, row in trained.items()}
    rows, fitted_rows = [], []
    for group in grid.group(runs, attempts):
        task = GroupTask(group, data, device_data)
        evaluation = task.evaluate_stored(folder)
        for i, (run, model) in enumerate(zip(group.runs, task.models, strict=True)):
            own, gain = member(evaluation, i), trained[run.name]["last_gain"]
            row = {
                **trained[run.name],
                **result_row(run, model, data, own, last_gain=gain),
            }
            rows.append(row)
            if _FIT_PRIOR.value:
                keys = MemberKeys.of(task.keys[i])
                fitted = _evaluate_fitted(
                    _FIT_PRIOR.value, folder, run, model, device_data, keys
                )
                fitted_rows.append(
                    {
                        **row,
                        **result_row(run, model, data, fitted, last_gain=gain),
                        "run": f"{run.name},fitted_prior={_FIT_PRIOR.value}",
                        **mean_with_error("elbo_gain", _elbo(fitted) - _elbo(own)),
                    }
                )
    print_results(rows + fitted_rows)
    print(f"numbers: {folder.write_table('evaluation.csv', rows)}")
    if fitted_rows:
        print(f"numbers: {folder.write_table('fitted_prior.csv', fitted_rows)}")
    if _SANDWICH_IMAGES.value:
        rows = [_sandwich(folder, run, data, device_data) for run in runs]
        print_sandwich(rows)
        print(f"numbers: {folder.write_table('sandwich.csv', rows)}")


def _check_fit(runs: Sequence[grid.Run]) -> None:
    """Refuses models whose prior is not theirs alone, before any is evaluated."""
    for run in runs:
        posterior, _ = run.settings.model.families()
        try:
            require_own_prior(posterior)
        except ValueError as error:
            raise SettingsError(f"--fit_prior: {run.name}: {error}") from error


def _evaluate_fitted(
    prior: str,
    folder: RunFolder,
    run: grid.Run,
    model: VAE,
    device_data: DeviceData,
    keys: MemberKeys,
) -> Evaluation:
    """The run's evaluation, with the keys of its own, under a prior that is fitted."""
    chosen, options = run.settings.model, run.settings.evaluation
    view = model.likelihood.view
    family = make_prior(
        prior,
        (model.latent_dim,),
        activation=chosen.activation,
        flow_steps=chosen.flow_steps,
        flow_widths=chosen.flow_widths,
        components=chosen.prior_components,
    )
    fitted, params = fit_prior(
        model,
        folder.load_params(run.name),
        family,
        jax.random.key(run.settings.seed),
        device_data.view(view, TRAIN_VIEW),
        num_steps=_FIT_STEPS.value,
        batch_size=_FIT_BATCH,
        learning_rate=_FIT_LEARNING_RATE,
    )
    program = functools.partial(
        evaluate,
        fitted,
        num_samples=options.num_samples,
        chunk=options.chunk,
        batch_size=options.batch_size,
    )
    return jax.jit(program)(
        params,
        keys.evaluate,
        device_data.view(view, TEST_VIEW),
        device_data.test,
        jnp.ones(model.latent_dim),
    )


def _elbo(evaluation: Evaluation) -> np.ndarray:
    estimate = evaluation.estimate
    return np.asarray(estimate.reconstruction) - np.asarray(estimate.kl)


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


def _as_evaluated(run: grid.Run) -> grid.Run:
    """With the samples asked for, on whatever devices there are."""
    settings = run.settings
    settings = dataclasses.replace(
        settings,
        evaluation=dataclasses.replace(
            settings.evaluation, num_samples=_NUM_SAMPLES.value
        ),
        parallel=dataclasses.replace(settings.parallel, members=0, batch=1),
    )
    return dataclasses.replace(run, settings=settings)


if __name__ == "__main__":
    command_line.define_flags("runs/sweep")
    command_line.run(main)
