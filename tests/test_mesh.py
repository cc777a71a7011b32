"""Tests of vae_jax.mesh: members, and batches, split over eight simulated devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.images import load_data
from experiments.runner.images import Images
from experiments.runner.task import GroupTask
from experiments.settings import grid
from tests.folders import small_sweep
from vae_jax.mesh import BATCH, MEMBERS, make_mesh, split_batch

ROOT = Path(__file__).parents[1]
NUM_DEVICES = 8
# Devices along 'members' (at most), those along 'batch', seeds, and how members run.
LAYOUTS = {
    "members": (0, 1, 11, "map"),  # and five more of padding
    "batch": (0, 8, 1, "loop"),
    "both": (2, 4, 4, "loop"),
}
# Sums over a batch are made in another order.
TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}


def test_without_a_mesh_nothing_is_split():
    x = jnp.ones((4, 2))
    assert split_batch({"x": x})["x"] is x


def task(layout):
    members, batch, seeds, execution = layout
    config = small_sweep()
    config["data"]["num_train"] = 200
    config["model"]["widths"] = (16,)
    config["training"]["batch_size"] = 40
    config["evaluation"] |= {"num_samples": 8, "chunk": 4, "batch_size": 20}
    config["parallel"] = {
        **config["parallel"],
        **{"members": members, "batch": batch, "member_execution": execution},
    }
    config["sweep"] = {"seed": tuple(range(seeds))}
    runs = grid.expand(config)
    data = load_data(runs[0].settings.data)
    (group,) = grid.group(runs)
    return GroupTask(group, Images(data))


def trained(task):
    """Returns state after two epochs, validation and evaluation, as placed."""
    compiled = task.compile()
    state = compiled.init()
    with compiled.training(0) as train_epoch, jax.transfer_guard("disallow"):
        for _ in range(2):
            state, metrics = train_epoch(state)
    state, validation = compiled.validate(state)
    reports = task.placement.fetch((metrics, validation))
    return state, reports, compiled.measure(state.best_params).evaluation


def check_on_many(name):
    """Runs the checks in a process with eight devices."""
    assert jax.device_count() == NUM_DEVICES
    layout = LAYOUTS[name]
    many = task(layout)
    state, *reports = trained(many)

    # The state is really split: every device holds its own members and no others.
    _, batch, seeds, _ = layout
    mesh = state.epoch.sharding.mesh
    assert mesh.shape[BATCH] == batch
    own = -(-seeds // mesh.shape[MEMBERS])
    for leaf in jax.tree.leaves(state):
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            assert {s.data.shape[0] for s in leaf.addressable_shards} == {own}
            assert len(leaf.addressable_shards) == mesh.size

    one = task((1, 1, seeds, "loop"))
    expected, *expected_reports = trained(one)
    assert len(expected.epoch.devices()) == 1
    got = (many.placement.fetch(state).params, reports)
    for a, b in zip(
        jax.tree.leaves(got),
        jax.tree.leaves((one.placement.fetch(expected).params, expected_reports)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, **TOLERANCE)

    # Within the mesh a batch is really split, and one that cannot be is left whole.
    mesh = make_mesh(jax.devices(), NUM_DEVICES)
    with jax.set_mesh(mesh):
        parts = jax.jit(split_batch)((jnp.ones((16, 3)), jnp.ones((9, 3))))
    assert [part.addressable_shards[0].data.shape for part in parts] == [(2, 3), (9, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_many_devices_give_the_numbers_of_one(name):
    flags = (
        f"--xla_force_host_platform_device_count={NUM_DEVICES} "
        "--xla_backend_optimization_level=0"  # Compilation takes most of the time.
    )
    subprocess.run(
        [sys.executable, "-m", "tests.test_mesh", name],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        check=True,
    )


if __name__ == "__main__":
    check_on_many(sys.argv[1])
