"""Encoders and decoders: Linen modules from array to array.

They never sample, compute a loss or hold state. This is the only module that imports
flax.linen, so a change of framework touches one file.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp


class Network(Protocol):
    """What the model needs of a network: Linen's pure ``init`` and ``apply``."""

    def init(self, key: jax.Array, x: jax.Array, /) -> Any: ...

    def apply(self, variables: Any, x: jax.Array, /) -> Any: ...


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
    "softplus": nn.softplus,
}

# Names and sizes of the linear outputs that are asked of a network.
Heads = tuple[tuple[str, int], ...]

NETWORKS = ("mlp", "conv")

_Shape = tuple[int, int, int]


class MLPEncoder(nn.Module):
    """Array to named linear outputs, by dense layers."""

    widths: tuple[int, ...]
    heads: Heads
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:  # x [..., D]
        return _Heads(self.heads, name="head")(_mlp(x, self.widths, self.activation))


class MLPDecoder(nn.Module):
    """Latent to likelihood parameters ``[..., pixel_outputs, D]``, by dense layers.

    Widths are given from the image inwards, like the encoder's, so one setting
    describes both; the decoder applies them in reverse.
    """

    widths: tuple[int, ...]
    image_shape: _Shape
    pixel_outputs: int
    activation: str

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:  # z [..., latent]
        num_pixels = math.prod(self.image_shape)
        # One batch axis: with two, XLA transposes the gradient of every product.
        h = _mlp(z.reshape(-1, z.shape[-1]), self.widths[::-1], self.activation)
        h = _dense(self.pixel_outputs * num_pixels, use_bias=False, name="output")(h)
        h = h.reshape(*z.shape[:-1], self.pixel_outputs, num_pixels)
        return _OutputBias(name="bias")(h)


class ConvEncoder(nn.Module):
    """Image to named outputs: 3x3 convolutions that halve it, then linear layers."""

    widths: tuple[int, ...]
    image_shape: _Shape
    heads: Heads
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:  # x [..., D]
        activation = ACTIVATIONS[self.activation]
        h = x.reshape(-1, *self.image_shape)
        for width in self.widths:
            h = activation(_conv(width, strides=(2, 2))(h))
        h = h.reshape(*x.shape[:-1], -1)
        return _Heads(self.heads, name="head")(h)


class ConvDecoder(nn.Module):
    """Latent to likelihood parameters ``[..., pixel_outputs, D]``: the mirror image.

    A dense layer to the encoder's last feature map, then one transposed convolution
    for each halving; what rounding up added to odd sizes is cropped.
    """

    widths: tuple[int, ...]
    image_shape: _Shape
    pixel_outputs: int
    activation: str

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:  # z [..., latent]
        activation = ACTIVATIONS[self.activation]
        height, width, channels = self.image_shape
        shrink = 2 ** len(self.widths)
        rows, columns = -(-height // shrink), -(-width // shrink)
        inner = self.widths[-1]
        h = activation(_dense(rows * columns * inner)(z.reshape(-1, z.shape[-1])))
        h = h.reshape(-1, rows, columns, inner)
        for features in (*self.widths[-2::-1], self.widths[0]):
            h = activation(
                nn.ConvTranspose(
                    features,
                    (3, 3),
                    strides=(2, 2),
                    kernel_init=nn.initializers.glorot_uniform(),
                )(h)
            )
        h = _conv(self.pixel_outputs * channels, use_bias=False)(h)[:, :height, :width]
        h = h.reshape(-1, height, width, channels, self.pixel_outputs)
        h = jnp.moveaxis(h, -1, 1)
        h = h.reshape(*z.shape[:-1], self.pixel_outputs, math.prod(self.image_shape))
        return _OutputBias(name="bias")(h)


class _Heads(nn.Module):
    """Linear layers, each with its output as the last axis, so that zeros appended to
    a latent's axis are exactly the parameters of a wider model."""

    heads: Heads

    @nn.compact
    def __call__(self, h: jax.Array) -> dict[str, jax.Array]:
        return {name: _dense(size, name=name)(h) for name, size in self.heads}


class _OutputBias(nn.Module):
    """A bias per pixel and parameter, for the data's statistics to be written into."""

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        bias = self.param("pixels", nn.initializers.zeros, h.shape[-2:])
        return h + jax.lax.broadcast_to_rank(bias, h.ndim)


def _mlp(h: jax.Array, widths: tuple[int, ...], activation: str) -> jax.Array:
    for width in widths:
        h = ACTIVATIONS[activation](_dense(width)(h))
    return h


def _dense(features: int, **options) -> nn.Dense:
    return nn.Dense(features, kernel_init=nn.initializers.glorot_uniform(), **options)


def _conv(features: int, **options) -> nn.Conv:
    return nn.Conv(
        features, (3, 3), kernel_init=nn.initializers.glorot_uniform(), **options
    )


def make_encoder(
    network: str,
    *,
    widths: tuple[int, ...],
    activation: str,
    image_shape: _Shape,
    heads: Heads,
) -> Network:
    """An encoder by name: ``[..., D]`` -> ``{name: [..., size]}``.

    Args:
      network: one of ``NETWORKS``.
      widths: hidden units ('mlp', may be empty: a linear encoder) or channels ('conv').
      activation: a name in ``ACTIVATIONS``.
      image_shape: (height, width, channels); D is their product.
      heads: names and sizes of the outputs.

    Raises:
      ValueError: unknown network or activation, or no widths for 'conv'.
    """
    _check(network, widths, activation)
    if network == "mlp":
        return MLPEncoder(widths, heads, activation)
    return ConvEncoder(widths, image_shape, heads, activation)


def make_decoder(
    network: str,
    *,
    widths: tuple[int, ...],
    activation: str,
    image_shape: _Shape,
    pixel_outputs: int,
) -> Network:
    """A decoder by name: ``[..., latent] -> [..., pixel_outputs, D]``.

    Args and raises as ``make_encoder``; ``pixel_outputs`` is the number of likelihood
    parameters per pixel.
    """
    _check(network, widths, activation)
    decoder = MLPDecoder if network == "mlp" else ConvDecoder
    return decoder(widths, image_shape, pixel_outputs, activation)


def _check(network: str, widths: tuple[int, ...], activation: str) -> None:
    for kind, name, known in (
        ("network", network, NETWORKS),
        ("activation", activation, ACTIVATIONS),
    ):
        if name not in known:
            raise ValueError(
                f"unknown {kind} {name!r}: choose one of {', '.join(known)}."
            )
    if network == "conv" and not widths:
        raise ValueError("a conv network needs at least one width, as in (32, 64).")
