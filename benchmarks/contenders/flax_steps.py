"""Flax as in its examples: one jitted step per batch, fed from NumPy."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from benchmarks.work import PIXELS, Work, initial_weights


class Network(nn.Module):
    """Images ``[batch, 784]`` of zeros and ones to their mean ELBO."""

    width: int
    latent_dim: int

    @nn.compact
    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        h = nn.relu(nn.Dense(self.width, name="encoder")(x))
        mean = nn.Dense(self.latent_dim, name="mean")(h)
        log_scale = nn.Dense(self.latent_dim, name="log_scale")(h)
        z = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
        h = nn.relu(nn.Dense(self.width, name="decoder")(z))
        logits = nn.Dense(PIXELS, name="output")(h)
        reconstruction = -optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
        kl = (0.5 * (mean**2 + jnp.expm1(2 * log_scale)) - log_scale).sum(-1)
        return (reconstruction - kl).mean()


@functools.partial(jax.jit, donate_argnums=0)
def train_step(
    state: TrainState, images: jax.Array, key: jax.Array
) -> tuple[TrainState, jax.Array]:
    pixel_key, latent_key = jax.random.split(jax.random.fold_in(key, state.step))
    x = jax.random.bernoulli(pixel_key, images).astype(jnp.float32)

    def loss(params):
        return -state.apply_fn({"params": params}, x, latent_key)

    value, gradients = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=gradients), -value


def make(work: Work, variant: str) -> Callable[[], float]:
    del variant
    images = work.images().astype(np.float32) / 255
    weights = initial_weights(work, images.mean(0))
    params = {
        name: {
            "kernel": jnp.asarray(weight),
            "bias": jnp.asarray(weights[f"{name}_bias"]),
        }
        for name, weight in weights.items()
        if weight.ndim == 2
    }
    state = TrainState.create(
        apply_fn=Network(work.width, work.latent_dim).apply,
        params=params,
        tx=optax.adam(work.learning_rate),
    )
    generator = np.random.default_rng(0)
    num_steps = len(images) // work.batch_size

    def epoch() -> float:
        nonlocal state
        order = generator.permutation(len(images))[: num_steps * work.batch_size]
        elbos = []
        for batch in order.reshape(num_steps, work.batch_size):
            state, elbo = train_step(state, images[batch], jax.random.key(0))
            elbos.append(elbo)
        return float(np.mean(jax.device_get(elbos)))

    return epoch
