"""Many models as one compiled program, on one device or many.

Members whose arrays have the same shapes form a population. Their states are stacked on
axis 0 and one program runs them all, mapped together or one after another.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.checks import require_known
from vae_jax.model import VAE, num_parameters
from vae_jax.networks import MLP, Gated
from vae_jax.population.padding import check_padding, latent_mask, pad, param_shapes
from vae_jax.population.placement import Layout, Placement
from vae_jax.population.programs import (
    EXECUTIONS,
    beyond_arguments,
    optimized,
    over_members,
)
from vae_jax.training import (
    EpochMetrics,
    Member,
    MemberKeys,
    Trainer,
    TrainingConfig,
    TrainState,
    Validation,
)

# On a CPU, members of up to so many parameters train faster mapped together than one
# after another (docs/benchmarks.md), larger ones at the same speed or slower.
_MOST_PARAMETERS_MAPPED_ON_CPU = 100_000

# Drawing an array of up to so many values takes less time than optimising the draw.
_LARGEST_UNOPTIMIZED = 2**22


@jax.jit
def member_keys(seeds: jax.Array, attempt: int = 0) -> jax.Array:
    """Returns the key of each seed; each further attempt has other keys.

    Args:
        seeds: uint32 ``[members]``.
        attempt: how often the same seeds were tried before.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), seeds)
    # Another child of the member's key than those that training uses.
    child = len(MemberKeys._fields) + attempt
    others = jax.vmap(jax.random.fold_in, (0, None))(keys, child)
    return jnp.where(attempt == 0, keys, others)


class Snapshot(NamedTuple):
    """A population after an epoch; its state is valid until the next epoch begins."""

    epoch: int  # epochs finished
    state: TrainState  # padded and placed
    metrics: EpochMetrics  # of this epoch; padded, and perhaps still being computed
    validation: Validation | None  # of members, on the host; None if there was none


TrainEpoch = Callable[[TrainState], tuple[TrainState, EpochMetrics]]
Validate = Callable[[TrainState], tuple[TrainState, Validation]]


class Population:
    """Models that train as one program.

    Args:
        models: one per member; they differ in latent size alone.
        config: how they are trained.
        num_images: of the training set.
        keys: typed keys, ``[members]``.
        beta: weight of each member's KL, ``[members]``.
        learning_rate: peak learning rate of each, ``[members]``.
        layout: the devices; all of them if None.
        execution: 'map', 'loop', or 'auto': whichever was measured to be faster.

    Raises:
        ValueError: latent sizes differ, and zero-padding is not exact for the models;
            or the objective is not defined for them; or the execution is unknown.
    """

    def __init__(
        self,
        models: Sequence[VAE],
        config: TrainingConfig,
        num_images: int,
        *,
        keys: jax.Array,
        beta: Sequence[float] | np.ndarray,
        learning_rate: Sequence[float] | np.ndarray,
        layout: Layout | None = None,
        execution: str = "auto",
    ):
        require_known("execution", execution, ("auto", *EXECUTIONS))
        check_padding(models)
        self.models, self.keys = tuple(models), keys
        self.widest = max(models, key=lambda model: model.latent_dim)
        self.trainer = Trainer(self.widest, config, num_images)
        self.shapes = param_shapes(self.widest)
        self.placement = Placement(len(models), layout or Layout.of(len(models)))
        masks = [latent_mask(m.latent_dim, self.widest.latent_dim) for m in models]
        # NumPy converts them: each conversion by JAX would be a program to compile.
        own = np.asarray(beta, np.float32), np.asarray(learning_rate, np.float32)
        self.members = Member(keys, *jax.device_put((*own, np.stack(masks))))
        self.padded_members = self.placement.pad(self.members)
        self.execution = self._fastest() if execution == "auto" else execution

    def _fastest(self) -> str:
        large = num_parameters(self.shapes) > _MOST_PARAMETERS_MAPPED_ON_CPU
        # Not one that inherits from them, as PixelCNN does.
        dense = type(self.widest.network) in (MLP, Gated)
        slow = self.placement.platform == "cpu" and (large or not dense)
        return "loop" if slow or len(self.models) == 1 else "map"

    # --- the first state ---

    def compile_init(self, *statistics: Any) -> jax.stages.Compiled:
        """Compiles the first state, padded and placed, as a function of its arguments.

        Every device initialises its own members.

        Args:
            *statistics: pixel_mean, pixel_std and perhaps images, as in ``VAE.init``,
                or their shapes.
        """
        place = self.placement
        shared = place.shapes(statistics, place.shared)
        keys = place.shapes(self.keys, place.shared)
        program = jax.jit(self._init, out_shardings=place.split)
        lowered = program.lower(keys, *shared)
        largest = max(leaf.size for leaf in jax.tree.leaves(lowered.out_info))
        small = largest <= _LARGEST_UNOPTIMIZED * place.num_padded
        return lowered.compile(optimized(0, place.platform) if small else None)

    def init(self, program: jax.stages.Compiled, *statistics: Any) -> TrainState:
        """Returns the first state, padded and placed."""
        state: TrainState = program(
            *self.placement.place_shared((self.keys, *statistics))
        )
        return state

    def _init(self, keys: jax.Array, *statistics: jax.Array) -> TrainState:
        # Members of one size are initialised by one mapped program.
        parts, order = [], []
        for model in dict.fromkeys(self.models):
            rows = np.array([i for i, own in enumerate(self.models) if own == model])

            def one(key: jax.Array, model: VAE = model) -> Any:
                return pad(
                    model.init(MemberKeys.of(key).init, *statistics), self.shapes
                )

            parts.append(jax.vmap(one)(keys[rows]))
            order.append(rows)
        place = np.argsort(np.concatenate(order))
        params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[place], *parts)
        return jax.vmap(self.trainer.start)(self.placement.pad(params))

    @functools.cached_property
    def state_shapes(self) -> TrainState:
        """Shapes of the stacked state, without padding of members."""

        def stacked(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((len(self.models), *leaf.shape), leaf.dtype)

        shapes: TrainState = jax.tree.map(
            stacked, jax.eval_shape(self.trainer.start, self.shapes)
        )
        return shapes

    @functools.cached_property
    def placed_members(self) -> Member:
        """The members, padded and placed."""
        placed: Member = self.placement.place(self.padded_members)
        return placed

    # --- programs ---

    def compile(
        self,
        function: Callable[..., Any],
        own: Any,
        shared: Any,
        *,
        execution: str = "",
        donate: Sequence[int] = (),
        seldom: bool = False,
    ) -> jax.stages.Compiled:
        """Compiles a function of one member for all of them, where their arrays lie.

        Args:
            function: takes ``*own`` of one member, then ``*shared``.
            own: arrays over the padded members, or their shapes.
            shared: arrays that all members share, or their shapes.
            execution: 'map' or 'loop'; '' for that of training.
            donate: arguments whose memory the results take.
            seldom: the program runs a few times. On a CPU, that of small models is
                optimised less, as compiling it takes longer than running it.
        """
        place = self.placement
        program = over_members(
            function,
            num_shared=len(shared),
            execution=execution or self.execution,
            mesh=place.mesh,
        )
        arguments = *place.shapes(own, place.split), *place.shapes(shared, place.shared)
        jitted = jax.jit(program, donate_argnums=donate, out_shardings=place.split)
        light = seldom and self.execution == "map"
        return jitted.lower(*arguments).compile(
            optimized(1, place.platform) if light else None
        )

    def compile_epoch(self, images: Any) -> jax.stages.Compiled:
        """Compiles an epoch on training images ``[N, D]`` that are on the device."""
        own = self.pad_shapes(self.state_shapes), self.padded_members
        return self.compile(self.trainer.epoch, own, (images,), donate=[0])

    def compile_piece(self, steps: int) -> jax.stages.Compiled:
        """Compiles so many steps of an epoch on images that come from elsewhere."""
        row_size, batch = self.widest.rows.size, self.trainer.config.batch_size
        shape = (self.placement.num_padded, steps, batch, row_size)
        images = jax.ShapeDtypeStruct(shape, jnp.uint8)
        own = (
            self.pad_shapes(self.state_shapes),
            self.no_sums(),
            self.padded_members,
            images,
        )
        return self.compile(self.trainer.piece, own, (np.int32(0),), donate=[0])

    def compile_validation(self, x: Any) -> jax.stages.Compiled:
        """Compiles the validation on images x ``[M, D]`` in the likelihood's view."""
        own = self.pad_shapes(self.state_shapes), self.padded_members
        return self.compile(self.trainer.validate, own, (x,), donate=[0], seldom=True)

    def no_sums(self) -> EpochMetrics:
        """Returns the sums of an epoch's metrics before its first step, padded."""
        sums: EpochMetrics = jax.tree.map(
            lambda zero: np.zeros(self.placement.num_padded, zero.dtype),
            EpochMetrics.empty(),
        )
        return sums

    def pad_shapes(self, stacked: Any) -> Any:
        """Returns the shapes of arrays over the members, padded."""
        num_padded = self.placement.num_padded
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (num_padded, *leaf.shape[1:]), leaf.dtype
            ),
            stacked,
        )

    def bytes_needed(
        self,
        init: jax.stages.Compiled,
        programs: Sequence[jax.stages.Compiled],
        shared: Any,
    ) -> tuple[int, int]:
        """Returns the bytes on the fullest device: all, and those of shared arrays.

        The state and the data stay there, and the program that needs the most must fit
        beside them.

        Args:
            init: the program whose result is the state.
            programs: all their arguments are among the state and the data.
            shared: the data, or their shapes.
        """
        state = (self.state_shapes, self.members)
        num_members, per_column = len(self.models), self.placement.layout.per_column
        resident = _nbytes(state) * per_column // num_members
        data = _nbytes(shared)
        training = resident + max(map(beyond_arguments, programs))
        return data + max(beyond_arguments(init), training), data

    # --- training ---

    def epochs(
        self,
        train_epoch: TrainEpoch,
        validate: Validate | None,
        state: TrainState,
        *,
        finished: int = 0,
        active: np.ndarray | None = None,
    ) -> Iterator[Snapshot]:
        """Trains epoch by epoch, until the last or until no member is active.

        An epoch is yielded while it is still being computed, but only one at a time, so
        the caller can soon act on a request to stop.

        Args:
            train_epoch: trains all members for an epoch; takes the state's memory.
            validate: validates all of them; None: there is no validation.
            state: the state to begin with, padded and placed.
            finished: number of epochs that the state has finished.
            active: of each member, whether it still trains; None: all do.
        """
        config, place = self.trainer.config, self.placement
        active = np.ones(len(self.models), bool) if active is None else active
        previous = None
        for epoch in range(finished + 1, config.num_epochs + 1):
            if not active.any():
                return
            with jax.transfer_guard("disallow"):  # No implicit copies.
                state, metrics = train_epoch(state)
            validation = None
            if validate is not None and config.validates_after(epoch):
                state, validation = validate(state)
                validation = place.fetch(validation)
                active = validation.active
            else:
                jax.block_until_ready(previous)
            previous = metrics
            yield Snapshot(epoch, state, metrics, validation)


def _nbytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
