"""Trains and evaluates the groups of a sweep; a single model is a sweep of one run."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import pictures
from experiments.data import ImageData, Split, load_data, pixel_statistics
from experiments.grid import Group, Run, group
from experiments.progress import CONSOLE, Progress, print_results
from experiments.report import write_report
from experiments.results import result_row
from experiments.run_folder import RunFolder
from experiments.settings import Settings, SettingsError
from vae_jax import population, training, views
from vae_jax.evaluation import Evaluation, evaluate
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import VAE, Params, make_vae
from vae_jax.training import Member, MemberKeys

# The two draws of views that all runs of all sweeps share: test images are binarized or
# dequantised once, so that every model is scored on the same x.
_VALIDATION_VIEW, _TEST_VIEW = 0, 1

# On a CPU, members of up to so many parameters train faster mapped together than one
# after another (docs/benchmarks.md), larger ones at the same speed or slower.
_MOST_PARAMETERS_MAPPED_ON_CPU = 100_000


def build_model(settings: Settings, data: ImageData) -> VAE:
    """The model that settings describe, for images like these.

    Raises:
        SettingsError: the data cannot give the view that the likelihood is defined on.
    """
    likelihood = make_likelihood(
        settings.model.likelihood, data.levels, **settings.model.likelihood_options()
    )
    if data.levels == 2 and likelihood.view != "binary":
        raise SettingsError(
            f"model.likelihood {settings.model.likelihood!r} needs the "
            f"{likelihood.view} view, but {data.name} holds binary images (2 levels): "
            "choose 'bernoulli', or grey images with binarization 'dynamic'."
        )
    return make_vae(
        likelihood,
        image_shape=data.image_shape,
        latent_dim=settings.model.latent_dim,
        network=settings.model.network,
        widths=settings.model.widths,
        activation=settings.model.activation,
    )


def check(runs: Sequence[Run], data: ImageData) -> None:
    """Refuses what only the data can show to be wrong, before any compute is spent.

    Raises:
        SettingsError: a batch larger than the data, or a view they cannot give.
    """
    num_images = len(data.train.images)
    for run in runs:
        batch_size = run.settings.training.batch_size
        if batch_size > num_images:
            raise SettingsError(
                f"training.batch_size is {batch_size}, but {data.name} has "
                f"{num_images} training images: choose at most {num_images}."
            )
        build_model(run.settings, data)


class DeviceData(NamedTuple):
    """A data set on the device, as small integers."""

    train: jax.Array  # uint8 [N, D]
    validation: jax.Array
    test: jax.Array
    pixel_mean: jax.Array  # of the training intensity, [D]
    pixel_std: jax.Array
    levels: int

    @classmethod
    def put(cls, data: ImageData) -> "DeviceData":
        def flat(split: Split) -> jax.Array:
            return jnp.asarray(split.images.reshape(len(split.images), -1))

        mean, std = pixel_statistics(data)
        return cls(
            flat(data.train),
            flat(data.validation),
            flat(data.test),
            jnp.asarray(mean),
            jnp.asarray(std),
            data.levels,
        )

    def view(self, view: str, which: int) -> jax.Array:
        """The one draw of the validation or test images that all runs are scored on."""
        images = (self.validation, self.test)[which]
        key = jax.random.fold_in(jax.random.key(0), which)
        return views.observe(view, key, images, self.levels)


class Programs(NamedTuple):
    """The compiled programs that train and evaluate a group."""

    init: jax.stages.Compiled  # -> TrainState
    train: jax.stages.Compiled  # -> TrainState, Metrics
    evaluate: jax.stages.Compiled  # -> Evaluation, pictures.Arrays


def _place(program: jax.stages.Compiled, *arguments: Any) -> Any:
    """The arguments where the program wants them: split over devices, or on each."""
    shardings, _ = program.input_shardings
    return jax.device_put(arguments, shardings)


class GroupTask:
    """A group with everything needed to train or evaluate it."""

    def __init__(self, group: Group, data: ImageData, device_data: DeviceData):
        self.group = group
        self.data = data
        self.device_data = device_data
        self.settings = group.widest
        self.models = [build_model(run.settings, data) for run in group.runs]
        self.widest = max(self.models, key=lambda model: model.latent_dim)
        self.shapes = population.param_shapes(self.widest, data.num_pixels)
        self.recipe = self.settings.training.recipe()
        self.members = _members(group.runs, self.widest.latent_dim)
        view = self.widest.likelihood.view
        self.validation_x = device_data.view(view, _VALIDATION_VIEW)
        self.test_x = device_data.view(view, _TEST_VIEW)

    def compile(self) -> Programs:
        """Compiles the group's programs, ahead of their first use."""
        train = functools.partial(
            population.train_active,
            functools.partial(training.train_epochs, self.widest, self.recipe),
        )
        data = self.device_data
        init = population.compile_init(
            self.models, self.recipe, self.members.key, data.pixel_mean, data.pixel_std
        )
        # Shapes alone: where the state lies is for the training program to say.
        state = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), init.out_info
        )
        arguments = (state, self.members, data.train, self.validation_x)
        return Programs(
            init,
            jax.jit(self._over_members(train, self._execution()), donate_argnums=0)
            .lower(*arguments)
            .compile(),
            self.compile_evaluation(state.best_params),
        )

    def compile_evaluation(self, params: Params) -> jax.stages.Compiled:
        """Compiles the evaluation of stacked, padded parameters (or their shapes).

        Members are evaluated one after another: images times importance samples fill
        a device by themselves.
        """
        arguments = (params, self.members, self.test_x, self.device_data.test)
        return (
            jax.jit(self._over_members(self._evaluate_member, "loop"))
            .lower(*arguments)
            .compile()
        )

    def evaluate_stored(self, folder: RunFolder) -> Evaluation:
        """Evaluates the parameters that the group's runs left in a folder."""
        padded = [
            population.pad(folder.load_params(run.name), self.shapes)
            for run in self.group.runs
        ]
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *padded)
        program = self.compile_evaluation(params)
        evaluation, _ = program(
            *_place(program, params, self.members, self.test_x, self.device_data.test)
        )
        return jax.device_get(evaluation)

    def _over_members(
        self, function: Callable[..., Any], execution: str
    ) -> Callable[..., Any]:
        """The function over the group's members, with the data as shared arguments."""
        return population.over_members(
            function, num_shared=2, execution=execution, devices=self._devices()
        )

    def _evaluate_member(self, params, member, test_x, test_images):
        keys = MemberKeys.of(member.key)
        options = self.settings.evaluation
        evaluation = evaluate(
            self.widest,
            params,
            keys.evaluate,
            test_x,
            test_images,
            member.latent_mask,
            num_samples=options.num_samples,
            chunk=options.chunk,
            batch_size=options.batch_size,
        )
        shown = pictures.draw(self.widest, params, keys.pictures, test_x)
        return evaluation, shown

    def _devices(self) -> Sequence[jax.Device]:
        """The devices that the members are split over, of those that may be used."""
        allowed = jax.devices()[: self.settings.parallel.num_devices or None]
        return allowed[: population.most_even(len(allowed), len(self.models))]

    def _execution(self) -> str:
        execution = self.settings.parallel.member_execution
        if execution != "auto":
            return execution
        large = self.widest.num_parameters(self.shapes) > _MOST_PARAMETERS_MAPPED_ON_CPU
        slow = jax.default_backend() == "cpu" and (
            large or self.settings.model.network == "conv"
        )
        return "loop" if slow or len(self.models) == 1 else "map"


def _members(runs: Sequence[Run], widest: int) -> Member:
    """What differs between runs, as stacked arrays."""
    settings = [run.settings for run in runs]
    root = jax.random.key(0)
    seeds = jnp.array([s.seed for s in settings], jnp.uint32)
    return Member(
        key=jax.vmap(jax.random.fold_in, (None, 0))(root, seeds),
        beta=jnp.array([s.training.beta for s in settings], jnp.float32),
        learning_rate=jnp.array([s.training.learning_rate for s in settings]),
        latent_mask=jnp.stack(
            [population.latent_mask(s.model.latent_dim, widest) for s in settings]
        ),
    )


def member(stacked: Any, index: int) -> Any:
    """One member's part of stacked arrays."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def run_groups(
    groups: Sequence[Group], data: ImageData, folder: RunFolder, progress: Progress
) -> None:
    """Trains, evaluates and stores every group, one after another.

    While a group trains, the next one compiles: compilation keeps one core busy, and
    the steps of small networks hardly more than another.
    """
    device_data = DeviceData.put(data)
    tasks = [GroupTask(group, data, device_data) for group in groups]
    with ThreadPoolExecutor(max_workers=1) as compiler:
        for task, programs in _compiled_ahead(tasks, compiler):
            _run(task, programs, folder, progress)


def _compiled_ahead(
    tasks: Sequence[GroupTask], compiler: ThreadPoolExecutor
) -> Iterator[tuple[GroupTask, Programs]]:
    ahead = compiler.submit(tasks[0].compile)
    for task, following in itertools.zip_longest(tasks, tasks[1:]):
        programs = ahead.result()
        if following:
            ahead = compiler.submit(following.compile)
        yield task, programs


def _run(
    task: GroupTask, programs: Programs, folder: RunFolder, progress: Progress
) -> None:
    started = time.perf_counter()
    runs, data = task.group.runs, task.device_data
    progress.start_group(task.group, task.recipe.num_epochs)
    state = programs.init(task.members.key, data.pixel_mean, data.pixel_std)
    state, *constant = _place(
        programs.train, state, task.members, data.train, task.validation_x
    )
    active = np.full(len(runs), True)
    best_bounds: list[np.ndarray] = []
    epoch = 0
    while epoch < task.recipe.num_epochs and active.any():
        state, metrics = programs.train(state, *constant)
        epoch += task.recipe.validate_every
        host = jax.device_get(metrics)
        folder.log(
            _metric_row(run.name, epoch, member(host, i))
            for i, run in enumerate(runs)
            if active[i]
        )
        active = host.active
        best_bounds.append(host.best_bound)
        progress.advance(epoch, host.best_bound)
    evaluation, shown = jax.device_get(
        programs.evaluate(
            *_place(
                programs.evaluate,
                state.best_params,
                task.members,
                task.test_x,
                data.test,
            )
        )
    )
    state = jax.device_get(state)
    seconds = time.perf_counter() - started
    rows = []
    for i, (run, model) in enumerate(zip(runs, task.models, strict=True)):
        own = member(state, i)
        shapes = population.param_shapes(model, task.data.num_pixels)
        params = population.unpad(own.best_params, shapes)
        row = result_row(
            run,
            model,
            task.data,
            member(evaluation, i),
            best_epoch=int(own.best_epoch),
            epochs=int(own.epoch),
            last_gain=_last_gain([bounds[i] for bounds in best_bounds]),
            num_parameters=model.num_parameters(params),
            seconds=round(seconds / len(runs), 3),
        )
        pictures.write(
            folder.path / "figures" / run.name,
            run,
            task.data,
            member(evaluation, i),
            member(shown, i),
        )
        folder.save_member(run.name, params, row)
        rows.append(row)
    folder.close_events()
    progress.finish_group(rows, seconds)


def _metric_row(run: str, epoch: int, metrics: training.Metrics) -> dict[str, Any]:
    """Scalars of one run; the training terms are those of the call's last epoch."""
    last = jax.tree.map(lambda leaf: leaf[-1], metrics.train)
    return {
        "run": run,
        "epoch": epoch,
        **{f"train/{name}": float(v) for name, v in last._asdict().items()},
        "train/gradient_norm": float(metrics.gradient_norm[-1]),
        **{
            f"validation/{name}": float(v)
            for name, v in metrics.validation._asdict().items()
        },
    }


def _last_gain(best_bounds: Sequence[float]) -> float:
    """Nats that the best validation bound rose by in the last fifth of training.

    NaN where a single validation leaves nothing to compare it with.
    """
    if len(best_bounds) == 1:
        return float("nan")
    return float(best_bounds[-1] - best_bounds[len(best_bounds) * 4 // 5 - 1])


def train_and_report(
    config: Mapping[str, Any], runs: Sequence[Run], chosen: Sequence[Run], workdir: Path
) -> None:
    """Trains the chosen runs of a configuration and reports on all that are finished.

    Args:
        config: the configuration, which the folder is bound to.
        runs: every run of it.
        chosen: those to train now; finished ones are not trained again.
        workdir: the run folder.

    Raises:
        DataError: the data cannot be had or used.
        FolderError: the folder cannot be written, or belongs to another config.
        SettingsError: a setting that does not fit the data.
    """
    data = load_data(runs[0].settings.data)
    check(chosen, data)
    folder = RunFolder.create(workdir, config)
    finished = folder.finished()
    waiting = [run for run in chosen if run.name not in finished]
    folder.forget([run.name for run in waiting])
    groups = group(waiting)
    CONSOLE.print(data.describe())
    CONSOLE.print(
        f"{len(chosen)} runs, {len(chosen) - len(waiting)} finished before; "
        f"{len(waiting)} to train in {len(groups)} programs -> {folder.path}"
    )
    if groups:
        with Progress(groups) as progress:
            run_groups(groups, data, folder, progress)
    rows = folder.results([run.name for run in runs])
    table = folder.write_table("results.csv", rows)
    print_results(rows)
    report = write_report(folder.path)
    CONSOLE.print(f"numbers: {table}\nreport:  {report}")
