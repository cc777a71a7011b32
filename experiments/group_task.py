"""A group of runs with everything its compiled programs need."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from experiments import pictures, processes, streaming
from experiments.data import ImageData, Split, pixel_statistics
from experiments.grid import Group, Run
from experiments.settings import Settings, SettingsError
from vae_jax import population, training, views
from vae_jax.diagnostics import LatentUse, likelihood_floor, measure_latent_use
from vae_jax.evaluation import Evaluation, evaluate
from vae_jax.likelihoods import make_likelihood
from vae_jax.mesh import MEMBERS, make_mesh
from vae_jax.model import VAE, Params, make_vae
from vae_jax.training import EpochMetrics, Member, MemberKeys, TrainState

# The draws of views that all runs of all sweeps share: test images are binarized or
# dequantised once, so that every model is scored on the same x.
VALIDATION_VIEW, TEST_VIEW, TRAIN_VIEW = 0, 1, 2

# Pixels, a byte each, of the training images that stay on the device.
_MOST_SAMPLED = 2**26

_SPLIT, _SHARED = PartitionSpec(MEMBERS), PartitionSpec()

# On a CPU, members of up to so many parameters train faster mapped together than one
# after another (docs/benchmarks.md), larger ones at the same speed or slower.
_MOST_PARAMETERS_MAPPED_ON_CPU = 100_000


def build_model(settings: Settings, data: ImageData) -> VAE:
    """The model that settings describe, for images like these.

    Raises:
        SettingsError: the data cannot give the view that the likelihood is defined on,
            or parts of the model that make no sense together.
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
    model = settings.model
    try:
        return make_vae(
            likelihood,
            image_shape=data.image_shape,
            latent_dim=model.latent_dim,
            network=model.network,
            widths=model.widths,
            activation=model.activation,
            posterior=model.posterior,
            prior=model.prior,
            upper_layers=model.upper_layers,
            layer_widths=model.layer_widths,
            flow_steps=model.flow_steps,
            flow_widths=model.flow_widths,
            components=model.prior_components,
            precision=model.precision,
            rematerialize=model.rematerialize,
            ignore_x=model.ignore_x,
        )
    except ValueError as error:
        raise SettingsError(f"model: {error}") from error


def training_sample(data: ImageData) -> np.ndarray:
    """Training images for what needs many at once, uint8 ``[n, D]``.

    All of them or, of more than 2**26 pixels, as many at even distances.
    """
    images = data.train.images.reshape(-1, data.num_pixels)
    return images[:: -(-images.size // _MOST_SAMPLED)]


class Layout(NamedTuple):
    """How a group's members lie on the columns of a mesh."""

    devices: list[jax.Device]  # of the columns that are used
    num_columns: int  # that there are
    num_used: int  # fewer where members are few
    per_column: int  # members on each column that is used, padding included

    @classmethod
    def of(cls, settings: Settings, num_runs: int) -> "Layout":
        """The layout of so many runs."""
        devices, parallel = jax.devices(), settings.parallel
        columns = min(parallel.members or len(devices), len(devices) // parallel.batch)
        used, per_column = population.even_split(num_runs, columns)
        if jax.process_count() > 1:
            used = columns  # Every process takes part.
        return cls(devices[: used * parallel.batch], columns, used, per_column)


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


class DeviceData(NamedTuple):
    """A data set as small integers, on the device but for the training images."""

    train: np.ndarray  # uint8 [N, D], on the host
    sample: jax.Array  # of the same, [n, D]
    validation: jax.Array
    test: jax.Array
    pixel_mean: jax.Array  # of the training intensity, [D]
    pixel_std: jax.Array
    levels: int

    @classmethod
    def put(cls, data: ImageData) -> "DeviceData":
        def flat(split: Split) -> np.ndarray:
            return split.images.reshape(len(split.images), -1)

        mean, std = pixel_statistics(data)
        return cls(
            flat(data.train),
            jnp.asarray(training_sample(data)),
            jnp.asarray(flat(data.validation)),
            jnp.asarray(flat(data.test)),
            jnp.asarray(mean),
            jnp.asarray(std),
            data.levels,
        )

    def view(self, view: str, which: int) -> jax.Array:
        """The one draw that all runs share of validation, test or sampled images."""
        images = (self.validation, self.test, self.sample)[which]
        key = jax.random.fold_in(jax.random.key(0), which)
        return _observe(view, key, images, self.levels)


# One small program each, where every operation of them would be compiled by itself.
_observe = jax.jit(views.observe, static_argnums=(0, 3))
_take = jax.jit(lambda tree, index: jax.tree.map(lambda leaf: leaf[index], tree))


class Measured(NamedTuple):
    """What is measured of a trained model."""

    evaluation: Evaluation
    pictures: pictures.Arrays
    latent_use: LatentUse


class Programs(NamedTuple):
    """The compiled programs that train and evaluate a group."""

    init: jax.stages.Compiled  # -> TrainState
    train: Mapping[int, jax.stages.Compiled]  # by steps; -> TrainState, EpochMetrics
    validate: jax.stages.Compiled  # -> TrainState, Validation
    evaluate: jax.stages.Compiled  # -> Measured

    @property
    def peak_bytes(self) -> int:
        """Most that a program which runs again and again takes on a device."""
        return max(map(_bytes, (*self.train.values(), self.validate, self.evaluate)))


def _bytes(program: jax.stages.Compiled) -> int:
    """Memory of a program on a device: what it is given, returns and holds between."""
    found = program.memory_analysis()
    if found is None:
        return 0  # A backend that does not tell.
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes  # Results in place of arguments.
        + found.temp_size_in_bytes
    )


TrainEpoch = Callable[[TrainState], tuple[TrainState, EpochMetrics]]


class GroupTask:
    """A group with everything needed to train or evaluate it.

    Arrays over members are padded, by repeating the last one, to as many as split
    evenly over the devices.
    """

    def __init__(self, group: Group, data: ImageData, device_data: DeviceData):
        self.group = group
        self.data = data
        self.device_data = device_data
        self.settings = group.widest
        self.models = [build_model(run.settings, data) for run in group.runs]
        self.widest = max(self.models, key=lambda model: model.latent_dim)
        self.shapes = population.param_shapes(self.widest, data.num_pixels)
        self.recipe = self.settings.training.recipe()
        self.steps_per_epoch = len(data.train.images) // self.recipe.batch_size
        self.layout = Layout.of(self.settings, len(group.runs))
        self._num_padded = self.layout.num_used * self.layout.per_column
        self.pieces = split_epoch(self.settings, data, self.layout.per_column)
        members = _members(group.runs, self.models, group.attempt)
        self.keys = members.key
        self.member_arrays = named_leaves(
            members._replace(key=jax.random.key_data(members.key))
        )
        self.members = self.pad(members)
        view = self.widest.likelihood.view
        self.validation_x = device_data.view(view, VALIDATION_VIEW)
        self.test_x = device_data.view(view, TEST_VIEW)

    # --- programs ---

    def compile(self) -> Programs:
        """Compiles the group's programs, ahead of their first use."""
        data = self.device_data
        init = population.compile_init(
            self.models,
            self.recipe,
            self.keys,
            data.pixel_mean,
            data.pixel_std,
            data.sample,
        )
        state = self.pad_shapes(init.out_info)

        def compile_step(function: Callable[..., Any], shared: Any) -> Any:
            function = functools.partial(function, self.widest, self.recipe)
            program = self._over_members(function, self._execution(), num_shared=1)
            return self._compile(program, (state, self.members), (shared,), donate=0)

        return Programs(
            init,
            {
                steps: self._compile_piece(state, steps)
                if self.settings.data.stream
                else compile_step(training.train_epoch, data.train)
                for steps in set(self.pieces)
            },
            compile_step(training.validate, self.validation_x),
            self.compile_evaluation(state.best_params),
        )

    def _compile_piece(self, state: TrainState, steps: int) -> jax.stages.Compiled:
        """Compiles the training on so many steps of streamed images."""
        num_images, num_pixels = self.device_data.train.shape
        function = functools.partial(
            training.train_piece, self.widest, self.recipe, num_images
        )
        program = self._over_members(function, self._execution(), num_shared=1)
        shape = (self._num_padded, steps, self.recipe.batch_size, num_pixels)
        images = jax.ShapeDtypeStruct(shape, jnp.uint8)
        own = (state, self._no_sums(), self.members, images)
        return self._compile(program, own, (np.int32(0),), donate=0)

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
        program = self._over_members(function, "loop", num_shared=2)
        shared = (self.test_x, self.device_data.test)
        return self._compile(program, (params, self.members), shared)

    def _compile(
        self, program: Callable[..., Any], own: Any, shared: Any, donate: Any = ()
    ) -> jax.stages.Compiled:
        """Compiles a program of arrays over members and shared ones, where they lie."""

        def shapes(tree, spec):
            sharding = self._sharding(spec)
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=sharding
                ),
                tree,
            )

        arguments = *shapes(own, _SPLIT), *shapes(shared, _SHARED)
        return (
            jax.jit(
                program, donate_argnums=donate, out_shardings=self._sharding(_SPLIT)
            )
            .lower(*arguments)
            .compile()
        )

    @contextlib.contextmanager
    def training(
        self, programs: Mapping[int, jax.stages.Compiled], epoch: int
    ) -> Iterator[TrainEpoch]:
        """What trains all members for the epochs from one on."""
        members = self.place(self.members)
        if not self.settings.data.stream:
            images = self.place_shared(self.device_data.train)
            yield lambda state: programs[self.steps_per_epoch](state, members, images)
            return
        stream = streaming.Stream(
            self.device_data.train,
            self.members.key,
            self.pieces,
            self.recipe.batch_size,
            range(epoch, self.recipe.num_epochs),
            self._sharding(_SPLIT),
        )
        first_steps = np.cumsum((0, *self.pieces[:-1]), dtype=np.int32)
        with contextlib.closing(stream):
            streamed = streaming.StreamedTraining(
                stream,
                programs,
                self.place_shared(list(first_steps)),
                self.place(self._no_sums()),
            )
            yield lambda state: streamed.train_epoch(state, members)

    def _no_sums(self) -> EpochMetrics:
        return jax.tree.map(
            lambda zero: np.zeros(self._num_padded, zero.dtype), EpochMetrics.empty()
        )

    def evaluate(self, program: jax.stages.Compiled, params: Params) -> Any:
        """What a program measures of stacked, padded parameters, on the host."""
        shared = self.place_shared((self.test_x, self.device_data.test))
        own = self.place((params, self.members))
        return self.fetch(program(*own, *shared))

    def evaluate_params(self, params: Sequence[Params]) -> Evaluation:
        """Evaluates unpadded parameters, one for each run of the group."""
        padded = [population.pad(own, self.shapes) for own in params]
        stacked = self.pad(jax.tree.map(lambda *leaves: jnp.stack(leaves), *padded))
        program = self._compile_on_test_images(self._evaluate_member, stacked)
        return self.evaluate(program, stacked)

    # --- where arrays lie ---

    @property
    def shared_bytes(self) -> int:
        """What training images take on a device, however many members share them."""
        return 0 if self.settings.data.stream else self.device_data.train.nbytes

    def pad(self, stacked: Any) -> Any:
        """Arrays over the runs, padded to arrays over the members."""
        index = np.minimum(np.arange(self._num_padded), len(self.group.runs) - 1)
        return _take(stacked, index)

    def pad_shapes(self, stacked: Any) -> Any:
        """The shapes that ``pad`` gives arrays of these shapes."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (self._num_padded, *leaf.shape[1:]), leaf.dtype
            ),
            stacked,
        )

    def place(self, stacked: Any) -> Any:
        """Arrays over members, split over the devices."""
        return processes.place(stacked, self._sharding(_SPLIT))

    def place_shared(self, tree: Any) -> Any:
        """Arrays that all members share, on each device."""
        return processes.place(tree, self._sharding(_SHARED))

    def fetch(self, stacked: Any) -> Any:
        """Arrays over the runs, without padding, on the host."""
        count = len(self.group.runs)
        return jax.tree.map(lambda leaf: leaf[:count], processes.fetch(stacked))

    def _sharding(self, spec: PartitionSpec) -> Sharding:
        if self._mesh is None:
            return SingleDeviceSharding(self.layout.devices[0])
        return NamedSharding(self._mesh, spec)

    @functools.cached_property
    def _mesh(self) -> Mesh | None:
        if len(self.layout.devices) == 1:
            return None
        return make_mesh(self.layout.devices, self.settings.parallel.batch)

    def _over_members(
        self, function: Callable[..., Any], execution: str, *, num_shared: int
    ) -> Callable[..., Any]:
        """The function over the group's members, with the data as shared arguments."""
        return population.over_members(
            function,
            num_shared=num_shared,
            execution=execution,
            mesh=self._mesh,
        )

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
            pictures.draw(self.widest, params, keys.pictures, test_x),
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
            else data.view(likelihood.view, TRAIN_VIEW)
        )
        fit = jax.jit(functools.partial(likelihood_floor, likelihood))
        return np.asarray(fit(data.pixel_mean, data.pixel_std, train_x, self.test_x))

    def _execution(self) -> str:
        execution = self.settings.parallel.member_execution
        if execution != "auto":
            return execution
        large = self.widest.num_parameters(self.shapes) > _MOST_PARAMETERS_MAPPED_ON_CPU
        slow = jax.default_backend() == "cpu" and (
            large or self.settings.model.network not in ("mlp", "gated")
        )
        return "loop" if slow or len(self.models) == 1 else "map"


def _members(runs: Sequence[Run], models: Sequence[VAE], attempt: int) -> Member:
    """What differs between runs, as stacked arrays."""
    settings = [run.settings for run in runs]
    latents = [model.latent_dim for model in models]
    return Member(
        key=_keys(np.array([s.seed for s in settings], np.uint32), attempt),
        beta=jnp.array([s.training.beta for s in settings], jnp.float32),
        learning_rate=jnp.array([s.training.learning_rate for s in settings]),
        latent_mask=jnp.stack(
            [population.latent_mask(own, max(latents)) for own in latents]
        ),
    )


@jax.jit
def _keys(seeds: jax.Array, attempt: int) -> jax.Array:
    """The key of each seed; other ones for each further attempt."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), seeds)
    # Beside the children of the member's key that training uses.
    child = len(MemberKeys._fields) + attempt
    others = jax.vmap(jax.random.fold_in, (0, None))(keys, child)
    return jnp.where(attempt == 0, keys, others)


def member(stacked: Any, index: int) -> Any:
    """One member's part of stacked arrays."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def named_leaves(tree: Any) -> dict[str, Any]:
    """A tree's leaves, named by their path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def from_named_leaves(leaves: Mapping[str, Any], like: Any) -> Any:
    """The tree of the structure of ``like``: the inverse of ``named_leaves``."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], like)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
