"""Networks of dense layers."""

import abc
import dataclasses
import functools
import math
import re
from typing import Any, ClassVar

import flax.linen as nn
import jax

from vae_jax.networks.common import (
    ActivatedNetwork,
    LayeredNetwork,
    LinearHeads,
    OutputBias,
    apply_block,
    side_by_side,
)
from vae_jax.networks.interface import Heads, Module, Network, Shape


class DenseNetwork(LayeredNetwork, Network):
    """An encoder and a decoder of dense layers; a class is a part of their input."""

    takes_class: ClassVar[bool] = True

    @abc.abstractmethod
    def hidden(self, width: int, h: jax.Array) -> jax.Array:
        """Returns the outputs ``[..., width]`` of a hidden layer."""

    def encoder(self, image_shape: Shape, heads: Heads) -> Module:
        """See ``Network``."""
        del image_shape
        return MLPEncoder(self, heads)

    def decoder(self, image_shape: Shape, pixel_outputs: int) -> Module:
        """See ``Network``."""
        return MLPDecoder(self, image_shape, pixel_outputs)


@dataclasses.dataclass(frozen=True)
class MLP(DenseNetwork, ActivatedNetwork):
    """Dense layers; encoder and decoder are linear if there are no widths."""

    def hidden(self, width: int, h: jax.Array) -> jax.Array:
        """Returns the activation of W h + b."""
        return self.activate(self.dense(width)(h))


def hidden_layers(
    field: str, widths: tuple[int, ...], activation: str, precision: str
) -> MLP:
    """Returns the hidden layers of another part, which has their widths as a field.

    Args:
        field: the name of that field, for messages.
        widths: hidden units of each layer.
        activation: a name in ``ACTIVATIONS``.
        precision: a name in ``PRECISIONS``.

    Raises:
        ValueError: a value is not allowed; the message names the field.
    """
    try:
        return MLP(widths, activation, precision=precision)
    except ValueError as error:
        raise ValueError(re.sub("^widths", field, str(error))) from None


@dataclasses.dataclass(frozen=True)
class Gated(DenseNetwork):
    """Dense layers with gates in place of an activation.

    As in Tomczak & Welling 2018, "VAE with a VampPrior".
    """

    def hidden(self, width: int, h: jax.Array) -> jax.Array:
        """Returns (W1 h + b1) * sigmoid(W2 h + b2)."""
        return self.dense(width)(h) * nn.sigmoid(self.dense(width)(h))


class MLPEncoder(nn.Module):
    """Maps arrays ``[..., D]``, side by side, to named linear outputs."""

    network: DenseNetwork
    heads: Heads
    starts_at_zero: tuple[str, ...] = ()  # names of heads

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> dict[str, jax.Array]:  # each [..., D]
        h = apply_dense(self, side_by_side(*inputs), self.network.widths)
        head = LinearHeads(self.network, self.heads, self.starts_at_zero, name="head")
        return head(h)


class MLPDecoder(nn.Module):
    """Maps latents to parameters ``[..., pixel_outputs, D]``, by dense layers.

    Widths are in the order of the encoder, from the image inwards, so one setting
    describes both. The decoder applies them in reverse order.
    """

    network: DenseNetwork
    image_shape: Shape
    pixel_outputs: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:  # z [..., latent]
        num_pixels = math.prod(self.image_shape)
        # One batch axis. With two, XLA transposes the gradient of every product.
        h = z.reshape(-1, z.shape[-1])
        h = apply_dense(self, h, self.network.widths[::-1])
        size = self.pixel_outputs * num_pixels
        h = self.network.dense(size, use_bias=False, name="output")(h)
        h = h.reshape(*z.shape[:-1], self.pixel_outputs, num_pixels)
        return OutputBias(name="bias")(h)


def apply_dense(module: Any, h: jax.Array, widths: tuple[int, ...]) -> jax.Array:
    """Applies the hidden layers of a module's network, in the order of ``widths``.

    For ``rematerialize``, n layers are cut into blocks of about sqrt(n) layers. Memory
    holds the inputs of all blocks and the recomputed arrays of one block at a time
    (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Blocks of a
    single layer would save nothing: the gradient of a product needs its input anyway.

    Args:
        module: a module with a dense ``network``.
        h: ``[..., inputs]``.
        widths: hidden units of each layer.

    Returns:
        ``[..., widths[-1]]``; h itself if there are no widths.
    """

    def layers(module: Any, h: jax.Array, widths: tuple[int, ...]) -> jax.Array:
        for width in widths:
            h = module.network.hidden(width, h)
        return h

    size = math.ceil(math.sqrt(len(widths))) or 1
    for first in range(0, len(widths), size):
        block = functools.partial(layers, widths=widths[first : first + size])
        h = apply_block(module, block, h)
    return h
