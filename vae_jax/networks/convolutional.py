"""Networks of 3x3 convolutions that halve an image, and double it again."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.networks.common import (
    ACTIVATIONS,
    PRECISIONS,
    ActivatedNetwork,
    LinearHeads,
    OutputBias,
    apply_block,
    dense,
    per_pixel,
)
from vae_jax.networks.convolutions import FORMS, convolve
from vae_jax.networks.interface import Heads, Module, Shape
from vae_jax.registry import require_known

# Channels that are normalised together in a residual block.
_NORM_GROUP = 8


@dataclasses.dataclass(frozen=True)
class _Convolutional(ActivatedNetwork):
    """An encoder that halves the image once for each width, and its mirror image."""

    _: dataclasses.KW_ONLY
    convolutions: str = "auto"  # one of ``convolutions.FORMS``
    residual: ClassVar[bool]

    @property
    def layers(self) -> dict[str, Any]:
        """The options of both modules, by name."""
        return {**super().layers, "convolutions": self.convolutions}

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("convolutions", self.convolutions, FORMS)
        if not self.widths:
            raise ValueError(
                "widths is (): the layers of a convolutional network are one or more. "
                "Give the channels of each, as in (32, 64)."
            )

    def encoder(self, image_shape: Shape, heads: Heads) -> Module:
        """See ``Network``."""
        return ConvEncoder(
            image_shape=image_shape,
            heads=heads,
            residual=self.residual,
            **self.layers,
        )

    def decoder(self, image_shape: Shape, pixel_outputs: int) -> Module:
        """See ``Network``."""
        return ConvDecoder(
            image_shape=image_shape,
            pixel_outputs=pixel_outputs,
            residual=self.residual,
            **self.layers,
        )


@dataclasses.dataclass(frozen=True)
class Conv(_Convolutional):
    """Convolutions of stride 2; widths are channels, of at least one layer."""

    residual: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class ResNet(_Convolutional):
    """Residual blocks in place of the convolutions."""

    residual: ClassVar[bool] = True


class ConvEncoder(nn.Module):
    """Image to named outputs: 3x3 convolutions that halve it, then linear layers.

    Or residual blocks in place of the convolutions.
    """

    widths: tuple[int, ...]
    image_shape: Shape
    heads: Heads
    activation: str
    residual: bool = False
    precision: str = "float32"
    rematerialize: bool = False
    convolutions: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:  # x [..., D]
        h = x.reshape(-1, *self.image_shape)
        for width in self.widths:
            h = apply_block(
                self, functools.partial(ConvEncoder._halve, features=width), h
            )
        h = h.reshape(*x.shape[:-1], -1)
        return LinearHeads(self.heads, precision=self.precision, name="head")(h)

    def _halve(self, h: jax.Array, features: int) -> jax.Array:
        if self.residual:
            return _residual_block(self, features, strides=(2, 2))(h)
        h = conv(self, features, strides=(2, 2))(h)
        return ACTIVATIONS[self.activation](h)


class ConvDecoder(nn.Module):
    """Latent to likelihood parameters ``[..., pixel_outputs, D]``: the mirror image.

    A dense layer to the encoder's last feature map, then one transposed convolution
    for each halving, or a residual block on the map doubled by repetition; what
    rounding up added to odd sizes is cropped.
    """

    widths: tuple[int, ...]
    image_shape: Shape
    pixel_outputs: int
    activation: str
    residual: bool = False
    precision: str = "float32"
    rematerialize: bool = False
    convolutions: str = "auto"

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:  # z [..., latent]
        activation, dtype = ACTIVATIONS[self.activation], PRECISIONS[self.precision]
        height, width, channels = self.image_shape
        shrink = 2 ** len(self.widths)
        rows, columns = -(-height // shrink), -(-width // shrink)
        inner = self.widths[-1]
        h = dense(rows * columns * inner, dtype=dtype)(z.reshape(-1, z.shape[-1]))
        h = activation(h).reshape(-1, rows, columns, inner)
        for features in (*self.widths[-2::-1], self.widths[0]):
            double = functools.partial(ConvDecoder._double, features=features)
            h = apply_block(self, double, h)
        h = conv(self, self.pixel_outputs * channels, use_bias=False)(h)
        h = h[:, :height, :width].reshape(*z.shape[:-1], height, width, -1)
        return OutputBias(name="bias")(per_pixel(h, self.pixel_outputs))

    def _double(self, h: jax.Array, features: int) -> jax.Array:
        if self.residual:
            h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
            return _residual_block(self, features)(h)
        h = conv(self, features, kind=ConvTranspose)(h)
        return ACTIVATIONS[self.activation](h)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a linear path, activated (He et al. 2016, "Deep
    residual learning for image recognition", figure 2).

    Normalised over groups of channels of one image (Wu & He 2018, "Group
    normalization"), never over the batch: an image's outputs are its own. Means and
    variances are float32 whatever the precision.
    """

    features: int
    activation: str
    strides: tuple[int, int] = (1, 1)
    precision: str = "float32"
    convolutions: str = "auto"

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:  # h [batch, height, width, channels]
        activation, dtype = ACTIVATIONS[self.activation], PRECISIONS[self.precision]
        groups = math.gcd(self.features, self.features // _NORM_GROUP or 1)
        linear = functools.partial(conv, self, self.features, use_bias=False)
        straight = linear(window=(1, 1), strides=self.strides)(h)
        h = linear(strides=self.strides)(h)
        h = activation(nn.GroupNorm(groups, dtype=dtype)(h))
        h = linear()(h)
        return activation(straight + nn.GroupNorm(groups, dtype=dtype)(h))


def _residual_block(module: Any, features: int, **options: Any) -> _ResidualBlock:
    return _ResidualBlock(
        features,
        module.activation,
        precision=module.precision,
        convolutions=module.convolutions,
        **options,
    )


def conv(
    module: Any,
    features: int,
    *,
    window: tuple[int, int] = (3, 3),
    kind: type[nn.Conv] = nn.Conv,
    **options: Any,
) -> nn.Conv:
    """Returns a convolution as all networks start it, computed as a module says."""
    return kind(
        features,
        window,
        kernel_init=nn.initializers.glorot_uniform(),
        conv_general_dilated=functools.partial(convolve, form=module.convolutions),
        dtype=PRECISIONS[module.precision],
        **options,
    )


class ConvTranspose(nn.Conv):
    """``nn.ConvTranspose`` of a 3x3 kernel and stride 2, with its parameters' names, as
    the convolution of a dilated image that it is."""

    input_dilation: tuple[int, int] = (2, 2)
    padding: Any = ((2, 1), (2, 1))
