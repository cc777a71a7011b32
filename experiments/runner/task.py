"""A group of runs as one population, and its compiled programs."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.data.images import ImageData
from experiments.messages.errors import SettingsError
from experiments.runner import streaming
from experiments.runner.images import Images, check_labels
from experiments.runner.leaves import named_leaves
from experiments.runner.measuring import Measured, measure_member
from experiments.settings.grid import Group
from experiments.settings.schema import Settings
from vae_jax import views
from vae_jax.model import VAE, Params
from vae_jax.population import Layout, Population, TrainEpoch, member_keys
from vae_jax.training import TrainState, Validation


def build_model(settings: Settings, data: ImageData) -> VAE:
    """Returns the model that settings describe, for images like these.

    Raises:
        SettingsError: the likelihood needs a view that these images do not have, parts
            of the model do not fit together, or their labels cannot be its classes.
    """
    if settings.model.condition_on:
        check_labels(data)
    model = settings.model.build(
        data.image_shape, data.levels, len(data.classes), settings.has_classifier
    )
    view = model.likelihood.view
    if data.levels == 2 and view != "binary":
        why = f"it needs the {view} view, but {data.name} holds binary images"
        remedy = "Choose 'bernoulli', or grey images with binarization 'dynamic'"
        likelihood = settings.model.likelihood
        raise SettingsError.of("model.likelihood", likelihood, why, remedy)
    return model


def layout(settings: Settings, num_runs: int) -> Layout:
    """Returns the layout of a number of runs on the devices."""
    parallel = settings.parallel
    return Layout.of(num_runs, columns=parallel.members, batch=parallel.batch)


def split_epoch(
    settings: Settings, data: ImageData, members_per_device: int
) -> tuple[int, ...]:
    """Returns the number of steps of each piece of an epoch.

    An epoch is one piece, unless images are streamed.

    Raises:
        SettingsError: ``data.stream_megabytes`` is too small for pieces of one step.
    """
    batch_size = settings.training.batch_size
    num_steps = len(data.train.images) // batch_size
    if not settings.data.stream:
        return (num_steps,)
    row_size = build_model(settings, data).rows.size
    bytes_per_step = members_per_device * batch_size * row_size
    return streaming.split_epoch(
        num_steps, bytes_per_step, settings.data.stream_megabytes
    )


class GroupTask:
    """A group of runs as one population, bound to its images.

    Args:
        group: the runs.
        images: the data set.

    Attributes:
        names: of the runs.
        population: the members, which its trainer trains.
        pieces: the number of steps of each piece of an epoch.
        rows: the images as the models read them, with classes if they have classes.
        member_arrays: keys and settings of the members by name, as files hold them.
        validation_x: the validation images in the likelihood's view, ``[M, D]``.
        test_x: the test images likewise.
    """

    def __init__(self, group: Group, images: Images):
        self.group, self.images, self.settings = group, images, group.widest
        self.names = [run.name for run in group.runs]
        settings = [run.settings for run in group.runs]
        seeds = np.array([each.seed for each in settings], np.uint32)
        self.population = Population(
            [build_model(each, images.data) for each in settings],
            self.settings.training.config(),
            len(images.data.train.images),
            keys=member_keys(seeds, group.attempt),
            beta=[each.training.beta for each in settings],
            learning_rate=[each.training.learning_rate for each in settings],
            layout=layout(self.settings, len(settings)),
            execution=self.settings.parallel.member_execution,
        )
        self.models, self.widest = self.population.models, self.population.widest
        self.trainer = self.population.trainer
        self.placement = self.population.placement
        self.pieces = split_epoch(
            self.settings, images.data, self.placement.layout.per_column
        )
        members = self.population.members
        self.member_arrays = named_leaves(
            members._replace(key=jax.random.key_data(members.key))
        )
        self.rows, view = images.of(self.widest), self.widest.likelihood.view
        self.validation_x = self.rows.view(view, views.VALIDATION)
        self.test_x = self.rows.view(view, views.TEST)

    @property
    def statistics(self) -> tuple[np.ndarray, ...]:
        """The arguments of ``VAE.init`` that the images give."""
        return self.rows.pixel_mean, self.rows.pixel_std, self.rows.sample

    def compile(self) -> "CompiledGroup":
        """Compiles the group's programs before their first use."""
        population = self.population
        params = population.pad_shapes(population.state_shapes.best_params)
        measure = functools.partial(measure_member, self.widest, self.settings)
        return CompiledGroup(
            self,
            population.compile_init(*self.statistics),
            {
                steps: population.compile_piece(steps)
                if self.settings.data.stream
                else population.compile_epoch(self.rows.train)
                for steps in set(self.pieces)
            },
            population.compile_validation(self.validation_x),
            self.compile_on_test_images(measure, params),
        )

    def compile_on_test_images(
        self, function: Callable[..., Any], params: Params
    ) -> jax.stages.Compiled:
        """Compiles a function of a member and the test images for all members.

        Members are evaluated sequentially: images times importance samples are enough
        work for a device.

        Args:
            function: takes parameters, a ``Member``, and the test images as a view and
                as integers.
            params: stacked, padded parameters, or their shapes.
        """
        own = params, self.population.padded_members
        shared = self.test_x, self.rows.test
        return self.population.compile(
            function, own, shared, execution="loop", seldom=True
        )

    def run_on_test_images(self, program: jax.stages.Compiled, params: Params) -> Any:
        """Returns the results of such a program over the members, on the host."""
        shared = self.placement.place_shared((self.test_x, self.rows.test))
        own = self.placement.place(params), self.population.placed_members
        return self.placement.fetch(program(*own, *shared))


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledGroup:
    """A group with the compiled programs that train and evaluate it."""

    task: GroupTask
    init_program: jax.stages.Compiled
    train_programs: Mapping[int, jax.stages.Compiled]  # by the number of steps
    validate_program: jax.stages.Compiled
    measure_program: jax.stages.Compiled

    def init(self) -> TrainState:
        """Returns the first state, padded and placed."""
        return self.task.population.init(self.init_program, *self.task.statistics)

    @contextlib.contextmanager
    def training(self, epoch: int) -> Iterator[TrainEpoch]:
        """Yields the function that trains all members for one epoch.

        Args:
            epoch: number of epochs finished; the next ones are trained in order.
        """
        task = self.task
        members, place = task.population.placed_members, task.placement
        if not task.settings.data.stream:
            images = place.place_shared(task.rows.train)
            (program,) = self.train_programs.values()
            yield lambda state: program(state, members, images)
            return
        pieces, key = task.pieces, task.population.padded_members.key
        first_steps = np.cumsum((0, *pieces[:-1]), dtype=np.int32)
        stream = streaming.Stream(
            task.images.train,
            key,
            pieces,
            task.trainer,
            epoch,
            place.split,
            task.rows.train_labels,
        )
        with contextlib.closing(stream):
            yield streaming.training(
                stream,
                self.train_programs,
                place.place_shared(list(first_steps)),
                place.place(task.population.no_sums()),
                members,
            )

    @functools.cached_property
    def _validation_x(self) -> jax.Array:
        return self.task.placement.place_shared(self.task.validation_x)

    def validate(self, state: TrainState) -> tuple[TrainState, Validation]:
        """Validates all members; takes the state's memory."""
        members, x = self.task.population.placed_members, self._validation_x
        return self.validate_program(state, members, x)

    def measure(self, params: Params) -> Measured:
        """Returns the measurements of stacked, padded parameters, on the host."""
        return self.task.run_on_test_images(self.measure_program, params)

    def bytes_needed(self) -> tuple[int, int]:
        """Returns the bytes on the fullest device, and those of them for the images.

        The others grow with the number of members.
        """
        task = self.task
        data = [task.validation_x, task.test_x, task.rows.test]
        streamed = 0
        if task.settings.data.stream:
            shape = task.placement.layout.per_column, max(task.pieces)
            streamed = math.prod((*shape, task.widest.rows.size))
            streamed *= task.trainer.config.batch_size * streaming.MOST_PIECES
        else:
            data.append(task.rows.train)
        repeated = [*self.train_programs.values(), self.validate_program]
        repeated.append(self.measure_program)
        needed, shared = task.population.bytes_needed(self.init_program, repeated, data)
        return needed + streamed, shared
