"""A group of runs with everything its compiled programs need."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.images import ImageData
from experiments.evaluation.stored_arrays import MANIFOLD_SIDE, SHOWN
from experiments.messages.errors import SettingsError
from experiments.runner import streaming
from experiments.settings.grid import Group
from experiments.settings.schema import Settings
from vae_jax import population, views
from vae_jax.diagnostics import LatentUse, likelihood_floor, measure_latent_use
from vae_jax.measure import Evaluation, Pictures, draw, evaluate
from vae_jax.model import VAE, Params
from vae_jax.population import Layout, Population, TrainEpoch, member_keys
from vae_jax.training import MemberKeys

# Pixels, a byte each, of the training images that stay on the device.
_MOST_SAMPLED = 2**26


def build_model(settings: Settings, data: ImageData) -> VAE:
    """The model that settings describe, for images like these.

    Raises:
        SettingsError: the data cannot give the view that the likelihood is defined on,
            or parts of the model that make no sense together.
    """
    model = settings.model.build(data.image_shape, data.levels)
    view = model.likelihood.view
    if data.levels == 2 and view != "binary":
        raise SettingsError(
            f"model.likelihood is {settings.model.likelihood!r}: it needs the {view} "
            f"view, but {data.name} holds binary images (2 levels). Choose "
            "'bernoulli', or grey images with binarization 'dynamic'."
        )
    return model


def training_sample(data: ImageData) -> np.ndarray:
    """Training images for what needs many at once, uint8 ``[n, D]``.

    All of them or, of more than 2**26 pixels, as many at even distances.
    """
    images = data.train.images.reshape(-1, data.num_pixels)
    return images[:: -(-images.size // _MOST_SAMPLED)]


def layout(settings: Settings, num_runs: int) -> Layout:
    """Returns how so many runs lie on this machine's devices."""
    parallel = settings.parallel
    return Layout.of(num_runs, columns=parallel.members, batch=parallel.batch)


def split_epoch(
    settings: Settings, data: ImageData, members_per_device: int
) -> tuple[int, ...]:
    """The steps of each piece of an epoch: of one piece, unless images are streamed.

    Raises:
        SettingsError: too little memory for pieces of a step.
    """
    batch_size = settings.training.batch_size
    num_steps = len(data.train.images) // batch_size
    if not settings.data.stream:
        return (num_steps,)
    bytes_per_step = members_per_device * batch_size * data.num_pixels
    return streaming.split_epoch(
        num_steps, bytes_per_step, settings.data.stream_megabytes
    )


class DeviceData:
    """A data set as rows of integers on the host, and the views of it on the device.

    Attributes:
        train: uint8 ``[N, D]``, as validation and test are.
        sample: training images for what needs many at once, ``[n, D]``.
        pixel_mean: of the training intensity, ``[D]``.
        pixel_std: its standard deviation.
    """

    def __init__(self, data: ImageData):
        self.train, self.validation, self.test = (
            split.images.reshape(len(split.images), -1)
            for split in (data.train, data.validation, data.test)
        )
        self.sample = training_sample(data)
        self.pixel_mean, self.pixel_std = views.pixel_statistics(
            self.train, data.levels
        )
        self._levels = data.levels
        self._views: dict[tuple[str, int], jax.Array] = {}

    def view(self, view: str, which: int) -> jax.Array:
        """Returns the draw that all runs share of one of the three kinds of images."""
        if (view, which) not in self._views:
            images = (self.validation, self.test, self.sample)[which]
            drawn = views.shared_draw(view, which, images, self._levels)
            self._views[view, which] = drawn
        return self._views[view, which]


class Measured(NamedTuple):
    """What is measured of a trained model."""

    evaluation: Evaluation
    pictures: Pictures
    latent_use: LatentUse


class Programs(NamedTuple):
    """The compiled programs that train and evaluate a group."""

    init: jax.stages.Compiled  # -> TrainState
    train: Mapping[int, jax.stages.Compiled]  # by steps; -> TrainState, EpochMetrics
    validate: jax.stages.Compiled  # -> TrainState, Validation
    evaluate: jax.stages.Compiled  # -> Measured


class GroupTask:
    """A group with everything needed to train or evaluate it."""

    def __init__(self, group: Group, data: ImageData, device_data: DeviceData):
        self.group, self.data, self.device_data = group, data, device_data
        self.settings = group.widest
        settings = [run.settings for run in group.runs]
        seeds = np.array([each.seed for each in settings], np.uint32)
        self.population = Population(
            [build_model(each, data) for each in settings],
            self.settings.training.config(),
            len(device_data.train),
            keys=member_keys(seeds, group.attempt),
            beta=[each.training.beta for each in settings],
            learning_rate=[each.training.learning_rate for each in settings],
            layout=layout(self.settings, len(settings)),
            execution=self.settings.parallel.member_execution,
        )
        self.models, self.widest = self.population.models, self.population.widest
        self.trainer = self.population.trainer
        self.placement = self.population.placement
        self.pieces = split_epoch(self.settings, data, self.placement.layout.per_column)
        members = self.population.members
        self.member_arrays = named_leaves(
            members._replace(key=jax.random.key_data(members.key))
        )
        view = self.widest.likelihood.view
        self.validation_x = device_data.view(view, views.VALIDATION)
        self.test_x = device_data.view(view, views.TEST)

    # --- programs ---

    @property
    def statistics(self) -> tuple[np.ndarray, ...]:
        """What first parameters start from: see ``VAE.init``."""
        data = self.device_data
        return data.pixel_mean, data.pixel_std, data.sample

    def compile(self) -> Programs:
        """Compiles the group's programs, ahead of their first use."""
        population = self.population
        params = population.pad_shapes(population.state_shapes.best_params)
        return Programs(
            population.compile_init(*self.statistics),
            {
                steps: population.compile_piece(steps)
                if self.settings.data.stream
                else population.compile_epoch(self.device_data.train)
                for steps in set(self.pieces)
            },
            population.compile_validation(self.validation_x),
            self.compile_evaluation(params),
        )

    def compile_evaluation(self, params: Params) -> jax.stages.Compiled:
        """Compiles the evaluation of stacked, padded parameters (or their shapes)."""
        return self._compile_on_test_images(self._measure_member, params)

    def _compile_on_test_images(
        self, function: Callable[..., Any], params: Params
    ) -> jax.stages.Compiled:
        """Compiles a function of a member and the test images.

        Members are evaluated one after another: images times importance samples fill
        a device by themselves.
        """
        own = params, self.population.padded_members
        shared = self.test_x, self.device_data.test
        return self.population.compile(function, own, shared, execution="loop")

    def bytes_needed(self, programs: Programs) -> tuple[int, int]:
        """Returns the bytes on the fullest device, in all, and those of the images.

        The rest grows with the number of members.
        """
        data = [self.validation_x, self.test_x, self.device_data.test]
        streamed = 0
        if self.settings.data.stream:
            shape = self.placement.layout.per_column, max(self.pieces)
            streamed = math.prod((*shape, *self.device_data.train[0].shape))
            streamed *= self.trainer.config.batch_size * streaming.MOST_PIECES
        else:
            data.append(self.device_data.train)
        repeated = *programs.train.values(), programs.validate, programs.evaluate
        needed, shared = self.population.bytes_needed(programs.init, repeated, data)
        return needed + streamed, shared

    @contextlib.contextmanager
    def training(
        self, programs: Mapping[int, jax.stages.Compiled], epoch: int
    ) -> Iterator[TrainEpoch]:
        """What trains all members for the epochs from one on."""
        members, place = self.population.placed_members, self.placement
        if not self.settings.data.stream:
            images = place.place_shared(self.device_data.train)
            (program,) = programs.values()
            yield lambda state: program(state, members, images)
            return
        stream = streaming.Stream(
            self.device_data.train,
            self.population.padded_members.key,
            self.pieces,
            self.trainer,
            epoch,
            place.split,
        )
        first_steps = np.cumsum((0, *self.pieces[:-1]), dtype=np.int32)
        with contextlib.closing(stream):
            streamed = streaming.StreamedTraining(
                stream,
                programs,
                place.place_shared(list(first_steps)),
                place.place(self.population.no_sums()),
            )
            yield lambda state: streamed.train_epoch(state, members)

    def evaluate(self, program: jax.stages.Compiled, params: Params) -> Any:
        """What a program measures of stacked, padded parameters, on the host."""
        shared = self.placement.place_shared((self.test_x, self.device_data.test))
        own = self.placement.place(params), self.population.placed_members
        return self.placement.fetch(program(*own, *shared))

    def evaluate_params(self, params: Sequence[Params]) -> Evaluation:
        """Evaluates unpadded parameters, one for each run of the group."""
        padded = [population.pad(own, self.population.shapes) for own in params]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
        stacked = self.placement.pad(stacked)
        program = self._compile_on_test_images(self._evaluate_member, stacked)
        return self.evaluate(program, stacked)

    def _evaluate_member(self, params, member, test_x, test_images):
        options = self.settings.evaluation
        return evaluate(
            self.widest,
            params,
            MemberKeys.of(member.key).evaluate,
            test_x,
            test_images,
            member.latent_mask,
            num_samples=options.num_samples,
            chunk=options.chunk,
            batch_size=options.batch_size,
        )

    def _measure_member(self, params, member, test_x, test_images):
        keys, asked = MemberKeys.of(member.key), self.settings.diagnostics
        return Measured(
            self._evaluate_member(params, member, test_x, test_images),
            draw(
                self.widest,
                params,
                keys.pictures,
                test_x,
                num_images=SHOWN,
                manifold_side=MANIFOLD_SIDE,
            ),
            measure_latent_use(
                self.widest,
                params,
                keys.diagnose,
                test_x,
                member.latent_mask,
                decompose=asked.latents,
                num_permutations=asked.permutations,
            ),
        )

    def floor(self) -> np.ndarray:
        """-log p(x) of the test images without latents, nats ``[M]``.

        NaN if not asked for. With many pixels the search takes longer than epochs do.
        """
        data, likelihood = self.device_data, self.widest.likelihood
        if not self.settings.diagnostics.floor:
            return np.full(len(self.test_x), np.nan)
        train_x = (
            data.pixel_mean[None]
            if likelihood.view == "binary"
            else data.view(likelihood.view, views.TRAIN)
        )
        fit = jax.jit(functools.partial(likelihood_floor, likelihood))
        return np.asarray(fit(data.pixel_mean, data.pixel_std, train_x, self.test_x))


def named_leaves(tree: Any) -> dict[str, Any]:
    """A tree's leaves, named by their path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def from_named_leaves(leaves: Mapping[str, Any], like: Any) -> Any:
    """The tree of the structure of ``like``: the inverse of ``named_leaves``."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], like)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
