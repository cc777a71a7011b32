"""The devices that members, and each member's batch, are split over.

A mesh has two axes. Along 'members' every device has members of its own, and nothing
passes between them. Along 'batch' devices hold the same members and share the images
of each batch; the compiler sums their gradients. A program that is traced within a
mesh finds it there, so the code of one device serves many.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

MEMBERS, BATCH = "members", "batch"


def make_mesh(devices: Sequence[jax.Device], batch: int = 1) -> Mesh:
    """Returns devices along 'members', ``batch`` neighbours each along 'batch'."""
    return Mesh(np.array(devices).reshape(-1, batch), (MEMBERS, BATCH))


def split_batch(tree: Any) -> Any:
    """Splits arrays ``[batch, ...]`` along the 'batch' axis of the mesh traced within.

    Unchanged without such a mesh, or if the axis does not divide them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    size = mesh.shape.get(BATCH, 1)

    def split(leaf: Any) -> Any:
        if size == 1 or leaf.shape[0] % size:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(BATCH))

    return jax.tree.map(split, tree)
