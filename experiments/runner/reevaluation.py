"""Evaluates finished runs again: more samples, a fitted prior, bounds on log p(x)."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation import diagnosis
from experiments.evaluation.columns import RESULTS
from experiments.evaluation.results import mean_with_error, result_row, sandwich_columns
from experiments.evaluation.status import FAILED
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import FolderError, SettingsError
from experiments.messages.wording import counted
from experiments.runner.images import Images
from experiments.runner.measuring import evaluate_member
from experiments.runner.task import GroupTask, build_model
from experiments.runs.folder import RunFolder
from experiments.settings.grid import Run, group
from experiments.settings.options import fitted_prior_options
from experiments.settings.values import prefixed
from vae_jax import views
from vae_jax.checks import require_known
from vae_jax.evidence import measure_sandwich
from vae_jax.fitted_prior import FITTABLE, fit_prior, require_own_prior
from vae_jax.measure import Evaluation
from vae_jax.model import VAE, Params, num_parameters
from vae_jax.population import member, pad, param_shapes
from vae_jax.priors import make_prior
from vae_jax.training import Member, MemberKeys

# Children of a member's key for diagnoses, beside those of ``measure_latent_use``.
_FIT_KEY, _SANDWICH_KEY = 3, 4

# Models that differ in a seed or in beta are equal, and share a compiled program.
_evaluate = jax.jit(evaluate_member, static_argnums=(0, 1))
_measure_sandwich = jax.jit(
    measure_sandwich,
    static_argnums=0,
    static_argnames=("num_samples", "num_temperatures", "num_chains", "gap_steps"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """A finished run, evaluated again.

    Attributes:
        run: the run, with the number of samples asked for.
        model: its model.
        params: its parameters, not padded.
        member: its key and latent mask, not padded.
        images: the data set.
        trained: its row of training.
        floor: -log p(x) of the test images without latents, nats, ``[M]``.
        evaluation: arrays over the test images.
    """

    run: Run
    model: VAE
    params: Params
    member: Member
    images: Images
    trained: Mapping[str, Any]
    floor: np.ndarray
    evaluation: Evaluation

    def row(self) -> dict[str, Any]:
        """Returns its row; columns that are not measured again keep their values."""
        data, trained = self.images.data, self.trained
        kept = {name: trained[name] for name in ("last_gain", "epochs")}
        row = result_row(
            self.run, self.model, data, self.evaluation, floor=self.floor, **kept
        )
        if trained["status"] == FAILED and np.isnan(self.floor).any():
            row["status"] = FAILED  # It cannot be compared with the baseline again.
        # Images of a user are named after their path, which may be another one here.
        row = {**trained, **row, "dataset": trained["dataset"]}
        return row | diagnosis.judged(row, self.model.latent_dim)

    def fitted_row(self, prior: str, num_steps: int) -> dict[str, Any]:
        """Returns its row under a fitted prior, evaluated with the same keys.

        Args:
            prior: name of the prior.
            num_steps: steps of Adam that fit it.
        """
        settings, sizes = self.run.settings, (self.model.latent_dim,)
        options = fitted_prior_options(settings.model, prior)
        model, params = fit_prior(
            self.model,
            self.params,
            make_prior(prior, sizes, **options),
            self._key(_FIT_KEY),
            self._view(views.TRAIN),
            num_steps=num_steps,
            batch_size=500,
            learning_rate=1e-2,
        )
        test = self._view(views.TEST), self.images.of(self.model).test
        evaluation = _evaluate(model, settings.evaluation, params, self.member, *test)
        facts = {
            **self.trained,
            **{column.name: math.nan for column in RESULTS if column.prior},
            "num_parameters": num_parameters(params),
        }
        fitted = dataclasses.replace(
            self, model=model, params=params, trained=facts, evaluation=evaluation
        )
        gain = evaluation.estimate.elbo - self.evaluation.estimate.elbo
        return {
            **fitted.row(),
            "run": f"{self.run.name},fitted_prior={prior}",
            "fit_steps": num_steps,
            **mean_with_error("elbo_gain", gain),
        }

    def sandwich_row(
        self, num_images: int, gap_steps: int, **annealing: int
    ) -> dict[str, Any]:
        """Returns its bounds on log p(x), and the gap of its ELBO in two parts.

        Args:
            num_images: the first test images, so many.
            gap_steps: steps of the search for each image's best q.
            **annealing: ``num_temperatures`` and ``num_chains``.
        """
        num_samples = self.run.settings.evaluation.num_samples
        measured = _measure_sandwich(
            self.model,
            self.params,
            self._key(_SANDWICH_KEY),
            self._view(views.TEST)[:num_images],
            num_samples=num_samples,
            gap_steps=gap_steps,
            **annealing,
        )
        return {
            "run": self.run.name,
            "fingerprint": self.trained["fingerprint"],
            "view": self.model.likelihood.view,
            "num_importance_samples": num_samples,
            **annealing,
            **sandwich_columns(measured),
        }

    def _key(self, index: int) -> jax.Array:
        return jax.random.fold_in(MemberKeys.of(self.member.key).diagnose, index)

    def _view(self, which: int) -> jax.Array:
        return self.images.of(self.model).view(self.model.likelihood.view, which)


def evaluate(
    folder: RunFolder,
    trained: Mapping[Run, Mapping[str, Any]],
    images: Images,
    left_out: list[str],
) -> Iterator[list[Evaluated]]:
    """Yields the evaluated runs of each group.

    Args:
        folder: the run folder.
        trained: the rows of training of the runs (``loading.trained_runs``).
        images: the data set.
        left_out: gets a line for each run whose parameters cannot be read.
    """
    attempts = {run.name: row["attempt"] for run, row in trained.items()}
    groups = group(trained, attempts)
    for number, each in enumerate(groups, 1):
        params = {}
        for run in each.runs:
            shapes = param_shapes(build_model(run.settings, images.data))
            try:
                params[run] = folder.members.params(run.name, shapes)
            except FolderError as error:
                left_out.append(str(error))
        if not params:
            continue
        task = GroupTask(dataclasses.replace(each, runs=tuple(params)), images)
        evaluation = _evaluate_group(task, list(params.values()))
        yield [
            Evaluated(
                run,
                model,
                params[run],
                member(task.population.members, i)._replace(
                    latent_mask=jnp.ones(model.latent_dim)
                ),
                images,
                trained[run],
                _floor(folder, run.name, len(images.test)),
                member(evaluation, i),
            )
            for i, (run, model) in enumerate(zip(params, task.models, strict=True))
        ]
        CONSOLE.print(
            f"[{number}/{len(groups)}] {each.name}: "
            f"{counted(len(params), 'model')} evaluated"
        )


def _evaluate_group(task: GroupTask, params: Sequence[Params]) -> Evaluation:
    """Evaluates the parameters of each run of a group, not padded, stacked."""
    padded = [pad(own, task.population.shapes) for own in params]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
    stacked = task.placement.pad(stacked)
    function = functools.partial(evaluate_member, task.widest, task.settings.evaluation)
    program = task.compile_on_test_images(function, stacked)
    return task.run_on_test_images(program, stacked)


def _floor(folder: RunFolder, run: str, num_images: int) -> np.ndarray:
    """Returns -log p(x) of the test images without latents; NaN if it is not stored."""
    try:
        floor = folder.members.arrays(run).get("test/floor")
    except FolderError as error:
        warn(str(error))
        floor = None
    if floor is None or floor.shape != (num_images,):
        return np.full(num_images, math.nan)
    return floor


def with_samples(run: Run, num_samples: int) -> Run:
    """Returns the run with another number of importance samples."""
    changed = dataclasses.replace(run.settings.evaluation, num_samples=num_samples)
    settings = dataclasses.replace(run.settings, evaluation=changed)
    return dataclasses.replace(run, settings=settings)


def check_sandwich(num_images: int, runs: Iterable[Run]) -> None:
    """Refuses to bound log p(x) of a chain of latents by annealing.

    Args:
        num_images: the images whose log p(x) is bounded.
        runs: the runs of the models.

    Raises:
        SettingsError: naming the first run of such a model.
    """
    for run in runs:
        if not run.settings.model.example.has_density:
            why = f"{run.name} has a chain of latents, which has no log p(z)"
            remedy = "Leave the run out by --only"
            raise SettingsError.of("--sandwich_images", num_images, why, remedy)


def check_fit(prior: str, runs: Iterable[Run]) -> None:
    """Refuses a prior that cannot be fitted, or a model whose own cannot be replaced.

    Args:
        prior: its name.
        runs: the runs of these models.

    Raises:
        SettingsError: naming the prior, or the first run of such a model.
    """
    with prefixed("--"):
        require_known("fit_prior", prior, FITTABLE)
    for run in runs:
        if run.settings.has_classifier:
            why = f"the class of some training images of {run.name} is not known"
            remedy = "Leave it out, or train with data.labelled_per_class at -1"
            raise SettingsError.of("--fit_prior", prior, why, remedy)
        try:
            require_own_prior(run.settings.model.example.posterior_family)
        except ValueError as error:
            raise SettingsError(f"--fit_prior: {run.name}: {error}") from error
