"""Pads the members of a population, splits them over devices, and fetches them."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from vae_jax.checks import is_keys
from vae_jax.mesh import MEMBERS, make_mesh


class Layout(NamedTuple):
    """Members on columns of devices; the devices of a column split each batch.

    As few members as possible are on the fullest column, then as few columns as
    possible are used: 12 members on 8 devices take 6 devices with 2 members each, since
    no other division is faster.
    """

    devices: tuple[jax.Device, ...]  # devices of the columns that are used
    num_columns: int  # columns that there are
    num_used: int  # columns that are used, fewer if members are few
    per_column: int  # members on each column that is used, padding included

    @classmethod
    def of(
        cls,
        num_members: int,
        devices: Sequence[jax.Device] | None = None,
        *,
        columns: int = 0,
        batch: int = 1,
    ) -> "Layout":
        """Returns the layout of so many members.

        Args:
            num_members: how many.
            devices: that may be used; all of them if None.
            columns: the most columns to use; 0: all.
            batch: number of devices in a column.
        """
        devices = jax.devices() if devices is None else devices
        is_list = isinstance(devices, Sequence) and not isinstance(devices, str)
        if not is_list or not devices:
            raise ValueError(
                f"devices is {devices!r}: give at least one, as in jax.devices()."
            )
        available = min(columns or len(devices), len(devices) // batch)
        per_column = -(-num_members // available)
        used = -(-num_members // per_column)
        if jax.process_count() > 1:
            used = available  # Every process takes part.
        return cls(tuple(devices[: used * batch]), available, used, per_column)


class Placement:
    """Arrays over members, on the devices of a layout.

    The last member is repeated until all columns have equally many members.

    Args:
        num_members: how many there are.
        layout: the devices.
    """

    def __init__(self, num_members: int, layout: Layout):
        self.num_members, self.layout = num_members, layout
        self.num_padded = layout.num_used * layout.per_column
        self._index = np.minimum(np.arange(self.num_padded), num_members - 1)

    @property
    def platform(self) -> str:
        """The platform that programs are compiled for: 'cpu', 'gpu' or 'tpu'."""
        platform: str = self.layout.devices[0].platform
        return platform

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """The devices as a mesh; None if there is only one."""
        devices = self.layout.devices
        if len(devices) == 1:
            return None
        return make_mesh(devices, len(devices) // self.layout.num_used)

    @property
    def split(self) -> Sharding:
        """The sharding of arrays over members, ``[members, ...]``."""
        return self._sharding(PartitionSpec(MEMBERS))

    @property
    def shared(self) -> Sharding:
        """The sharding of arrays that all members share: a copy on each device."""
        return self._sharding(PartitionSpec())

    def _sharding(self, spec: PartitionSpec) -> Sharding:
        if self.mesh is None:
            return SingleDeviceSharding(self.layout.devices[0])
        return NamedSharding(self.mesh, spec)

    def pad(self, stacked: Any) -> Any:
        """Returns arrays over the members, padded; on the host if they are there."""
        if self.num_padded == self.num_members:
            return stacked
        return jax.tree.map(lambda leaf: leaf[self._index], stacked)

    def place(self, stacked: Any) -> Any:
        """Returns padded arrays over members, split over the devices."""
        return put(stacked, self.split)

    def place_shared(self, tree: Any) -> Any:
        """Returns arrays that all members share, on each device."""
        return put(tree, self.shared)

    def fetch(self, stacked: Any) -> Any:
        """Returns arrays over the members, without padding, on the host."""
        if jax.process_count() > 1:
            stacked = multihost_utils.process_allgather(stacked, tiled=True)
        return jax.tree.map(
            lambda leaf: np.asarray(leaf)[: self.num_members], jax.device_get(stacked)
        )

    def shapes(self, tree: Any, sharding: Sharding) -> Any:
        """Returns the shapes of arrays, with a sharding."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            tree,
        )


def member(stacked: Any, index: int) -> Any:
    """Returns one member's part of arrays ``[members, ...]``."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def put(tree: Any, sharding: Sharding) -> Any:
    """Returns arrays, equal in every process, placed as a program needs them."""

    def put_leaf(leaf: Any) -> Any:
        if getattr(leaf, "sharding", None) == sharding:
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if is_keys(leaf):
            data = np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(jax.device_put(data, sharding))
        return jax.device_put(np.asarray(leaf), sharding)

    return jax.tree.map(put_leaf, tree)
