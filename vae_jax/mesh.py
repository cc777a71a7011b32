"""The devices that members, and the batches of each member, are split over.

A mesh has two axes. Along 'members' every device has its own members, and devices
exchange no data. Along 'batch' devices hold the same members and share the images of
each batch; the compiler sums their gradients. A program that is traced within a mesh
can read it, so the same code serves one device and many.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

MEMBERS, BATCH = "members", "batch"


def make_mesh(devices: Sequence[jax.Device], batch: int = 1) -> Mesh:
    """Returns a mesh of devices; groups of ``batch`` neighbours share each batch.

    Args:
        devices: the devices; their number must be a multiple of ``batch``.
        batch: length of the axis 'batch'.
    """
    return Mesh(np.array(devices).reshape(-1, batch), (MEMBERS, BATCH))


def batch_devices() -> int:
    """Returns the number of devices along the current mesh's 'batch' axis, or 1."""
    size: int = jax.sharding.get_abstract_mesh().shape.get(BATCH, 1)
    return size


def split_batch(tree: Any) -> Any:
    """Splits arrays ``[batch, ...]`` over the 'batch' axis of the current mesh.

    An array is unchanged without such a mesh, or if its batch is not divisible by the
    length of the axis.
    """
    size = batch_devices()

    def split(leaf: Any) -> Any:
        if size == 1 or leaf.shape[0] % size:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(BATCH))

    return jax.tree.map(split, tree)
