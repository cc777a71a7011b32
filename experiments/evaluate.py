"""Evaluates finished runs again, with more importance samples or on other settings.

    python -m experiments.evaluate --workdir=runs/sweep --num_samples=5000
    python -m experiments.evaluate --workdir=runs/sweep --only=likelihood=bernoulli

    python -m experiments.evaluate --workdir=runs/sweep --only=3 --sandwich_images=20
    python -m experiments.evaluate --workdir=runs/sweep --fit_prior=mixture
    python -m experiments.evaluate --workdir=theirs --data_path=images.npz

The images come from where --data_path, --data_dir and --cache_dir say, or from the
default places; what the folder says of paths, downloads and devices is not obeyed.
Writes ``evaluation.csv`` into the run folder, beside the ``results.csv`` of training.
With --sandwich_images, log p(x) is also bounded from below by annealing, which is
checked from both sides on images that the model generates, and the ELBO's gap to it
split in two, and ``sandwich.csv`` written. With --fit_prior, each run is also
evaluated with such a prior fitted to its training images' q(z), encoder and decoder as
they are, and ``fitted_prior.csv`` written. A row of these tables stays until the same
run is evaluated again with the same settings.
"""

from experiments import guard  # noqa: F401  It listens while the rest is imported.

# isort: split

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import command_line
from experiments.data.images import ImageData
from experiments.evaluation import diagnosis
from experiments.evaluation.results import mean_with_error, result_row, sandwich_columns
from experiments.evaluation.status import DIVERGED, FAILED
from experiments.files.tables import add_to_table, read_table
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import FolderError, SettingsError
from experiments.messages.wording import counted, listed
from experiments.report.terminal import print_results, print_sandwich
from experiments.runner.task import DeviceData, GroupTask, build_model
from experiments.runs.folder import RunFolder
from experiments.settings import grid
from experiments.settings.options import fitted_prior_options
from vae_jax import views
from vae_jax.evidence import measure_sandwich
from vae_jax.fitted_prior import FITTABLE, fit_prior, require_own_prior
from vae_jax.measure import Evaluation, evaluate
from vae_jax.model import VAE, Params
from vae_jax.population import member, param_shapes
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

# Children of a member's key for diagnoses, beside those of ``measure_latent_use``.
_FIT_KEY, _SANDWICH_KEY = 3, 4

# What says of a row what it measured: only such another replaces it.
_IDENTITY = {
    "evaluation.csv": ("run", "num_importance_samples"),
    "fitted_prior.csv": ("run", "num_importance_samples", "fit_steps"),
    "sandwich.csv": (
        "run",
        "num_images",
        "num_importance_samples",
        "num_temperatures",
        "num_chains",
        "gap_steps",
    ),
}

# Models that differ in a seed or in beta are equal, and share what was compiled.
_evaluate = jax.jit(
    evaluate, static_argnums=0, static_argnames=("num_samples", "chunk", "batch_size")
)
_measure_sandwich = jax.jit(
    measure_sandwich,
    static_argnums=0,
    static_argnames=("num_samples", "num_temperatures", "num_chains", "gap_steps"),
)


class _Evaluated(NamedTuple):
    """A run with what was measured of it."""

    run: grid.Run
    model: VAE
    keys: MemberKeys
    trained: Mapping[str, Any]  # its row of training
    evaluation: Evaluation
    params: Params
    floor: np.ndarray  # -log p(x) of the test images without latents, nats, [M]


def main() -> None:
    command_line.refuse_idle(("temperatures", "chains", "gap_steps"), "sandwich_images")
    command_line.refuse_idle(("fit_steps",), "fit_prior")
    folder = RunFolder.open(command_line.workdir())
    left_out: list[str] = []
    runs, trained = _chosen(folder, left_out)
    if _FIT_PRIOR.value:
        _check_fit(runs)
    data = command_line.stored_images(folder, runs[0])
    device_data = DeviceData(data)
    groups = grid.group(runs, {name: row["attempt"] for name, row in trained.items()})
    tables: dict[str, list[dict[str, Any]]] = {}
    asked = {
        "evaluation.csv": True,
        "fitted_prior.csv": _FIT_PRIOR.value,
        "sandwich.csv": _SANDWICH_IMAGES.value,
    }
    for table in filter(asked.get, asked):  # Refused before anything is computed.
        read_table(folder.path / table, folder.owners)
    looked_at: list[_Evaluated] = []

    def add(table: str, rows: list[dict[str, Any]]) -> None:
        # At once: what was measured outlasts a kill.
        with folder.writing():
            add_to_table(folder.path / table, rows, _IDENTITY[table])
        tables.setdefault(table, []).extend(rows)

    for number, group in enumerate(groups, 1):
        evaluated = _evaluate_group(group, trained, folder, data, device_data, left_out)
        if not evaluated:
            continue
        add("evaluation.csv", [_row(one, data) for one in evaluated])
        CONSOLE.print(
            f"[{number}/{len(groups)}] {group.name}: "
            f"{counted(len(evaluated), 'model')} evaluated"
        )
        if prior := _FIT_PRIOR.value:
            add(
                "fitted_prior.csv",
                [_fitted_row(prior, one, data, device_data) for one in evaluated],
            )
        if _SANDWICH_IMAGES.value:
            looked_at += evaluated
    if not tables:
        raise FolderError(left_out[0])
    print_results(tables["evaluation.csv"] + tables.get("fitted_prior.csv", []))
    for one in looked_at:
        row = _sandwich_row(one, device_data)
        add("sandwich.csv", [row])
        print_sandwich(row)
    for table in tables:
        CONSOLE.print(f"numbers: {folder.path / table}")
    command_line.leave_if_left_out(left_out)


def _chosen(
    folder: RunFolder, left_out: list[str]
) -> tuple[list[grid.Run], dict[str, dict[str, Any]]]:
    """The runs to evaluate, as they are evaluated, and their rows of training.

    Lines on runs that cannot be read are appended to ``left_out``.

    Raises:
        FolderError: there are none.
    """
    chosen = grid.choose(command_line.stored_runs(folder), _ONLY.value)
    rows = folder.members.results([run.name for run in chosen], left_out.append)
    trained = {row["run"]: row for row in rows}
    diverged = [name for name, row in trained.items() if row["status"] == DIVERGED]
    runs = [
        _as_evaluated(run)
        for run in chosen
        if run.name in trained and run.name not in diverged
    ]
    if not runs and left_out:
        raise FolderError(left_out[0])
    if not runs:
        raise FolderError(
            f"{folder.path} holds no finished run of the {len(chosen)} chosen that has "
            "not diverged: train first, with the command in its environment.json."
        )
    _warn_of(DIVERGED, diverged, len(chosen))
    finished = folder.members.finished()
    unfinished = [run.name for run in chosen if run.name not in finished]
    _warn_of("not finished", unfinished, len(chosen))
    return runs, trained


def _evaluate_group(
    group: grid.Group,
    trained: Mapping[str, Mapping[str, Any]],
    folder: RunFolder,
    data: ImageData,
    device_data: DeviceData,
    left_out: list[str],
) -> list[_Evaluated]:
    """Evaluates those runs of a group whose parameters can be read."""
    params, floors = {}, {}
    for run in group.runs:
        shapes = param_shapes(build_model(run.settings, data))
        try:
            params[run] = folder.members.params(run.name, shapes)
            floors[run] = _floor(folder, run.name, len(data.test.images))
        except FolderError as error:
            left_out.append(str(error))
    if not params:
        return []
    group = dataclasses.replace(group, runs=tuple(params))
    task = GroupTask(group, data, device_data)
    evaluation = task.evaluate_params(list(params.values()))
    return [
        _Evaluated(
            run,
            model,
            MemberKeys.of(key),
            trained[run.name],
            member(evaluation, i),
            params[run],
            floors[run],
        )
        for i, (run, model, key) in enumerate(
            zip(group.runs, task.models, task.population.keys, strict=True)
        )
    ]


def _floor(folder: RunFolder, run: str, num_images: int) -> np.ndarray:
    """What a run's test images reach without latents, NaN where it is not stored."""
    try:
        floor = folder.members.arrays(run).get("test/floor")
    except FolderError as error:
        warn(str(error))
        floor = None
    if floor is None or floor.shape != (num_images,):
        return np.full(num_images, math.nan)
    return floor


def _row(one: _Evaluated, data: ImageData) -> dict[str, Any]:
    """A run's row, with what this evaluation does not measure as it was before."""
    kept = {name: one.trained[name] for name in ("last_gain", "epochs")}
    row = result_row(one.run, one.model, data, one.evaluation, floor=one.floor, **kept)
    if one.trained["status"] == FAILED and np.isnan(one.floor).any():
        row["status"] = FAILED  # By what cannot be compared again.
    # Images of one's own are called after their path, which may be another here.
    row = {**one.trained, **row, "dataset": one.trained["dataset"]}
    return row | diagnosis.judged(row, one.model.latent_dim)


def _warn_of(what: str, runs: Sequence[str], num_chosen: int) -> None:
    """Says which of the chosen runs are left out."""
    if runs:
        warn(
            f"{len(runs)} of {counted(num_chosen, 'chosen run')} left out, as they are "
            f"{what}: {listed(runs, ' ')}."
        )


def _check_fit(runs: Sequence[grid.Run]) -> None:
    """Refuses models whose prior is not theirs alone, before any is evaluated."""
    for run in runs:
        model = run.settings.model.build(image_shape=(8, 8, 1), levels=2)
        try:
            require_own_prior(model.posterior_family)
        except ValueError as error:
            raise SettingsError(f"--fit_prior: {run.name}: {error}") from error


def _fitted_row(
    prior: str,
    one: _Evaluated,
    data: ImageData,
    device_data: DeviceData,
) -> dict[str, Any]:
    """A run's row under a prior that is fitted, evaluated with the keys of its own."""
    chosen, options = one.run.settings.model, one.run.settings.evaluation
    view = one.model.likelihood.view
    family = make_prior(
        prior,
        (one.model.latent_dim,),
        **fitted_prior_options(chosen, prior),
    )
    model, params = fit_prior(
        one.model,
        one.params,
        family,
        jax.random.fold_in(one.keys.diagnose, _FIT_KEY),
        device_data.view(view, views.TRAIN),
        num_steps=_FIT_STEPS.value,
        batch_size=_FIT_BATCH,
        learning_rate=_FIT_LEARNING_RATE,
    )
    evaluation = _evaluate(
        model,
        params,
        one.keys.evaluate,
        device_data.view(view, views.TEST),
        device_data.test,
        jnp.ones(model.latent_dim),
        num_samples=options.num_samples,
        chunk=options.chunk,
        batch_size=options.batch_size,
    )
    facts = {
        **one.trained,
        **dict.fromkeys(diagnosis.OF_THE_PRIOR, math.nan),
        "num_parameters": model.num_parameters(params),
    }
    gain = evaluation.estimate.elbo - one.evaluation.estimate.elbo
    fitted = one._replace(model=model, evaluation=evaluation, trained=facts)
    return {
        **_row(fitted, data),
        "run": f"{one.run.name},fitted_prior={prior}",
        "fit_steps": _FIT_STEPS.value,
        **mean_with_error("elbo_gain", gain),
    }


def _sandwich_row(one: _Evaluated, device_data: DeviceData) -> dict[str, Any]:
    annealing = {
        "num_temperatures": _TEMPERATURES.value,
        "num_chains": _CHAINS.value,
    }
    view = one.model.likelihood.view
    measured = _measure_sandwich(
        one.model,
        one.params,
        jax.random.fold_in(one.keys.diagnose, _SANDWICH_KEY),
        device_data.view(view, views.TEST)[: _SANDWICH_IMAGES.value],
        num_samples=_NUM_SAMPLES.value,
        gap_steps=_GAP_STEPS.value,
        **annealing,
    )
    return {
        "run": one.run.name,
        "fingerprint": one.trained["fingerprint"],
        "view": view,
        "num_importance_samples": _NUM_SAMPLES.value,
        **annealing,
        **sandwich_columns(measured),
    }


def _as_evaluated(run: grid.Run) -> grid.Run:
    """With the samples asked for."""
    settings = run.settings
    settings = dataclasses.replace(
        settings,
        evaluation=dataclasses.replace(
            settings.evaluation, num_samples=_NUM_SAMPLES.value
        ),
    )
    return dataclasses.replace(run, settings=settings)


if __name__ == "__main__":
    command_line.define_flags("runs/sweep")
    command_line.define_data_flags()
    command_line.define_parts_flag()
    command_line.run(main)
