"""JAX as its guide begins: the Flax contender's step, an epoch of them in one scan.

It does only the work that a training cannot do without: no norm of the gradient, no
check of values that are not finite, no terms but the mean ELBO, no other members.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import flax_steps
from benchmarks.work import Work


def make(work: Work, variant: str) -> Callable[[], float]:
    """Returns an epoch.

    Raises:
        ValueError: the network has convolutions, whose gradients XLA computes in a loop
            on a CPU so slowly that an epoch takes minutes.
    """
    del variant
    if work.network == "conv" and work.platform == "cpu":
        raise ValueError("XLA's convolutions in a loop take minutes on a CPU")
    intensity = work.images().astype(np.float32) / 255
    state = flax_steps.initial_state(work, intensity.mean(0))

    @functools.partial(jax.jit, donate_argnums=0)
    def train_epoch(state, images):
        shuffle_key, step_key = jax.random.split(jax.random.key(0))
        shuffle_key = jax.random.fold_in(shuffle_key, state.step)
        order = jax.random.permutation(shuffle_key, len(images))
        batches = order[: work.num_steps * work.batch_size].reshape(work.num_steps, -1)

        def step(state, batch):
            return flax_steps.train_step(state, images[batch], step_key)

        state, elbos = jax.lax.scan(step, state, batches)
        return state, elbos.mean()

    images = jnp.asarray(intensity)

    def epoch() -> float:
        nonlocal state
        state, elbo = train_epoch(state, images)
        return float(elbo)

    return epoch
