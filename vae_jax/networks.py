"""Encoders and decoders: Linen modules from array to array.

They never sample, compute a loss or hold state. This is the only module that imports
flax.linen, so a change of framework touches one file.

Parameters are float32. What networks compute in is their ``precision``, and what they
return is float32 again, so that nothing outside this module depends on it: densities,
log-weights and the optimizer have the same types either way. With ``rematerialize`` an
encoder or decoder keeps less for the backward pass, which computes it once more; on a
CPU nothing comes of it, since XLA merges there what is computed twice.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.convolutions import convolve


class Network(Protocol):
    """What the model needs of a network: Linen's pure ``init`` and ``apply``.

    Of one array; an ``AutoregressiveDecoder`` takes the images as a second.
    """

    def init(self, key: jax.Array, /, *inputs: jax.Array) -> Any: ...

    def apply(self, variables: Any, /, *inputs: jax.Array) -> Any: ...


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
    "softplus": nn.softplus,
}

# What networks compute in, as Flax has it: None is the type of the parameters. bfloat16
# has the exponents of float32, so that no gradient needs to be scaled to be seen. On
# GPUs and TPUs, JAX's default products of float32 round what they multiply (to TF32 and
# bfloat16); jax_default_matmul_precision, which environment.json records, sets another.
PRECISIONS: dict[str, Any] = {"float32": None, "bfloat16": jnp.bfloat16}

# Names and sizes of the linear outputs that are asked of a network.
Heads = tuple[tuple[str, int], ...]

NETWORKS = ("mlp", "conv", "gated", "resnet", "pixelcnn")

# Those whose widths are channels, of which there is at least one.
CONVOLUTIONAL = ("conv", "resnet")

_Shape = tuple[int, int, int]

# Of the autoregressive decoder: few and near, so that it sees a neighbourhood of each
# pixel and has to leave the image as a whole to z.
_FEATURES = 32
_MASKED_LAYERS = 3

# Channels that are normalised together in a residual block.
_NORM_GROUP = 8


class MLPEncoder(nn.Module):
    """Array to named linear outputs, by dense layers."""

    widths: tuple[int, ...]
    heads: Heads
    activation: str
    gated: bool = False
    starts_at_zero: tuple[str, ...] = ()  # names of heads
    precision: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:  # x [..., D]
        h = _mlp(self, x, self.widths, gated=self.gated)
        return _Heads(self.heads, self.starts_at_zero, self.precision, name="head")(h)


class MaskedMLP(nn.Module):
    """Outputs ``[..., latent, outputs]`` of a latent that see only those before it.

    Dense layers with masked weights (Germain et al. 2015, "MADE"); context reaches all.
    """

    widths: tuple[int, ...]
    latent_dim: int
    outputs: int  # of each latent
    activation: str
    precision: str = "float32"

    @nn.compact
    def __call__(self, z: jax.Array, context: jax.Array) -> jax.Array:
        # z [..., latent], context [..., C]; a unit sees latents 1 ... its degree.
        h, degrees = z, np.arange(1, self.latent_dim + 1)
        for width in self.widths:
            own = np.arange(width) % self.latent_dim
            if width < self.latent_dim:  # Over all latents, not the first ones alone.
                own = (np.arange(width) + 1) * self.latent_dim // width - 1
            h = self._layer(h, degrees, own, context)
            h, degrees = ACTIVATIONS[self.activation](h), own
        own = np.repeat(np.arange(self.latent_dim), self.outputs)
        h = self._layer(h, degrees, own, context)
        return _at_least_float32(h).reshape(*z.shape, self.outputs)

    def _layer(
        self, h: jax.Array, degrees: np.ndarray, own: np.ndarray, context: jax.Array
    ) -> jax.Array:
        dtype = PRECISIONS[self.precision]
        masked = _MaskedDense(_pairs(degrees[:, None] <= own), dtype)(h)
        # A layer cannot have no inputs at all.
        seen = context if context.shape[-1] else jnp.zeros((*context.shape[:-1], 1))
        return masked + _dense(own.size, dtype=dtype)(seen)


class MLPDecoder(nn.Module):
    """Latent to likelihood parameters ``[..., pixel_outputs, D]``, by dense layers.

    Widths are given from the image inwards, like the encoder's, so one setting
    describes both; the decoder applies them in reverse.
    """

    widths: tuple[int, ...]
    image_shape: _Shape
    pixel_outputs: int
    activation: str
    gated: bool = False
    precision: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:  # z [..., latent]
        num_pixels = math.prod(self.image_shape)
        # One batch axis: with two, XLA transposes the gradient of every product.
        h = z.reshape(-1, z.shape[-1])
        h = _mlp(self, h, self.widths[::-1], gated=self.gated)
        size, dtype = self.pixel_outputs * num_pixels, PRECISIONS[self.precision]
        h = _dense(size, use_bias=False, dtype=dtype, name="output")(h)
        h = h.reshape(*z.shape[:-1], self.pixel_outputs, num_pixels)
        return _OutputBias(name="bias")(h)


class ConvEncoder(nn.Module):
    """Image to named outputs: 3x3 convolutions that halve it, then linear layers.

    Or residual blocks in place of the convolutions.
    """

    widths: tuple[int, ...]
    image_shape: _Shape
    heads: Heads
    activation: str
    residual: bool = False
    precision: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:  # x [..., D]
        h = x.reshape(-1, *self.image_shape)
        for width in self.widths:
            h = _block(self, functools.partial(ConvEncoder._halve, features=width), h)
        h = h.reshape(*x.shape[:-1], -1)
        return _Heads(self.heads, precision=self.precision, name="head")(h)

    def _halve(self, h: jax.Array, features: int) -> jax.Array:
        if self.residual:
            return _ResidualBlock(
                features, self.activation, strides=(2, 2), precision=self.precision
            )(h)
        dtype = PRECISIONS[self.precision]
        h = _conv(features, strides=(2, 2), dtype=dtype)(h)
        return ACTIVATIONS[self.activation](h)


class ConvDecoder(nn.Module):
    """Latent to likelihood parameters ``[..., pixel_outputs, D]``: the mirror image.

    A dense layer to the encoder's last feature map, then one transposed convolution
    for each halving, or a residual block on the map doubled by repetition; what
    rounding up added to odd sizes is cropped.
    """

    widths: tuple[int, ...]
    image_shape: _Shape
    pixel_outputs: int
    activation: str
    residual: bool = False
    precision: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:  # z [..., latent]
        activation, dtype = ACTIVATIONS[self.activation], PRECISIONS[self.precision]
        height, width, channels = self.image_shape
        shrink = 2 ** len(self.widths)
        rows, columns = -(-height // shrink), -(-width // shrink)
        inner = self.widths[-1]
        h = _dense(rows * columns * inner, dtype=dtype)(z.reshape(-1, z.shape[-1]))
        h = activation(h).reshape(-1, rows, columns, inner)
        for features in (*self.widths[-2::-1], self.widths[0]):
            double = functools.partial(ConvDecoder._double, features=features)
            h = _block(self, double, h)
        h = _conv(self.pixel_outputs * channels, use_bias=False, dtype=dtype)(h)
        h = h[:, :height, :width].reshape(*z.shape[:-1], height, width, -1)
        return _OutputBias(name="bias")(_per_pixel(h, self.pixel_outputs))

    def _double(self, h: jax.Array, features: int) -> jax.Array:
        if self.residual:
            h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
            block = _ResidualBlock(features, self.activation, precision=self.precision)
            return block(h)
        h = ConvTranspose(
            features,
            (3, 3),
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=PRECISIONS[self.precision],
        )(h)
        return ACTIVATIONS[self.activation](h)


class AutoregressiveDecoder(nn.Module):
    """Latent and image to likelihood parameters ``[..., pixel_outputs, D]``.

    Those of a pixel depend on z and on the pixels above it and to its left in its row,
    so p(x|z) = prod_i p(x_i | x_<i, z) in raster order; the channels of a pixel are
    independent given these. A small PixelCNN (van den Oord et al. 2016, "Conditional
    image generation with PixelCNN decoders", but for its gates) on a feature map of z,
    as in Gulrajani et al. 2017, "PixelVAE". It sees a few rows only: what it cannot
    model is left to z (Chen et al. 2017, "Variational lossy autoencoder").
    """

    widths: tuple[int, ...]
    image_shape: _Shape
    pixel_outputs: int
    activation: str
    precision: str = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, z: jax.Array, x: jax.Array) -> jax.Array:
        # z [..., latent], x [..., D] in intensity; leading axes broadcast.
        activation, dtype = ACTIVATIONS[self.activation], PRECISIONS[self.precision]
        height, width, channels = self.image_shape
        h = _mlp(self, z.reshape(-1, z.shape[-1]), self.widths[::-1])
        h = _dense(height * width * _FEATURES, dtype=dtype)(h)
        h = h.reshape(*z.shape[:-1], height, width, _FEATURES)
        before = _masked_conv(channels, itself=False, dtype=dtype)
        seen = before(x.reshape(-1, *self.image_shape))
        h = activation(h + seen.reshape(*x.shape[:-1], *h.shape[-3:]))
        leading, h = h.shape[:-3], h.reshape(-1, *h.shape[-3:])
        for _ in range(_MASKED_LAYERS - 1):
            h = _block(self, AutoregressiveDecoder._add_seen, h)
        size = self.pixel_outputs * channels
        h = _dense(size, use_bias=False, dtype=dtype, name="output")(h)
        h = h.reshape(*leading, height, width, -1)
        return _OutputBias(name="bias")(_per_pixel(h, self.pixel_outputs))

    def _add_seen(self, h: jax.Array) -> jax.Array:
        masked = _masked_conv(_FEATURES, itself=True, dtype=PRECISIONS[self.precision])
        return h + ACTIVATIONS[self.activation](masked(h))


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

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:  # h [batch, height, width, channels]
        activation, dtype = ACTIVATIONS[self.activation], PRECISIONS[self.precision]
        groups = math.gcd(self.features, self.features // _NORM_GROUP or 1)
        straight = nn.Conv(
            self.features,
            (1, 1),
            strides=self.strides,
            use_bias=False,
            kernel_init=nn.initializers.glorot_uniform(),
            conv_general_dilated=convolve,
            dtype=dtype,
        )(h)
        h = _conv(self.features, strides=self.strides, use_bias=False, dtype=dtype)(h)
        h = activation(nn.GroupNorm(groups, dtype=dtype)(h))
        h = _conv(self.features, use_bias=False, dtype=dtype)(h)
        return activation(straight + nn.GroupNorm(groups, dtype=dtype)(h))


class _Heads(nn.Module):
    """Linear layers, each with its output as the last axis, so that zeros appended to
    a latent's axis are exactly the parameters of a wider model."""

    heads: Heads
    starts_at_zero: tuple[str, ...] = ()
    precision: str = "float32"

    @nn.compact
    def __call__(self, h: jax.Array) -> dict[str, jax.Array]:
        zeros = {"kernel_init": nn.initializers.zeros}
        outputs = {
            name: _dense(
                size,
                dtype=PRECISIONS[self.precision],
                name=name,
                **zeros if name in self.starts_at_zero else {},
            )(h)
            for name, size in self.heads
        }
        return jax.tree.map(_at_least_float32, outputs)


class _OutputBias(nn.Module):
    """A bias per pixel and parameter, for the data's statistics to be written into.

    It is added in float32: what networks that compute in bfloat16 round is then how far
    an image's parameters are from the mean image's, and not the parameters themselves.
    Their relative error of 2^-9 is no larger than what comes of rounding the factors of
    the last product, so that keeping that in float32 would gain little.
    """

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        bias = self.param("pixels", nn.initializers.zeros, h.shape[-2:])
        return _at_least_float32(h) + jax.lax.broadcast_to_rank(bias, h.ndim)


def _at_least_float32(h: jax.Array) -> jax.Array:
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))


def _block(
    module: Any, block: Callable[[Any, jax.Array], jax.Array], h: jax.Array
) -> jax.Array:
    """``block(module, h)``, of which a module that rematerializes keeps h alone.

    The layers are the module's own and have the same names either way.
    """
    return (nn.remat(block) if module.rematerialize else block)(module, h)


def _mlp(
    module: Any, h: jax.Array, widths: tuple[int, ...], *, gated: bool = False
) -> jax.Array:
    """Dense layers of a module; a gated one is (W1 h + b1) * sigmoid(W2 h + b2).

    Rematerialized, n layers are cut into blocks of about sqrt(n): the inputs of all
    blocks are kept, and within one of them at a time what is recomputed (Chen et al.
    2016, "Training deep nets with sublinear memory cost"). Of a single layer nothing
    would be saved: its product needs its input for the gradient anyway.
    """
    activation = ACTIVATIONS[module.activation]
    dense = functools.partial(_dense, dtype=PRECISIONS[module.precision])

    def layers(_: Any, h: jax.Array, widths: tuple[int, ...]) -> jax.Array:
        for width in widths:
            if gated:
                h = dense(width)(h) * nn.sigmoid(dense(width)(h))
            else:
                h = activation(dense(width)(h))
        return h

    size = math.ceil(math.sqrt(len(widths))) or 1
    for first in range(0, len(widths), size):
        block = functools.partial(layers, widths=widths[first : first + size])
        h = _block(module, block, h)
    return h


def _dense(features: int, **options) -> nn.Dense:
    options = {"kernel_init": nn.initializers.glorot_uniform()} | options
    return nn.Dense(features, **options)


class _MaskedDense(nn.Module):
    """A dense layer without bias whose weights are 0 where the mask is."""

    mask: tuple[tuple[bool, ...], ...]  # [inputs][outputs]
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        mask = np.array(self.mask, np.float32)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), mask.shape)
        h, kernel = nn.dtypes.promote_dtype(h, kernel * mask, dtype=self.dtype)
        return h @ kernel


def _pairs(mask: np.ndarray) -> tuple[tuple[bool, ...], ...]:
    """A mask as something hashable."""
    return tuple(map(tuple, mask.tolist()))


def _conv(features: int, **options) -> nn.Conv:
    return nn.Conv(
        features,
        (3, 3),
        kernel_init=nn.initializers.glorot_uniform(),
        conv_general_dilated=convolve,
        **options,
    )


class ConvTranspose(nn.Conv):
    """``nn.ConvTranspose`` of a 3x3 kernel and stride 2, with its parameters' names, as
    the convolution of a dilated image that it is."""

    input_dilation: tuple[int, int] = (2, 2)
    padding: Any = ((2, 1), (2, 1))
    conv_general_dilated: Any = convolve


def _masked_conv(channels: int, *, itself: bool, **options) -> nn.Conv:
    """A 3x3 convolution of what comes before a pixel in raster order, or at it."""
    mask = np.zeros((3, 3, channels, _FEATURES), np.float32)
    mask[0] = 1
    mask[1, : 2 if itself else 1] = 1
    return _conv(_FEATURES, mask=mask, **options)


def _per_pixel(h: jax.Array, pixel_outputs: int) -> jax.Array:
    """Feature maps as parameters, ``[..., height, width, channels x outputs]`` to
    ``[..., outputs, D]``."""
    h = h.reshape(*h.shape[:-3], -1, pixel_outputs)
    return jnp.swapaxes(h, -1, -2)


def make_encoder(
    network: str,
    *,
    widths: tuple[int, ...],
    activation: str,
    image_shape: _Shape,
    heads: Heads,
    precision: str = "float32",
    rematerialize: bool = False,
) -> Network:
    """An encoder by name: ``[..., D]`` -> ``{name: [..., size]}``.

    Args:
      network: one of ``NETWORKS``: dense layers ('mlp'), gated ones ('gated', as in
        Tomczak & Welling 2018, "VAE with a VampPrior"), convolutions ('conv'),
        residual blocks of them ('resnet'), or dense layers with an
        ``AutoregressiveDecoder`` ('pixelcnn').
      widths: hidden units (may be empty: a linear encoder), or channels ('conv' and
        'resnet', at least one).
      activation: a name in ``ACTIVATIONS``; 'gated' has its gates in place of it.
      image_shape: (height, width, channels); D is their product.
      heads: names and sizes of the outputs.
      precision: what it computes in, a name in ``PRECISIONS``. Parameters and outputs
        are float32.
      rematerialize: whether the backward pass computes what is inside each block (a
        residual block, a convolution, a few dense layers) once more, to save memory.

    Raises:
      ValueError: unknown network, activation or precision, or no widths where they are
        needed.
    """
    _check(network, widths, activation, precision)
    shared: Any = {"precision": precision, "rematerialize": rematerialize}
    if network in CONVOLUTIONAL:
        residual = network == "resnet"
        return ConvEncoder(widths, image_shape, heads, activation, residual, **shared)
    gated = network == "gated"
    return MLPEncoder(widths, heads, activation, gated, **shared)


def make_decoder(
    network: str,
    *,
    widths: tuple[int, ...],
    activation: str,
    image_shape: _Shape,
    pixel_outputs: int,
    precision: str = "float32",
    rematerialize: bool = False,
) -> Network:
    """A decoder by name: ``[..., latent] -> [..., pixel_outputs, D]``.

    That of 'pixelcnn' takes images besides. Args and raises as ``make_encoder``;
    ``pixel_outputs`` is the number of likelihood parameters per pixel.
    """
    _check(network, widths, activation, precision)
    shared: Any = {
        "widths": widths,
        "image_shape": image_shape,
        "pixel_outputs": pixel_outputs,
        "activation": activation,
        "precision": precision,
        "rematerialize": rematerialize,
    }
    if network == "pixelcnn":
        return AutoregressiveDecoder(**shared)
    if network in CONVOLUTIONAL:
        return ConvDecoder(residual=network == "resnet", **shared)
    return MLPDecoder(gated=network == "gated", **shared)


def _check(
    network: str, widths: tuple[int, ...], activation: str, precision: str
) -> None:
    for kind, name, known in (
        ("network", network, NETWORKS),
        ("activation", activation, ACTIVATIONS),
        ("precision", precision, PRECISIONS),
    ):
        if name not in known:
            raise ValueError(
                f"unknown {kind} {name!r}: choose one of {', '.join(known)}."
            )
    if network in CONVOLUTIONAL and not widths:
        raise ValueError(
            f"a {network} network needs at least one width, as in (32, 64)."
        )
