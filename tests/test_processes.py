"""Tests of experiments.runner.processes: one process, and two connected ones."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.runner import processes
from vae_jax.population import Layout, Placement, put

ROOT = Path(__file__).parents[1]

VALUES = (
    None,
    True,
    -3,
    0.1,
    "",
    "naïve\n",
    [],
    [["likelihood=beta,seed=0"], 2],
    {"a": {"b": [1.5, None]}},
    "x" * 100_000,
)


def arrays():
    """Returns named arrays of all kinds that a checkpoint holds."""
    generator = np.random.default_rng(0)
    return {
        "state/weights": generator.normal(size=(3, 4)).astype(np.float32),
        "state/active": np.array([True, False, True]),
        "seconds": np.float64(0.1),
        "epoch": np.int32(7),
        "members/key": np.array([0, 2**32 - 1], np.uint32),
        "images": generator.integers(0, 256, (2, 3, 3), np.uint8),
        "special": np.array([-0.0, np.inf, np.nan, 1e-45, 0.1], np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }


def assert_same_arrays(received, expected):
    assert received.keys() == expected.keys()
    for name, array in expected.items():
        assert received[name].dtype == array.dtype, name
        assert received[name].shape == array.shape, name
        assert received[name].tobytes() == array.tobytes(), name


def test_a_single_process_is_the_first():
    assert processes.is_primary()


@pytest.mark.parametrize("value", VALUES[:-1])
def test_a_single_process_tells_itself(value):
    assert processes.from_primary(value) is value


def test_a_single_process_keeps_its_arrays():
    own = arrays()
    assert processes.arrays_from_primary(own) is own


# --- two processes --------------------------------------------------------------------

HELD = "all has held"


def check_in_two(port, process_id):
    """Runs the checks in each of the two processes; prints a line if all hold."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process_id)
    assert processes.is_primary() == (process_id == 0)
    for value in VALUES:
        told = processes.from_primary(value if process_id == 0 else "not this")
        assert told == value, value
        assert type(told) is type(value)

    mine = arrays() if process_id == 0 else {"not": np.zeros(3)}
    assert_same_arrays(processes.arrays_from_primary(mine), arrays())
    assert processes.arrays_from_primary({}) == {}

    placement = Placement(4, Layout.of(4))
    special = np.tile(np.array([[-0.0, -np.inf, 1e-45]], np.float32), (2, 1))
    tree = {
        "x": np.arange(8.0, dtype=np.float32).reshape(4, 2),
        "n": np.arange(2),
        "special": special,
    }
    for sharding in (placement.split, placement.shared):
        placed = put(tree, sharding)
        assert placed["x"].sharding == sharding
        assert not placed["x"].is_fully_addressable
        assert put(placed, sharding)["x"] is placed["x"]
        assert placement.fetch(placed)["special"].tobytes() == special.tobytes()
        # A program sees whole arrays, and its results come back whole.
        doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree))(
            placed
        )
        fetched = placement.fetch(doubled)
        np.testing.assert_array_equal(fetched["x"], 2 * tree["x"])
        np.testing.assert_array_equal(fetched["n"], 2 * tree["n"])
    rows = placement.place(tree)["x"].addressable_shards
    assert [shard.data.shape for shard in rows] == [(2, 2)]

    keys = jax.random.split(jax.random.key(3), 4)
    bits = jax.jit(jax.vmap(jax.random.bits))
    np.testing.assert_array_equal(
        placement.fetch(bits(placement.place(keys))), bits(keys)
    )
    print(HELD)


def test_two_processes_share_what_the_first_has():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.test_processes", str(port), str(process_id)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process_id in (0, 1)
    ]
    try:
        for process in started:
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            # Gloo prints its own lines there.
            assert stdout.splitlines()[-1] == HELD
    finally:
        for process in started:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    check_in_two(*map(int, sys.argv[1:]))
