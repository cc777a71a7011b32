"""Evaluates finished runs again: more samples, other steps, other bounds, a prior."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation import diagnosis
from experiments.evaluation.results import (
    chain_columns,
    mean_with_error,
    result_row,
    sandwich_columns,
)
from experiments.evaluation.status import FAILED
from experiments.messages.console import CONSOLE, warn
from experiments.messages.errors import FolderError, SettingsError
from experiments.messages.wording import counted
from experiments.runner.images import Images
from experiments.runner.measuring import evaluate_member
from experiments.runner.task import GroupTask, build_model
from experiments.runs.folder import RunFolder
from experiments.settings.grid import Run, group
from experiments.settings.options import fitted_prior_options, same_model
from experiments.settings.values import prefixed
from vae_jax import views
from vae_jax.checks import require_known
from vae_jax.diagnostics import measure_latent_use
from vae_jax.evidence import FlowEstimate, flow_estimate, measure_sandwich
from vae_jax.fitted_prior import FITTABLE, fit_prior, require_own_prior
from vae_jax.measure import Evaluation
from vae_jax.model import VAE, Params, num_parameters
from vae_jax.per_image import map_images
from vae_jax.population import member, pad, param_shapes
from vae_jax.priors import PriorFamily, make_prior
from vae_jax.priors.diffusion import MOST_STEPS, with_steps
from vae_jax.training import Member, MemberKeys

# Children of a member's key for diagnoses, beside those of ``measure_latent_use``.
_FIT_KEY, _SANDWICH_KEY, _FLOW_KEY = 3, 4, 5

# Models that differ in a seed or in beta are equal, and share a compiled program.
_evaluate = jax.jit(evaluate_member, static_argnums=(0, 1))
_measure_latent_use = jax.jit(
    measure_latent_use,
    static_argnums=0,
    static_argnames=("decompose", "num_permutations"),
)
_measure_sandwich = jax.jit(
    measure_sandwich,
    static_argnums=0,
    static_argnames=("num_samples", "num_temperatures", "num_chains", "gap_steps"),
)


@functools.partial(jax.jit, static_argnums=0)
def _measure_flow(
    model: VAE, params: Params, key: jax.Array, x: jax.Array, tolerance: jax.Array
) -> FlowEstimate:
    def one_image(key: jax.Array, x: jax.Array) -> FlowEstimate:
        return flow_estimate(model, params, key, x, tolerance=tolerance)

    return map_images(one_image, key, x, batch_size=100)


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
        family = _prior_to_fit(self.run, prior)
        # A denoiser needs smaller steps than a prior of few parameters: 1e-2 cost 1.4
        # nats on the digits.
        is_chain = not dataclasses.replace(self.model, prior_family=family).has_density
        model, params = fit_prior(
            self.model,
            self.params,
            family,
            self._key(_FIT_KEY),
            self._view(views.TRAIN),
            num_steps=num_steps,
            batch_size=500,
            learning_rate=1e-3 if is_chain else 1e-2,
        )
        test = self._view(views.TEST), self.images.of(self.model).test
        options = self.run.settings.evaluation
        evaluation = _evaluate(model, options, params, self.member, *test)
        facts = {**self.trained, "num_parameters": num_parameters(params)}
        fitted = dataclasses.replace(
            self, model=model, params=params, trained=facts, evaluation=evaluation
        )
        gain = evaluation.estimate.elbo - self.evaluation.estimate.elbo
        return {
            **fitted.diagnosed_row(),
            "run": f"{self.run.name},fitted_prior={prior}",
            "fit_steps": num_steps,
            **mean_with_error("elbo_gain", gain),
        }

    def diagnosed_row(self) -> dict[str, Any]:
        """Returns its row, its latents measured again: the prior is another one."""
        asked, row = self.run.settings.diagnostics, self.row()
        use = _measure_latent_use(
            self.model,
            self.params,
            MemberKeys.of(self.member.key).diagnose,
            self._view(views.TEST),
            self.member.latent_mask,
            decompose=asked.latents,
            num_permutations=asked.permutations,
        )
        return row | diagnosis.measured(
            asked,
            use,
            row,
            np.asarray(self.evaluation.posterior_mean),
            self.images.data.test.labels,
            floor=row["floor"],
            latent_dim=self.model.latent_dim,
        )

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
            **self._keys_of_row(),
            "num_importance_samples": num_samples,
            **annealing,
            **sandwich_columns(measured),
        }

    def steps_row(self, noise_steps: int) -> dict[str, Any]:
        """Returns the bound with another number of steps, evaluated with the same keys.

        Args:
            noise_steps: T; 0 for infinitely many.
        """
        params = with_steps(self.params, noise_steps)
        test = self._view(views.TEST), self.images.of(self.model).test
        # p(y|x) is not in the row, and costs far more than the bound.
        options = dataclasses.replace(self.run.settings.evaluation, class_samples=0)
        estimate = _evaluate(self.model, options, params, self.member, *test).estimate
        bounds = self._scores(estimate.elbo)
        change = bounds - self._scores(self.evaluation.estimate.elbo)
        return {
            **self._keys_of_row(),
            **self._bound(bounds),
            "num_importance_samples": options.num_samples,
            **chain_columns(estimate.chain),
            "noise_steps": noise_steps,
            **mean_with_error("bound_change", change),
        }

    def flow_row(self, num_images: int, tolerance: float) -> dict[str, Any]:
        """Returns the bound of the probability flow, beside that of the chain.

        Args:
            num_images: the first test images, so many.
            tolerance: of the solver; see ``flow_log_prob``.
        """
        x = self._view(views.TEST)[:num_images]
        found = _measure_flow(
            self.model, self.params, self._key(_FLOW_KEY), x, tolerance
        )
        flow = self._scores(found.bound)
        own = self._scores(self.evaluation.estimate.elbo)[:num_images]
        return {
            **self._keys_of_row(),
            **self._bound(own),
            "num_images": len(x),
            "tolerance": tolerance,
            **mean_with_error("flow_bound", flow),
            **mean_with_error("flow_change", flow - own),
            "num_failed": int(np.isnan(found.bound).sum()),
            "flow_evaluations": float(np.mean(found.evaluations)),
        }

    def _keys_of_row(self) -> dict[str, Any]:
        return {
            "run": self.run.name,
            "fingerprint": self.trained["fingerprint"],
            "view": self.model.likelihood.view,
        }

    def _bound(self, scores: np.ndarray) -> dict[str, Any]:
        unit = views.unit(self.model.likelihood.view)
        return {"unit": unit, **mean_with_error("bound", scores)}

    def _scores(self, nats: jax.Array) -> np.ndarray:
        """Returns estimates of log p(x) as scores of the same images."""
        data, view = self.images.data, self.model.likelihood.view
        return np.asarray(views.scores(view, nats, data.num_pixels, data.levels))

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


def _prior_to_fit(run: Run, prior: str) -> PriorFamily:
    """Returns a prior for the latents of a run.

    Options that no part of the run takes are those of other runs, for their latents:
    the prior has its defaults. It is one p(z) of all classes, so none is left out.
    """
    model = same_model(run.settings).model
    options = fitted_prior_options(model, prior)
    if "label_dropout" in options:
        options["label_dropout"] = 0.0
    return make_prior(prior, (model.latent_dim,), **options)


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


def check_models(
    runs: Collection[Run],
    *,
    sandwich_images: int = 0,
    noise_steps: Sequence[int] = (),
    flow_images: int = 0,
) -> None:
    """Refuses a measurement that a model does not allow.

    Args:
        runs: the runs of the models.
        sandwich_images: images whose log p(x) is bounded by annealing; 0: not asked.
        noise_steps: numbers of steps of a chain of latents; none: not asked.
        flow_images: images for the probability flow; 0: not asked.

    Raises:
        SettingsError: naming the measurement and the first run of such a model.
    """
    asked: tuple[tuple[str, Any, Callable[[VAE], bool], str], ...] = (
        (
            "--sandwich_images",
            sandwich_images,
            lambda model: model.has_density,
            "has a chain of latents, which has no log p(z)",
        ),
        (
            "--noise_steps",
            ",".join(map(str, noise_steps)),
            lambda model: not model.has_density,
            "has no chain of latents, whose steps these are",
        ),
        (
            "--flow_images",
            flow_images,
            lambda model: model.is_chain,
            "has no chain from noise to an image, whose flow this is",
        ),
    )
    for option, value, allows, why in asked:
        for run in runs:
            if value and not allows(run.settings.model.example):
                remedy = "Leave the run out by --only"
                raise SettingsError.of(option, value, f"{run.name} {why}", remedy)


def numbers_of_steps(given: Sequence[str]) -> list[int]:
    """Returns numbers of steps as whole numbers, each once.

    Raises:
        SettingsError: a text is no such number.
    """
    for each in given:
        digits = re.fullmatch(r"\d{1,6}", each, re.ASCII)
        if not digits or int(each) > MOST_STEPS:
            why = f"a number of steps is 1 to {MOST_STEPS}, or 0 for infinity"
            remedy = "Give them as in --noise_steps=4,16,64,0"
            raise SettingsError.of("--noise_steps", ",".join(given), why, remedy)
    return list(dict.fromkeys(map(int, given)))


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
            _prior_to_fit(run, prior)
        except ValueError as error:
            raise SettingsError(f"--fit_prior: {run.name}: {error}") from error
