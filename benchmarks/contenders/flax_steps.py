"""Flax as in its examples: one jitted step per batch, fed from NumPy."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from benchmarks.work import KERNEL, SIDE, Layer, Work, initial_weights

_ACTIVATIONS = {"relu": nn.relu, "tanh": jnp.tanh}
_KERNEL = (KERNEL, KERNEL)


class Network(nn.Module):
    """Maps images ``[batch, 784]`` of zeros and ones to their mean ELBO."""

    work: Work

    @property
    def dtype(self) -> Any:
        """The type that layers compute in; None: that of the parameters."""
        return jnp.bfloat16 if self.work.precision == "bfloat16" else None

    @nn.compact
    def __call__(self, x: jax.Array, key: jax.Array) -> jax.Array:
        h = x
        if self.work.network == "conv":
            h = h.reshape(-1, SIDE, SIDE, 1)
        h = self._activated("encoder", h)
        h = h.reshape(len(h), -1)
        dense = functools.partial(nn.Dense, self.work.latent_dim, dtype=self.dtype)
        mean = dense(name="mean")(h).astype(jnp.float32)
        log_scale = dense(name="log_scale")(h).astype(jnp.float32)
        z = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
        h = self._activated("decoder", z)
        output = _linen(self.work.layers()[-1], self.dtype)(h).reshape(x.shape)
        bias = self.param("pixels", nn.initializers.zeros, x.shape[1:])
        logits = output + bias[None]
        reconstruction = -optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
        kl = (0.5 * (mean**2 + jnp.expm1(2 * log_scale)) - log_scale).sum(-1)
        return (reconstruction - kl).mean()

    def _activated(self, prefix: str, h: jax.Array) -> jax.Array:
        side = self.work.inner_side
        for layer in self.work.layers():
            if not layer.name.startswith(prefix):
                continue
            if layer.kind == "transposed" and h.ndim == 2:
                h = h.reshape(-1, side, side, layer.inputs)
            h = _ACTIVATIONS[self.work.activation](_linen(layer, self.dtype)(h))
        return h


def _linen(layer: Layer, dtype: Any) -> nn.Module:
    last = layer.name == "output"  # Its bias is one for each pixel.
    options = {"use_bias": not last, "name": layer.name, "dtype": dtype}
    if layer.kind == "dense":
        return nn.Dense(layer.outputs, **options)
    if layer.kind == "transposed":
        return nn.ConvTranspose(layer.outputs, _KERNEL, strides=(2, 2), **options)
    return nn.Conv(layer.outputs, _KERNEL, strides=1 if last else 2, **options)


def _parameters(work: Work, weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the weights of ``initial_weights`` by Flax's names."""
    params: dict[str, Any] = {
        layer.name: {
            "kernel": jnp.asarray(weights[layer.name]),
            "bias": jnp.asarray(weights[f"{layer.name}_bias"]),
        }
        for layer in work.layers()
    }
    params["pixels"] = params["output"].pop("bias")
    return params


def initial_state(work: Work, pixel_mean: np.ndarray) -> TrainState:
    """Returns the network with its initial weights and Adam."""
    return TrainState.create(
        apply_fn=Network(work).apply,
        params=_parameters(work, initial_weights(work, pixel_mean)),
        tx=optax.adam(work.learning_rate),
    )


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
    state = initial_state(work, images.mean(0))
    generator = np.random.default_rng(0)

    def epoch() -> float:
        nonlocal state
        order = generator.permutation(len(images))[: work.num_steps * work.batch_size]
        elbos = []
        for batch in order.reshape(work.num_steps, work.batch_size):
            state, elbo = train_step(state, images[batch], jax.random.key(0))
            elbos.append(elbo)
        return float(np.mean(jax.device_get(elbos)))

    return epoch
