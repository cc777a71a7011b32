"""Streaming: training images stay on the host and are sent to the devices in pieces.

A piece holds the images of some steps of an epoch. While one piece is trained on,
threads of grain gather the images of the next, in the order of ``Trainer.batches``, and
send them to the devices. A process gathers only the images of its own members.
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
from vae_jax.population import TrainEpoch
from vae_jax.training import EpochMetrics, Trainer, TrainState

# Pieces that are read while another is trained on, each by its own thread.
_AHEAD = 2
# Pieces on a device at once: those, the one that is trained on, and the next one.
MOST_PIECES = _AHEAD + 2


def import_grain() -> types.ModuleType:
    """Returns the module ``grain``, an optional dependency.

    Raises:
        DataError: it is not installed.
    """
    try:
        import grain
    except ImportError as error:
        why, remedy = f"it needs {error.name}", 'Run pip install "vae_jax[stream]"'
        raise DataError.of("data.stream", True, why, remedy) from error
    return grain


def split_epoch(
    num_steps: int, bytes_per_step: int, megabytes: float
) -> tuple[int, ...]:
    """Returns the number of steps of each piece of an epoch.

    Args:
        num_steps: number of steps of the epoch.
        bytes_per_step: bytes of the images of a step, on a device.
        megabytes: memory for ``MOST_PIECES`` pieces on a device.

    Raises:
        SettingsError: the memory is too small for pieces of one step.
    """
    most = min(num_steps, int(megabytes * 1e6 / (MOST_PIECES * bytes_per_step)))
    if not most:
        least = (MOST_PIECES * bytes_per_step // 100 + 1) / 1e4
        why = f"{MOST_PIECES} batches of all models on a device take {least} MB"
        remedy = f"Give at least {least}, or train fewer models together, with --only"
        raise SettingsError.of("data.stream_megabytes", megabytes, why, remedy)
    # Pieces of equal length need one program less: a few more pieces are worth that.
    even = max(steps for steps in range(1, most + 1) if num_steps % steps == 0)
    steps = even if 2 * even >= most else most
    whole, rest = divmod(num_steps, steps)
    return (steps,) * whole + (rest,) * (rest > 0)


class Stream:
    """Iterates over the pieces of an epoch and those after it, on the devices.

    Args:
        images: the training images, ``[N, D]``, uint8, on the host.
        keys: the members' keys, ``[members]``.
        pieces: the number of steps of each piece of an epoch.
        trainer: gives the order of the images and the number of epochs.
        epoch: number of epochs before the first one.
        sharding: of a piece, ``[members, steps, batch, D]``.
        labels: classes of the images, ``[N]``, if they are a part of the rows.
    """

    def __init__(
        self,
        images: np.ndarray,
        keys: jax.Array,
        pieces: Sequence[int],
        trainer: Trainer,
        epoch: int,
        sharding: Sharding,
        labels: np.ndarray | None = None,
    ):
        grain = import_grain()
        self._images, self._pieces = np.asarray(images), pieces
        self._labels = labels if labels is None else labels.astype(np.uint8)
        data = np.asarray(jax.random.key_data(keys))
        self._keys, key_of = np.unique(data, axis=0, return_inverse=True)
        self._key_of = key_of.ravel()  # NumPy 2.0 returns another shape.
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
        """Returns the next piece, ``[members, steps, batch, D]``.

        Raises:
            DataError: the images cannot be read, or there is no memory for them.
        """
        try:
            return next(self._read)
        except (OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"cannot read training images ahead ({type(error).__name__}: "
                f"{reason}): check the disk that holds them; if memory is short, lower "
                "data.stream_megabytes."
            ) from error

    def close(self) -> None:
        """Ends the threads, and frees the pieces that they have read."""
        self._read.close()

    def _piece(self, index: int) -> jax.Array:
        epoch, position = divmod(int(index), len(self._pieces))
        start, steps = sum(self._pieces[:position]), self._pieces[position]
        with self._one_at_a_time:  # The second thread finds the order of the first.
            orders = self._orders(epoch)

        def part(where: Any) -> np.ndarray:
            members, own_steps, own_batch, values = where
            places = np.stack(
                [
                    orders[key][start : start + steps][own_steps, own_batch]
                    for key in self._key_of[members]
                ]
            )
            rows = np.take(self._images, places, axis=0)
            if self._labels is not None:
                labels = self._labels[places][..., None]
                rows = np.concatenate([rows, labels], axis=-1)
            return rows[..., values]

        return jax.make_array_from_callback(self._shape(steps), self._sharding, part)

    def _orders_of(self, epoch: int) -> dict[int, np.ndarray]:
        """Returns an epoch's order of images, ``[steps, batch]``, by index of the key.

        It covers the members with images on a device of this process. Members with the
        same key, such as those that differ only in beta, share an order.
        """
        parts = self._sharding.addressable_devices_indices_map(self._shape(1)).values()
        own = np.concatenate([self._key_of[where[0]] for where in parts if where])
        return {
            key: jax.device_get(self._order(self._keys[key], np.int32(epoch)))
            for key in np.unique(own).tolist()
        }

    def _shape(self, steps: int) -> tuple[int, ...]:
        row_size = self._images.shape[1] + (self._labels is not None)
        return (len(self._key_of), steps, self._batch_size, row_size)


def training(
    stream: Stream,
    programs: Mapping[int, jax.stages.Compiled],
    first_steps: Sequence[jax.Array],
    sums: EpochMetrics,
    members: Any,
) -> TrainEpoch:
    """Returns the function that trains one epoch after another on a stream.

    It returns the same as ``Trainer.epoch`` over members.

    Args:
        stream: the pieces.
        programs: ``Trainer.piece`` over members, by the number of steps.
        first_steps: index of the first step of each piece, on the devices.
        sums: EpochMetrics over members, of any value: the first step resets them.
        members: the members, placed.
    """
    before = sums

    def train_epoch(state: TrainState) -> tuple[TrainState, EpochMetrics]:
        nonlocal before, sums
        for first_step in first_steps:
            # Waits for the piece before the last: then at most MOST_PIECES are on the
            # devices, and the devices never wait for Python.
            jax.block_until_ready(before)
            images, before = next(stream), sums
            program = programs[images.shape[1]]
            state, sums = program(state, sums, members, images, first_step)
        return state, sums

    return train_epoch
