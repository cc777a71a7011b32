"""Tests of Adam: its numbers are optax's, and its program copies no moments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.training.adam import scale_by_adam

OPTIONS = (0.8, 0.95, 1e-3)
SHAPE = (96, 40)


def gradients(step):
    keys = jax.random.split(jax.random.key(step))
    return {
        "kernel": jax.random.normal(keys[0], SHAPE),
        "bias": 1e-4 * jax.random.normal(keys[1], SHAPE[1:]),
    }


def test_directions_and_moments_are_those_of_optax():
    own, theirs = scale_by_adam(*OPTIONS), optax.scale_by_adam(*OPTIONS)
    update = jax.jit(lambda g, state: own.update(g, state, taken=jnp.bool_(True)))
    state = expected_state = own.init(gradients(0))
    for step in range(5):
        direction, state = update(gradients(step), state)
        expected, expected_state = theirs.update(gradients(step), expected_state)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            (direction, state),
            (expected, expected_state),
        )


@pytest.mark.parametrize("value", [1.0, jnp.nan, jnp.inf])
def test_an_update_that_is_not_taken_leaves_every_bit(value):
    adam = scale_by_adam(*OPTIONS)
    _, state = adam.update(gradients(0), adam.init(gradients(0)), taken=True)
    wrong = jax.tree.map(lambda leaf: leaf.at[0].set(value), gradients(1))
    _, after = jax.jit(adam.update)(wrong, state, taken=jnp.bool_(False))
    jax.tree.map(np.testing.assert_array_equal, state, after)


def copies(update, init):
    """Returns the copies of arrays of the kernel's shape in a compiled update loop."""

    def step(carry, gradient):
        params, state = carry
        taken = jnp.isfinite(gradient).all()
        direction, state = update({"kernel": gradient}, state, taken)
        moved = jax.tree.map(
            lambda p, d: jnp.where(taken, p - 0.1 * d, p), params, direction
        )
        return (moved, state), None

    def loop(carry, stacked):
        return jax.lax.scan(step, carry, stacked)[0]

    params = {"kernel": jnp.zeros(SHAPE)}
    program = jax.jit(loop, donate_argnums=0).lower(
        (params, init(params)), jnp.zeros((3, *SHAPE))
    )
    text = program.compile({"xla_backend_optimization_level": "3"}).as_text()
    return sum("f32[96,40]" in line and " copy(" in line for line in text.splitlines())


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a remedy for XLA on CPUs")
def test_no_moment_is_copied_before_it_is_updated():
    own, theirs = scale_by_adam(*OPTIONS), optax.scale_by_adam(*OPTIONS)

    def select_afterwards(gradients, state, taken):
        direction, new = theirs.update(gradients, state)
        return direction, optax.tree.where(taken, new, state)

    def select_before(gradients, state, taken):
        return own.update(gradients, state, taken=taken)

    assert copies(select_before, own.init) == 0
    assert copies(select_afterwards, theirs.init) >= 2


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_programs_for_a_cpu_have_a_barrier(platform):
    adam = scale_by_adam(*OPTIONS)
    state = adam.init(gradients(0))
    traced = jax.jit(adam.update).trace(gradients(0), state, taken=jnp.bool_(True))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("optimization_barrier" in text) == (platform == "cpu")
