"""Networks of dense layers."""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax

from vae_jax.networks.common import (
    ACTIVATIONS,
    PRECISIONS,
    ActivatedNetwork,
    LayeredNetwork,
    LinearHeads,
    OutputBias,
    apply_block,
    dense,
)
from vae_jax.networks.interface import Heads, Module, Shape


class _Dense(LayeredNetwork):
    """An encoder and a decoder of dense layers."""

    def encoder(self, image_shape: Shape, heads: Heads) -> Module:
        """See ``Network``."""
        del image_shape
        return MLPEncoder(heads=heads, **self.layers)

    def decoder(self, image_shape: Shape, pixel_outputs: int) -> Module:
        """See ``Network``."""
        return MLPDecoder(
            image_shape=image_shape, pixel_outputs=pixel_outputs, **self.layers
        )


@dataclasses.dataclass(frozen=True)
class MLP(_Dense, ActivatedNetwork):
    """Dense layers; linear maps if there are no widths."""


@dataclasses.dataclass(frozen=True)
class Gated(_Dense):
    """Dense layers with gates in place of an activation.

    As in Tomczak & Welling 2018, "VAE with a VampPrior".
    """


class MLPEncoder(nn.Module):
    """Array to named linear outputs, by dense layers."""

    widths: tuple[int, ...]
    heads: Heads
    activation: str | None = None  # None: gates
    starts_at_zero: tuple[str, ...] = ()  # names of heads
    precision: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:  # x [..., D]
        h = apply_dense(self, x, self.widths)
        head = LinearHeads(self.heads, self.starts_at_zero, self.precision, name="head")
        return head(h)


class MLPDecoder(nn.Module):
    """Latent to likelihood parameters ``[..., pixel_outputs, D]``, by dense layers.

    Widths are given from the image inwards, like the encoder's, so one setting
    describes both; the decoder applies them in reverse.
    """

    widths: tuple[int, ...]
    image_shape: Shape
    pixel_outputs: int
    activation: str | None = None  # None: gates
    precision: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:  # z [..., latent]
        num_pixels = math.prod(self.image_shape)
        # One batch axis: with two, XLA transposes the gradient of every product.
        h = z.reshape(-1, z.shape[-1])
        h = apply_dense(self, h, self.widths[::-1])
        size, dtype = self.pixel_outputs * num_pixels, PRECISIONS[self.precision]
        h = dense(size, use_bias=False, dtype=dtype, name="output")(h)
        h = h.reshape(*z.shape[:-1], self.pixel_outputs, num_pixels)
        return OutputBias(name="bias")(h)


def apply_dense(module: Any, h: jax.Array, widths: tuple[int, ...]) -> jax.Array:
    """Applies dense layers of a module; gated, (W1 h + b1) * sigmoid(W2 h + b2).

    Rematerialized, n layers are cut into blocks of about sqrt(n): the inputs of all
    blocks are kept, and within one of them at a time what is recomputed (Chen et al.
    2016, "Training deep nets with sublinear memory cost"). Of a single layer nothing
    would be saved: its product needs its input for the gradient anyway.
    """
    layer = functools.partial(dense, dtype=PRECISIONS[module.precision])

    def layers(_: Any, h: jax.Array, widths: tuple[int, ...]) -> jax.Array:
        for width in widths:
            if module.activation is None:
                h = layer(width)(h) * nn.sigmoid(layer(width)(h))
            else:
                h = ACTIVATIONS[module.activation](layer(width)(h))
        return h

    size = math.ceil(math.sqrt(len(widths))) or 1
    for first in range(0, len(widths), size):
        block = functools.partial(layers, widths=widths[first : first + size])
        h = apply_block(module, block, h)
    return h
