"""Tests of vae_jax.population.placement: here, and on eight simulated devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from vae_jax.fitting import epochs
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.population import Layout, Placement, Population, member_keys, put
from vae_jax.training import TrainingConfig

ROOT = Path(__file__).parents[1]
NUM_DEVICES = 8


def test_fetch_is_the_inverse_of_place():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": [jnp.arange(2), np.ones(2)]}
    placement = Placement(2, Layout.of(2))
    fetched = placement.fetch(placement.place(tree))
    assert jax.tree.structure(fetched) == jax.tree.structure(tree)
    for before, after in zip(*map(jax.tree.leaves, (tree, fetched)), strict=True):
        assert isinstance(after, np.ndarray)
        np.testing.assert_array_equal(after, before)


def test_what_lies_there_already_is_not_copied():
    sharding = SingleDeviceSharding(jax.devices()[0])
    placed = put(jnp.arange(3), sharding)
    assert put(placed, sharding) is placed


def test_keys_are_placed():
    keys = jax.random.split(jax.random.key(3), 2)
    placed = put(keys, SingleDeviceSharding(jax.devices()[0]))
    np.testing.assert_array_equal(
        jax.random.key_data(placed), jax.random.key_data(keys)
    )


# --- eight devices --------------------------------------------------------------------


def population(layout):
    """Twelve members of two latent sizes."""
    models = [
        make_vae(
            make_likelihood("bernoulli", 17),
            image_shape=(8, 8, 1),
            latent_dim=size,
            widths=(64,),
        )
        for size in (2, 3) * 6
    ]
    return Population(
        models,
        TrainingConfig(batch_size=4),
        8,
        keys=member_keys(np.arange(12, dtype=np.uint32)),
        beta=np.ones(12),
        learning_rate=np.ones(12),
        layout=layout,
    )


def check_on_many():
    """Runs the checks in a process with eight devices."""
    assert jax.device_count() == NUM_DEVICES
    statistics = np.full(64, 0.4, np.float32), np.full(64, 0.2, np.float32)
    many, one = population(Layout.of(12)), population(Layout.of(12, jax.devices()[:1]))
    states = []
    for each in (many, one):
        program = each.compile_init(*statistics)
        with jax.transfer_guard_device_to_device("disallow"):
            states.append(each.init(program, *statistics))
        # Results are there where they are used: a sixth of them on each of six.
        size = program.memory_analysis().output_size_in_bytes
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(states[-1]))
        share = each.placement.layout.num_used
        assert size == pytest.approx(whole / share, rel=0.05)
    for leaf in jax.tree.leaves(states[0]):
        shards = leaf.addressable_shards
        assert [shard.data.shape[0] for shard in shards] == [2] * 6
        assert len({shard.device for shard in shards}) == 6
    for leaf in jax.tree.leaves(states[1]):
        assert leaf.devices() == {jax.devices()[0]}
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
    check_metrics()


def check_metrics():
    """Metrics are those of 13 members, though 14 are trained, two on each device."""
    images = np.random.default_rng(0).integers(0, 17, (8, 8, 8), np.uint8)
    (model, *_), seeds = population(Layout.of(12)).models, range(13)
    config = TrainingConfig(batch_size=4, num_epochs=1)
    for validation in (None, images):
        _, last = epochs(
            model, images, config, seeds=seeds, validation_images=validation
        )
        assert last.population.placement.num_padded == 14
        assert last.metrics.terms.bound.shape == (13,)


@pytest.mark.slow
def test_every_device_initialises_and_holds_its_own_members():
    flags = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
    subprocess.run(
        [sys.executable, "-m", "tests.test_placement"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        check=True,
    )


# --- memory ---------------------------------------------------------------------------


def test_a_plan_of_memory_counts_state_data_and_the_hungriest_program():
    own = population(Layout.of(12))
    statistics = np.full(64, 0.4, np.float32), np.full(64, 0.2, np.float32)
    images = np.zeros((8, 64), np.uint8)
    init, epoch = own.compile_init(*statistics), own.compile_epoch(images)
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(own.init(init, *statistics)))
    needed, shared = own.bytes_needed(init, [epoch], [images])
    assert shared == images.nbytes
    # An epoch takes the state's memory for its own result.
    assert state + images.nbytes < needed < 2 * state + images.nbytes
    more, _ = own.bytes_needed(init, [epoch], [images, np.zeros(10**6, np.uint8)])
    assert more == needed + 10**6
    # If the first state takes more than everything later, it decides.
    validation = own.compile_validation(np.zeros((1, 64), np.float32))
    without, _ = own.bytes_needed(validation, [validation], [images])
    first, _ = own.bytes_needed(init, [validation], [images])
    assert first >= max(without, state + images.nbytes)


if __name__ == "__main__":
    check_on_many()
