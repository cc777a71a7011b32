"""Denoisers: networks that see noisy latents, and how noisy they are.

One denoiser serves all layers of a chain of latents (``vae_jax.diffusion``). It has one
output for each value of the latents, or one for each level of it; its reader says
whether they are the image, the noise, a mixture of both, or chances of the levels.
"""

import abc
import dataclasses
import functools
import math
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.checks import Count, Range
from vae_jax.networks.common import (
    ActivatedNetwork,
    apply_block,
    at_least_float32,
    per_pixel,
    side_by_side,
)
from vae_jax.networks.convolutional import ConvolvingNetwork, residual_norm
from vae_jax.networks.interface import Module, Shape
from vae_jax.registry import Registry

# Sines and cosines of the time that a denoiser sees.
_TIME_FEATURES = 32
# The shortest period of these, in units of the whole time.
_SHORTEST_PERIOD = 1e-3


class Denoiser(abc.ABC):
    """A denoiser is a frozen dataclass whose fields are its options."""

    @abc.abstractmethod
    def module(self, shape: Shape, outputs: int) -> Module:
        """Returns the map ``(z, time)`` or ``(z, time, y)`` -> ``[N, outputs, D]``.

        z is ``[N, D]``, of about unit variance. The time is gamma as a share of its
        way, 0 to 1, ``[N]``. y is a class, one-hot, ``[N, K]``; zeros stand for no
        class.

        Args:
            shape: of the latents: (height, width, channels); D is their product.
            outputs: number of outputs for each value.
        """


@dataclasses.dataclass(frozen=True)
class _Layered(Denoiser, ActivatedNetwork):
    """The options that all denoisers of this file have.

    Attributes:
        fourier: the finest octave of sines and cosines of z that the network sees
            beside z, with the octave before it; they tell levels apart that are close
            (Kingma et al. 2021, section 4.3). Its period is the distance of two
            neighbours among 2^fourier levels. 0: none.
    """

    _: dataclasses.KW_ONLY
    fourier: Annotated[int, Range(at_least=0, at_most=16)] = 0

    def features(self, z: jax.Array) -> list[jax.Array]:
        """Returns z, and its sines and cosines, each of the shape of z."""
        angles = [2.0**octave * math.pi * z for octave in self._octaves]
        return [z, *map(jnp.sin, angles), *map(jnp.cos, angles)]

    @property
    def _octaves(self) -> range:
        # The two finest: coarser ones change so little that z itself says the same.
        return range(max(self.fourier - 1, 1), self.fourier + 1)

    def condition(self, time: jax.Array, *y: jax.Array) -> jax.Array:
        """Returns features of time and class, ``[N, features]``."""
        periods = jnp.geomspace(1.0, _SHORTEST_PERIOD, _TIME_FEATURES // 2)
        angles = (
            2 * jnp.pi * time[..., None] / jnp.expand_dims(periods, range(time.ndim))
        )
        return side_by_side(jnp.sin(angles), jnp.cos(angles), *y)


@dataclasses.dataclass(frozen=True)
class DenseDenoiser(_Layered):
    """Dense layers; each adds what another layer makes of time and class."""

    widths: tuple[int, ...] = (256, 256)

    def module(self, shape: Shape, outputs: int) -> Module:
        """See ``Denoiser``."""
        del shape
        return _Dense(self, outputs)


class _Dense(nn.Module):
    network: DenseDenoiser
    outputs: int

    @nn.compact
    def __call__(self, z: jax.Array, time: jax.Array, *y: jax.Array) -> jax.Array:
        network = self.network
        condition = network.condition(time, *y)
        h = side_by_side(*network.features(z))
        for width in network.widths:
            layer = functools.partial(_Dense._layer, condition=condition, width=width)
            h = apply_block(self, layer, h)
        h = _last(network, self.outputs * z.shape[-1], side_by_side(h, condition))
        return h.reshape(-1, self.outputs, z.shape[-1])

    def _layer(self, h: jax.Array, condition: jax.Array, width: int) -> jax.Array:
        dense = self.network.dense
        return self.network.activate(dense(width)(h) + dense(width)(condition))


def _last(network: ActivatedNetwork, size: int, h: jax.Array) -> jax.Array:
    """Returns a linear layer of h that starts at zero."""
    zeros = nn.initializers.zeros
    output: jax.Array = network.dense(size, kernel_init=zeros, name="output")(h)
    return at_least_float32(output)


def _padded(h: jax.Array, unit: int) -> jax.Array:
    """Returns maps with zeros below and to the right, up to a multiple of a size."""
    rows, columns = -h.shape[1] % unit, -h.shape[2] % unit
    return jnp.pad(h, [(0, 0), (0, rows), (0, columns), (0, 0)])


@dataclasses.dataclass(frozen=True)
class UNet(_Layered, ConvolvingNetwork):
    """Residual blocks on maps that halve, and again on maps that double.

    Ronneberger et al. 2015, "U-Net": each map on the way back also sees the map of its
    size from the way there. The widths are channels; each but the first halves the map.

    Attributes:
        blocks: residual blocks of each size, on each way.
    """

    widths: tuple[int, ...] = (32, 64)
    _: dataclasses.KW_ONLY
    blocks: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths:
            raise ValueError(
                "widths is (): a U-Net has maps of at least one size. Give the "
                "channels of each, as in (32, 64)."
            )

    def module(self, shape: Shape, outputs: int) -> Module:
        """See ``Denoiser``."""
        return _UNet(self, shape, outputs)


class _UNet(nn.Module):
    network: UNet
    shape: Shape
    outputs: int

    @nn.compact
    def __call__(self, z: jax.Array, time: jax.Array, *y: jax.Array) -> jax.Array:
        network, (height, width, channels) = self.network, self.shape
        first, *others = network.widths
        condition = network.activate(
            network.dense(4 * first)(network.condition(time, *y))
        )
        maps = [
            each.reshape(-1, height, width, channels) for each in network.features(z)
        ]
        # Each map but the first has half the size of the one before.
        h = _padded(side_by_side(*maps), 2 ** len(others))
        h = network.conv(first)(h)
        passed = []
        for i, features in enumerate(network.widths):
            if i:
                passed.append(h)
                h = network.conv(features, strides=(2, 2))(h)
            h = self._blocks(h, condition, features)
        for features in network.widths[-2::-1]:
            h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
            h = network.conv(features)(side_by_side(h, passed.pop()))
            h = self._blocks(h, condition, features)
        h = network.activate(residual_norm(network, first)(h))
        zeros = nn.initializers.zeros
        size = self.outputs * channels
        h = network.conv(size, kernel_init=zeros, name="output")(h)
        return at_least_float32(per_pixel(h[:, :height, :width], self.outputs))

    def _blocks(self, h: jax.Array, condition: jax.Array, features: int) -> jax.Array:
        def block(module: Any, h: jax.Array) -> jax.Array:
            found: jax.Array = _Block(module.network, features)(h, condition)
            return found

        for _ in range(self.network.blocks):
            h = apply_block(self, block, h)
        return h


class _Block(nn.Module):
    """Two convolutions with the condition between them, beside the identity."""

    network: UNet
    features: int

    @nn.compact
    def __call__(self, h: jax.Array, condition: jax.Array) -> jax.Array:
        network = self.network
        own = network.activate(residual_norm(network, self.features)(h))
        own = network.conv(self.features)(own)
        own = own + network.dense(self.features)(condition)[:, None, None]
        own = network.activate(residual_norm(network, self.features)(own))
        zeros = nn.initializers.zeros
        return h + network.conv(self.features, kernel_init=zeros)(own)


@dataclasses.dataclass(frozen=True)
class Transformer(_Layered):
    """Attention between patches of the latents (Peebles and Xie 2023, "DiT").

    The widths are those of the layers, which must be equal.

    Attributes:
        patch: height and width of a patch.
        heads: of each attention; they divide the width.
    """

    widths: tuple[int, ...] = (64, 64)
    _: dataclasses.KW_ONLY
    patch: Count = 2
    heads: Count = 4

    expansion: ClassVar[int] = 4  # of the dense layers between attentions

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.widths)) != 1:
            raise ValueError(
                f"widths is {self.widths}: the layers of a transformer have one width. "
                "Give it once for each layer, as in (64, 64)."
            )
        if self.widths[0] % self.heads:
            raise ValueError(
                f"widths is {self.widths}: each is no multiple of the heads, "
                f"{self.heads}. Change one of them."
            )

    def module(self, shape: Shape, outputs: int) -> Module:
        """See ``Denoiser``."""
        return _Transformer(self, shape, outputs)


class _Transformer(nn.Module):
    network: Transformer
    shape: Shape
    outputs: int

    @nn.compact
    def __call__(self, z: jax.Array, time: jax.Array, *y: jax.Array) -> jax.Array:
        network, (height, width, channels) = self.network, self.shape
        patch, size = network.patch, network.widths[0]
        rows, columns = -(-height // patch), -(-width // patch)
        maps = [each.reshape(-1, *self.shape) for each in network.features(z)]
        h = _padded(side_by_side(*maps), patch)
        # [N, rows, patch, columns, patch, channels] -> [N, patches, values]
        h = h.reshape(-1, rows, patch, columns, patch, h.shape[-1])
        h = h.swapaxes(2, 3).reshape(len(h), rows * columns, -1)
        places = self.param(
            "places", nn.initializers.normal(0.02), (rows * columns, size)
        )
        h = network.dense(size)(h) + places[None]
        condition = network.dense(size)(network.condition(time, *y))
        condition = network.activate(condition)

        def layer(module: Any, h: jax.Array) -> jax.Array:
            found: jax.Array = _Layer(module.network)(h, condition)
            return found

        for _ in network.widths:
            h = apply_block(self, layer, h)
        features = self.outputs * channels
        h = _last(network, patch * patch * features, nn.LayerNorm()(h))
        h = h.reshape(-1, rows, columns, patch, patch, features).swapaxes(2, 3)
        h = h.reshape(-1, rows * patch, columns * patch, features)
        return per_pixel(h[:, :height, :width], self.outputs)


class _Layer(nn.Module):
    """Attention, then dense layers; the condition shifts and scales their inputs."""

    network: Transformer

    @nn.compact
    def __call__(self, h: jax.Array, condition: jax.Array) -> jax.Array:
        network, size = self.network, h.shape[-1]
        h = h + self._gate(condition) * self._attend(self._modulated(h, condition))
        own = network.dense(network.expansion * size)(self._modulated(h, condition))
        own = network.dense(size)(network.activate(own))
        return h + self._gate(condition) * own

    def _modulated(self, h: jax.Array, condition: jax.Array) -> jax.Array:
        scale, shift = jnp.split(self._of(condition, 2 * h.shape[-1]), 2, axis=-1)
        plain: jax.Array = nn.LayerNorm(use_bias=False, use_scale=False)(h)
        return plain * (1 + scale) + shift

    def _gate(self, condition: jax.Array) -> jax.Array:
        return self._of(condition, self.network.widths[0])

    def _of(self, condition: jax.Array, size: int) -> jax.Array:
        # Zero at first: each layer starts as the identity.
        zeros = nn.initializers.zeros
        return self.network.dense(size, kernel_init=zeros)(condition)[:, None]

    def _attend(self, h: jax.Array) -> jax.Array:
        network, size = self.network, h.shape[-1]
        query, key, value = (
            network.dense(size)(h).reshape(*h.shape[:2], network.heads, -1)
            for _ in range(3)
        )
        mixed: jax.Array = jax.nn.dot_product_attention(query, key, value)
        found: jax.Array = network.dense(size)(mixed.reshape(h.shape))
        return found


DENOISERS: Registry[Denoiser] = Registry("denoiser")
DENOISERS |= {"mlp": DenseDenoiser, "unet": UNet, "transformer": Transformer}
