"""Networks with masked weights: an output depends only on earlier inputs."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.networks.common import OutputBias, apply_block, per_pixel
from vae_jax.networks.convolutional import ConvolvingNetwork
from vae_jax.networks.dense import MLP, apply_dense
from vae_jax.networks.interface import Module, Shape
from vae_jax.networks.products import bfloat16_product

# Features and masked layers of the autoregressive decoder. They are few, so that it
# sees only a neighbourhood of each pixel and z must describe the image as a whole.
_FEATURES = 32
_MASKED_LAYERS = 3


@dataclasses.dataclass(frozen=True)
class PixelCNN(MLP, ConvolvingNetwork):
    """The encoder of an ``MLP``, and an ``AutoregressiveDecoder``."""

    is_autoregressive: ClassVar[bool] = True

    def decoder(self, image_shape: Shape, pixel_outputs: int) -> Module:
        """See ``Network``."""
        return AutoregressiveDecoder(self, image_shape, pixel_outputs)


class AutoregressiveDecoder(nn.Module):
    """Maps latents and images to likelihood parameters ``[..., pixel_outputs, D]``.

    The parameters of a pixel depend on z, on the pixels above it, and on those to its
    left in its row. So p(x|z) = prod_i p(x_i | x_<i, z) in raster order; the channels
    of a pixel are independent given these. It is a small PixelCNN (van den Oord et al.
    2016, "Conditional image generation with PixelCNN decoders", without gates) on a
    feature map of z, as in Gulrajani et al. 2017, "PixelVAE". It sees only a few rows,
    so z must describe the rest (Chen et al. 2017, "Variational lossy autoencoder").
    """

    network: PixelCNN
    image_shape: Shape
    pixel_outputs: int

    @nn.compact
    def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
        # z [..., latent], x [..., D] in intensity; leading axes broadcast.
        network, (height, width, channels) = self.network, self.image_shape
        h = apply_dense(self, z.reshape(-1, z.shape[-1]), network.widths[::-1])
        h = network.dense(height * width * _FEATURES)(h)
        h = h.reshape(*z.shape[:-1], height, width, _FEATURES)
        before = _masked_conv(network, channels, itself=False)
        seen = before(x.reshape(-1, *self.image_shape))
        h = network.activate(h + seen.reshape(*x.shape[:-1], *h.shape[-3:]))
        leading, h = h.shape[:-3], h.reshape(-1, *h.shape[-3:])
        for _ in range(_MASKED_LAYERS - 1):
            h = apply_block(self, AutoregressiveDecoder._add_seen, h)
        size = self.pixel_outputs * channels
        h = network.dense(size, use_bias=False, name="output")(h)
        h = h.reshape(*leading, height, width, -1)
        return OutputBias(name="bias")(per_pixel(h, self.pixel_outputs))

    def _add_seen(self, h: jax.Array) -> jax.Array:
        masked = _masked_conv(self.network, _FEATURES, itself=True)
        return h + self.network.activate(masked(h))


def _masked_conv(network: PixelCNN, channels: int, *, itself: bool) -> nn.Conv:
    """Returns a 3x3 convolution of the pixels before each pixel, in raster order.

    Args:
        network: the network, for its options.
        channels: number of input channels.
        itself: whether an output also depends on the input at its own pixel.
    """
    mask = np.zeros((3, 3, channels, _FEATURES), np.float32)
    mask[0] = 1
    mask[1, : 2 if itself else 1] = 1
    return network.conv(_FEATURES, mask=mask)


class MaskedMLP(nn.Module):
    """Maps latents to ``[..., latent, outputs]``, each from earlier latents only.

    It has dense layers with masked weights (Germain et al. 2015, "MADE"). All outputs
    depend on the context.
    """

    network: MLP
    latent_dim: int
    outputs: int  # of each latent

    @nn.compact
    def __call__(self, z: jax.Array, context: jax.Array) -> jax.Array:
        # z [..., latent], context [..., C]; a unit sees latents 1 ... its degree.
        h, degrees = z, np.arange(1, self.latent_dim + 1)
        for width in self.network.widths:
            own = np.arange(width) % self.latent_dim
            if width < self.latent_dim:  # Spread over all latents, not the first only.
                own = (np.arange(width) + 1) * self.latent_dim // width - 1
            h = self._layer(h, degrees, own, context)
            h, degrees = self.network.activate(h), own
        own = np.repeat(np.arange(self.latent_dim), self.outputs)
        h = self._layer(h, degrees, own, context)
        return h.reshape(*z.shape, self.outputs)

    def _layer(
        self, h: jax.Array, degrees: np.ndarray, own: np.ndarray, context: jax.Array
    ) -> jax.Array:
        mask = _pairs(degrees[:, None] <= own)
        masked = _MaskedDense(mask, self.network.dtype)(h)
        # A layer needs at least one input.
        seen = context if context.shape[-1] else jnp.zeros((*context.shape[:-1], 1))
        return masked + self.network.dense(own.size)(seen)


class _MaskedDense(nn.Module):
    """A dense layer without bias; its weights are 0 where the mask is False."""

    mask: tuple[tuple[bool, ...], ...]  # [inputs][outputs]
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        mask = np.array(self.mask, np.float32)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), mask.shape)
        product = jnp.matmul if self.dtype is None else bfloat16_product
        outputs: jax.Array = product(h, kernel * mask)
        return outputs


def _pairs(mask: np.ndarray) -> tuple[tuple[bool, ...], ...]:
    """Returns a mask as nested tuples, which are hashable."""
    return tuple(map(tuple, mask.tolist()))
