"""Evaluates finished runs again, with more importance samples or on other settings.

    python -m experiments.evaluate --workdir=runs/sweep --num_samples=5000
    python -m experiments.evaluate --workdir=runs/sweep --only=likelihood=bernoulli

    python -m experiments.evaluate --workdir=runs/sweep --only=3 --sandwich_images=20
    python -m experiments.evaluate --workdir=runs/sweep --fit_prior=mixture

Writes ``evaluation.csv`` into the run folder, beside the ``results.csv`` of training.
With --sandwich_images, log p(x) is also bounded from below by annealing, which is
checked from both sides on images that the model generates, and the ELBO's gap to it
split in two, and ``sandwich.csv`` written. With --fit_prior, each run is also
evaluated with such a prior fitted to its training images' q(z), encoder and decoder as
they are, and ``fitted_prior.csv`` written. A row of these tables stays until the same
run is evaluated again with as many importance samples.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import command_line, diagnosis, grid, sandwich
from experiments.data import ImageData, load_data
from experiments.findings import counted
from experiments.group_task import (
    TEST_VIEW,
    TRAIN_VIEW,
    DeviceData,
    GroupTask,
    build_model,
    member,
)
from experiments.progress import CONSOLE, print_results, print_sandwich, warn
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
    chosen = grid.choose(grid.expand(folder.config()), _ONLY.value)
    trained = {row["run"]: row for row in folder.results([run.name for run in chosen])}
    diverged = [name for name, row in trained.items() if row["status"] == "diverged"]
    runs = [
        _as_evaluated(run)
        for run in chosen
        if run.name in trained and run.name not in diverged
    ]
    if not runs:
        raise FolderError(
            f"{folder.path} holds no finished run of the {len(chosen)} chosen that has "
            "not diverged: train first, with the command in its environment.json."
        )
    _warn_of("diverged", diverged, len(chosen))
    unfinished = [run.name for run in chosen if run.name not in trained]
    _warn_of("not finished", unfinished, len(chosen))
    if _FIT_PRIOR.value:
        _check_fit(runs)
    data = load_data(runs[0].settings.data)
    folder.refuse_other_images(data.fingerprint)
    device_data = DeviceData.put(data)
    attempts = {name: row["attempt"] for name, row in trained.items()}
    rows: list[dict[str, Any]] = []
    fitted_rows: list[dict[str, Any]] = []
    groups = grid.group(runs, attempts)
    for number, group in enumerate(groups, 1):
        num_before = len(rows)
        task = GroupTask(group, data, device_data)
        evaluation = task.evaluate_stored(folder)
        for i, (run, model) in enumerate(zip(group.runs, task.models, strict=True)):
            own, before = member(evaluation, i), trained[run.name]
            row = _row(run, model, data, own, before)
            rows.append(row)
            if _FIT_PRIOR.value:
                keys = MemberKeys.of(task.keys[i])
                fitted, num_parameters = _evaluate_fitted(
                    _FIT_PRIOR.value, folder, run, model, device_data, keys
                )
                facts = {
                    **before,
                    **dict.fromkeys(diagnosis.OF_THE_PRIOR, math.nan),
                    "num_parameters": num_parameters,
                }
                row = {
                    **_row(run, model, data, fitted, facts),
                    "run": f"{run.name},fitted_prior={_FIT_PRIOR.value}",
                    **mean_with_error("elbo_gain", _elbo(fitted) - _elbo(own)),
                }
                fitted_rows.append(row)
        # At once: what was measured outlasts a kill.
        folder.add_to_table("evaluation.csv", rows[num_before:])
        if _FIT_PRIOR.value:
            folder.add_to_table("fitted_prior.csv", fitted_rows[num_before:])
        CONSOLE.print(
            f"[{number}/{len(groups)}] {group.name}: "
            f"{counted(len(group.runs), 'model')} evaluated"
        )
    print_results(rows + fitted_rows)
    print(f"numbers: {folder.path / 'evaluation.csv'}")
    if _FIT_PRIOR.value:
        print(f"numbers: {folder.path / 'fitted_prior.csv'}")
    if _SANDWICH_IMAGES.value:
        for run in runs:
            row = _sandwich(folder, run, data, device_data)
            folder.add_to_table("sandwich.csv", [row])
            print_sandwich(row)
        print(f"numbers: {folder.path / 'sandwich.csv'}")


def _row(
    run: grid.Run,
    model: VAE,
    data: ImageData,
    evaluation: Evaluation,
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """A run's row, with what this evaluation does not measure as it was before."""
    gain = before["last_gain"]
    row = {**before, **result_row(run, model, data, evaluation, last_gain=gain)}
    return row | diagnosis.judged(row, model.latent_dim)


def _warn_of(what: str, runs: Sequence[str], num_chosen: int) -> None:
    """Says which of the chosen runs are left out."""
    if runs:
        more = f" and {len(runs) - 5} more" if runs[5:] else ""
        warn(
            f"{len(runs)} of {counted(num_chosen, 'chosen run')} left out, as they are "
            f"{what}: {' '.join(runs[:5])}{more}."
        )


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
) -> tuple[Evaluation, int]:
    """The run's evaluation, with the keys of its own, under a prior that is fitted.

    Returns:
        The evaluation, and how many parameters the model has with that prior.
    """
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
    evaluation = jax.jit(program)(
        params,
        keys.evaluate,
        device_data.view(view, TEST_VIEW),
        device_data.test,
        jnp.ones(model.latent_dim),
    )
    return evaluation, fitted.num_parameters(params)


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
    return {
        "run": run.name,
        "view": model.likelihood.view,
        "num_importance_samples": settings.num_samples,
        "num_temperatures": settings.num_temperatures,
        "num_chains": settings.num_chains,
        **sandwich.columns(measured),
    }


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
