"""Tests of vae_jax.training.averaging; test_training has those of its use."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_training import CONFIG, build
from vae_jax.population import param_shapes
from vae_jax.training import Trainer
from vae_jax.training.averaging import add_to_average

NUM_STEPS = 20_000
PARAMS = np.random.default_rng(0).normal(1, 0.1, (NUM_STEPS, 3)).astype(np.float32)


@pytest.mark.parametrize("decay", [0.5, 0.9999, 1 - 1e-10])  # The last is 1 in float32.
def test_the_average_of_many_steps_is_a_weighted_mean(decay):
    """The weights of optax's averages miss a sum of 1 by more than the tolerance."""

    def add(average, step):
        count, params = step
        return add_to_average(average, params, decay=decay, count=count), None

    initial, counts = jnp.full(3, -1.0), 1 + jnp.arange(NUM_STEPS)
    average, _ = jax.lax.scan(add, initial, (counts, jnp.asarray(PARAMS)))
    weights = decay ** np.arange(NUM_STEPS)[::-1]
    expected = np.average(PARAMS.astype(float), 0, weights)
    np.testing.assert_allclose(average, expected, rtol=1e-5)


def test_only_with_an_average_there_are_more_arrays():
    """Checkpoints of runs without one stay as they are."""
    model = build()
    params = param_shapes(model)
    off, on = (
        jax.tree.leaves(jax.eval_shape(Trainer(model, config, 96).start, params))
        for config in (CONFIG, dataclasses.replace(CONFIG, ema=0.5))
    )
    assert len(on) - len(off) == len(jax.tree.leaves(params))
