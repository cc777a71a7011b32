"""Networks of 3x3 convolutions that halve the size of an image, and double it again."""

import dataclasses
import functools
import math
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.networks.common import (
    ActivatedNetwork,
    LinearHeads,
    OutputBias,
    apply_block,
    per_pixel,
    side_by_side,
)
from vae_jax.networks.convolutions import FORMS, convolve
from vae_jax.networks.interface import Heads, Module, Network, Shape

# Channels that are normalised together in a residual block.
_NORM_GROUP = 8


@dataclasses.dataclass(frozen=True)
class ConvolvingNetwork(ActivatedNetwork):
    """Layers with convolutions, computed in one of ``FORMS``."""

    _: dataclasses.KW_ONLY
    convolutions: Annotated[str, FORMS] = "auto"

    def conv(
        self,
        features: int,
        *,
        window: tuple[int, int] = (3, 3),
        kind: type[nn.Conv] = nn.Conv,
        **options: Any,
    ) -> nn.Conv:
        """Returns a convolution with the initialisation of all networks."""
        options = {"kernel_init": nn.initializers.glorot_uniform()} | options
        return kind(
            features,
            window,
            conv_general_dilated=functools.partial(convolve, form=self.convolutions),
            dtype=self.dtype,
            **options,
        )


@dataclasses.dataclass(frozen=True)
class _Convolutional(ConvolvingNetwork, Network):
    """An encoder that halves the image once for each width, and a mirrored decoder."""

    residual: ClassVar[bool]
    takes_class: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths:
            raise ValueError(
                "widths is (): the layers of a convolutional network are one or more. "
                "Give the channels of each, as in (32, 64)."
            )

    def encoder(self, image_shape: Shape, heads: Heads) -> Module:
        """See ``Network``."""
        return ConvEncoder(self, image_shape, heads)

    def decoder(self, image_shape: Shape, pixel_outputs: int) -> Module:
        """See ``Network``."""
        return ConvDecoder(self, image_shape, pixel_outputs)


@dataclasses.dataclass(frozen=True)
class Conv(_Convolutional):
    """Convolutions of stride 2; widths are their channels, for at least one layer."""

    residual: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class ResNet(_Convolutional):
    """Residual blocks in place of the convolutions."""

    residual: ClassVar[bool] = True


class ConvEncoder(nn.Module):
    """Maps images to named outputs by 3x3 convolutions and linear layers.

    Each convolution (or residual block in its place) halves height and width. A class,
    one-hot, gives the image further channels, each of one value.
    """

    network: _Convolutional
    image_shape: Shape
    heads: Heads

    @nn.compact
    def __call__(self, x: jax.Array, *y: jax.Array) -> dict[str, jax.Array]:
        # x [..., D] and perhaps y [..., K]
        h = x.reshape(-1, *self.image_shape)
        planes = (one_hot.reshape(-1, 1, 1, one_hot.shape[-1]) for one_hot in y)
        h = side_by_side(h, *planes)
        for width in self.network.widths:
            halve = functools.partial(ConvEncoder._halve, features=width)
            h = apply_block(self, halve, h)
        h = h.reshape(*x.shape[:-1], -1)
        return LinearHeads(self.network, self.heads, name="head")(h)

    def _halve(self, h: jax.Array, features: int) -> jax.Array:
        if self.network.residual:
            return _ResidualBlock(self.network, features, strides=(2, 2))(h)
        h = self.network.conv(features, strides=(2, 2))(h)
        return self.network.activate(h)


class ConvDecoder(nn.Module):
    """Maps latents to likelihood parameters ``[..., pixel_outputs, D]``.

    A dense layer gives a map of the size of the encoder's last feature map. Then one
    transposed convolution for each halving doubles it; or the map is doubled by
    repetition and a residual block follows. The encoder rounds odd sizes up, so the
    additional rows and columns are cropped.
    """

    network: _Convolutional
    image_shape: Shape
    pixel_outputs: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:  # z [..., latent]
        network, widths = self.network, self.network.widths
        height, width, channels = self.image_shape
        shrink = 2 ** len(widths)
        rows, columns = -(-height // shrink), -(-width // shrink)
        h = network.dense(rows * columns * widths[-1])(z.reshape(-1, z.shape[-1]))
        h = network.activate(h).reshape(-1, rows, columns, widths[-1])
        for features in (*widths[-2::-1], widths[0]):
            double = functools.partial(ConvDecoder._double, features=features)
            h = apply_block(self, double, h)
        h = network.conv(self.pixel_outputs * channels, use_bias=False)(h)
        h = h[:, :height, :width].reshape(*z.shape[:-1], height, width, -1)
        return OutputBias(name="bias")(per_pixel(h, self.pixel_outputs))

    def _double(self, h: jax.Array, features: int) -> jax.Array:
        if self.network.residual:
            h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
            return _ResidualBlock(self.network, features)(h)
        h = self.network.conv(features, kind=ConvTranspose)(h)
        return self.network.activate(h)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a linear path beside them, summed and activated.

    He et al. 2016, "Deep residual learning for image recognition", figure 2. The
    normalisation is over groups of channels of one image (Wu & He 2018, "Group
    normalization"), never over the batch, so the outputs of an image depend on no other
    image. Means and variances are float32 for every precision.
    """

    network: ConvolvingNetwork
    features: int
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:  # h [batch, height, width, channels]
        norm = functools.partial(residual_norm, self.network, self.features)
        linear = functools.partial(self.network.conv, self.features, use_bias=False)
        straight = linear(window=(1, 1), strides=self.strides)(h)
        h = linear(strides=self.strides)(h)
        h = self.network.activate(norm()(h))
        h = linear()(h)
        return self.network.activate(straight + norm()(h))


def residual_norm(network: ConvolvingNetwork, features: int) -> nn.GroupNorm:
    """Returns the normalisation of a map with so many channels, in groups of them."""
    groups = math.gcd(features, features // _NORM_GROUP or 1)
    return nn.GroupNorm(groups, dtype=network.dtype)


class ConvTranspose(nn.Conv):
    """``nn.ConvTranspose`` of a 3x3 kernel and stride 2, as a dilated convolution.

    Its parameters have the same names.
    """

    input_dilation: tuple[int, int] = (2, 2)
    padding: Any = ((2, 1), (2, 1))
