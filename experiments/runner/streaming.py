"""Training images that stay on the host and come to the devices in pieces.

An epoch is taken in pieces of some steps each. While one is trained on, threads of
grain gather the images of the next, in the order that training on the device has
(``Trainer.batches``), and send them ahead. A process gathers the images of its
own members alone.
"""

import functools
import threading
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from experiments.messages.errors import DataError, SettingsError
from vae_jax.training import EpochMetrics, Trainer, TrainState

# Pieces that are read while others are trained on, each by a thread.
_AHEAD = 2
# On a device at once: those, the one that is trained on, and the one that is next.
MOST_PIECES = _AHEAD + 2


def import_grain() -> types.ModuleType:
    """The module ``grain``, an optional dependency.

    Raises:
        DataError: it is not installed.
    """
    try:
        import grain
    except ImportError as error:
        raise DataError(
            f'data.stream=True needs {error.name}: pip install "vae_jax[stream]", or '
            "set it to False"
        ) from error
    return grain


def split_epoch(
    num_steps: int, bytes_per_step: int, megabytes: float
) -> tuple[int, ...]:
    """The number of steps of each piece of an epoch.

    Args:
        num_steps: of the epoch.
        bytes_per_step: of images, on a device.
        megabytes: that ``MOST_PIECES`` pieces may take there.

    Raises:
        SettingsError: they take more with one step each.
    """
    most = min(num_steps, int(megabytes * 1e6 / (MOST_PIECES * bytes_per_step)))
    if not most:
        raise SettingsError(
            f"data.stream_megabytes is {megabytes}, but {MOST_PIECES} batches of all "
            f"models on a device take {MOST_PIECES * bytes_per_step / 1e6:.3g}: give "
            "more, or train fewer models together."
        )
    # Pieces of one length need one program, which is worth a few pieces more.
    even = max(steps for steps in range(1, most + 1) if num_steps % steps == 0)
    steps = even if 2 * even >= most else most
    whole, rest = divmod(num_steps, steps)
    return (steps,) * whole + (rest,) * (rest > 0)


class Stream:
    """The pieces of some epochs, on the devices in the order they are trained on.

    Args:
        images: the training images, ``[N, D]``, uint8, on the host.
        keys: the members' keys, ``[members]``.
        pieces: the number of steps of each piece of an epoch.
        trainer: says in what order images come, and how many epochs there are.
        epoch: the first epoch.
        sharding: of pieces, ``[members, steps, batch, D]``.
    """

    def __init__(
        self,
        images: np.ndarray,
        keys: jax.Array,
        pieces: Sequence[int],
        trainer: Trainer,
        epoch: int,
        sharding: Sharding,
    ):
        grain = import_grain()
        self._images, self._pieces = np.asarray(images), pieces
        self._keys = np.asarray(jax.random.key_data(keys))
        self._batch_size, self._sharding = trainer.config.batch_size, sharding
        self._order = jax.jit(
            lambda key, epoch: trainer.batches(jax.random.wrap_key_data(key), epoch)
        )
        self._orders = functools.lru_cache(maxsize=_AHEAD)(self._orders_of)
        self._one_at_a_time = threading.Lock()
        first, last = len(pieces) * epoch, len(pieces) * trainer.config.num_epochs
        self._read = iter(
            grain.MapDataset.range(first, last)
            .map(self._piece)
            .to_iter_dataset(grain.ReadOptions(_AHEAD, _AHEAD))
        )

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> jax.Array:
        """The next piece, ``[members, steps, batch, D]``; reads another one ahead.

        Raises:
            DataError: the images cannot be read, or there is no memory for them.
        """
        try:
            return next(self._read)
        except (OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"cannot read training images ahead ({type(error).__name__}: "
                f"{reason}): repair the disk they lie on or, where memory is short, "
                "lower data.stream_megabytes"
            ) from error

    def close(self) -> None:
        """Ends the threads; what they have read is freed."""
        self._read.close()

    def _piece(self, index: int) -> jax.Array:
        epoch, position = divmod(int(index), len(self._pieces))
        start, steps = sum(self._pieces[:position]), self._pieces[position]
        with self._one_at_a_time:  # Of two threads, the second finds what it needs.
            orders = self._orders(epoch)

        def part(where: Any) -> np.ndarray:
            members, own_steps, own_batch, pixels = where
            rows = [
                orders[member][start : start + steps][own_steps, own_batch]
                for member in range(len(self._keys))[members]
            ]
            return np.take(self._images, np.stack(rows), axis=0)[..., pixels]

        return jax.make_array_from_callback(self._shape(steps), self._sharding, part)

    def _orders_of(self, epoch: int) -> dict[int, np.ndarray]:
        """An epoch's order of images, ``[steps, batch]``, of each member here.

        Members of one key, such as those that differ in beta alone, share an order.
        """
        orders: dict[bytes, np.ndarray] = {}
        found = {}
        for member in self._own_members:
            key = self._keys[member]
            if key.tobytes() not in orders:
                order = self._order(key, np.int32(epoch))
                orders[key.tobytes()] = jax.device_get(order)
            found[member] = orders[key.tobytes()]
        return found

    @functools.cached_property
    def _own_members(self) -> list[int]:
        """Members of which some images lie on a device of this process."""
        parts = self._sharding.addressable_devices_indices_map(self._shape(1))
        every = np.arange(len(self._keys))
        return np.unique(
            np.concatenate([every[where[0]] for where in parts.values() if where])
        ).tolist()

    def _shape(self, steps: int) -> tuple[int, ...]:
        return (len(self._keys), steps, self._batch_size, self._images.shape[1])


class StreamedTraining:
    """Training on a stream, epoch by epoch.

    Args:
        stream: the pieces.
        programs: ``Trainer.piece`` over members, by the number of steps.
        first_steps: of each piece of an epoch, the first step, on the devices.
        sums: EpochMetrics over members, of whatever value.
    """

    def __init__(
        self,
        stream: Stream,
        programs: Mapping[int, jax.stages.Compiled],
        first_steps: Sequence[jax.Array],
        sums: EpochMetrics,
    ):
        self._stream, self._programs = stream, programs
        self._first_steps, self._sums = first_steps, sums
        self._before = sums

    def train_epoch(
        self, state: TrainState, members: Any
    ) -> tuple[TrainState, EpochMetrics]:
        """What ``Trainer.epoch`` over members returns."""
        for first_step in self._first_steps:
            # The piece before the last is done with; so no more are on the devices
            # than MOST_PIECES, and the devices never wait for Python.
            jax.block_until_ready(self._before)
            images = next(self._stream)
            program = self._programs[images.shape[1]]
            self._before = self._sums
            state, self._sums = program(state, self._sums, members, images, first_step)
        return state, self._sums
