"""Layers and options that several networks have."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.checks import require_fields
from vae_jax.networks.interface import Heads
from vae_jax.networks.products import bfloat16_product

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
    "softplus": nn.softplus,
}

# The types that networks compute in, as Flax names them: None is the type of the
# parameters. Dense layers compute only the factors of their products in bfloat16,
# convolutions everything. bfloat16 has the exponents of float32, so gradients need no
# scaling. On GPUs and TPUs, JAX's default products of float32 round their factors (to
# TF32 and bfloat16); jax_default_matmul_precision, which environment.json records,
# changes this.
PRECISIONS: dict[str, Any] = {"float32": None, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class LayeredNetwork:
    """Layers of a network; a decoder has its encoder's layers in reverse order.

    Attributes:
        widths: hidden units or channels of each layer, from the image inwards; may be
            empty unless a network says otherwise.
        precision: the type that the network computes in, a name in ``PRECISIONS``.
        rematerialize: whether the backward pass computes the arrays inside each block
            (a residual block, a convolution, a few dense layers) a second time, to save
            memory.
    """

    widths: tuple[int, ...] = (256,)
    _: dataclasses.KW_ONLY
    precision: Annotated[str, PRECISIONS] = "float32"
    rematerialize: bool = False
    pads_exactly: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.widths, tuple) or min(self.widths, default=1) < 1:
            raise ValueError(
                f"widths is {self.widths}: a layer needs at least 1 unit. Give each "
                "layer one or more, as in (32, 64)."
            )
        require_fields(self)

    @property
    def dtype(self) -> Any:
        """The type that layers compute in, as Flax names it."""
        return PRECISIONS[self.precision]

    def dense(self, features: int, **options: Any) -> nn.Dense:
        """Returns a dense layer with the initialisation of all networks."""
        options = {"kernel_init": nn.initializers.glorot_uniform()} | options
        if self.dtype is not None:
            options["dot_general"] = bfloat16_product
        return nn.Dense(features, **options)


@dataclasses.dataclass(frozen=True)
class ActivatedNetwork(LayeredNetwork):
    """Layers with an activation, a name in ``ACTIVATIONS``."""

    activation: Annotated[str, ACTIVATIONS] = "relu"

    def activate(self, h: jax.Array) -> jax.Array:
        """Returns the activation of h, of the same shape."""
        return ACTIVATIONS[self.activation](h)


class LinearHeads(nn.Module):
    """Linear layers, each with its outputs as the last axis.

    So the parameters of a wider model are exactly these, with zeros appended along the
    axis of the latents.
    """

    network: LayeredNetwork
    heads: Heads
    starts_at_zero: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, h: jax.Array) -> dict[str, jax.Array]:
        zeros = {"kernel_init": nn.initializers.zeros}
        outputs: dict[str, jax.Array] = {
            name: self.network.dense(
                size, name=name, **zeros if name in self.starts_at_zero else {}
            )(h)
            for name, size in self.heads
        }
        return outputs


class OutputBias(nn.Module):
    """A bias per pixel and parameter, which starts at the statistics of the data.

    It is added in float32. So convolutions in bfloat16 do not round the parameters of
    an image themselves, but only their distance from those of the mean image. The
    relative error of this distance, 2^-9, is no larger than the error from rounding the
    factors of the last product.
    """

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        bias = self.param("pixels", nn.initializers.zeros, h.shape[-2:])
        return at_least_float32(h) + jax.lax.broadcast_to_rank(bias, h.ndim)


def at_least_float32(h: jax.Array) -> jax.Array:
    """Returns an array as float32, or unchanged if its type is wider."""
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))


def side_by_side(*arrays: jax.Array) -> jax.Array:
    """Returns arrays ``[..., size]`` as one; leading axes are broadcast.

    A single array is returned as it is.
    """
    if len(arrays) == 1:
        return arrays[0]
    leading = jnp.broadcast_shapes(*(array.shape[:-1] for array in arrays))
    wide = [jnp.broadcast_to(each, (*leading, each.shape[-1])) for each in arrays]
    return jnp.concatenate(wide, axis=-1)


def apply_block(
    module: Any, block: Callable[[Any, jax.Array], jax.Array], h: jax.Array
) -> jax.Array:
    """Returns ``block(module, h)``; with ``rematerialize``, only h is kept in memory.

    The layers belong to the module and have the same names in both cases.
    """
    return (nn.remat(block) if module.network.rematerialize else block)(module, h)


def per_pixel(h: jax.Array, pixel_outputs: int) -> jax.Array:
    """Returns feature maps as parameters of a likelihood.

    Args:
        h: ``[..., height, width, channels x outputs]``.
        pixel_outputs: number of parameters for each pixel.

    Returns:
        ``[..., outputs, D]``.
    """
    h = h.reshape(*h.shape[:-3], -1, pixel_outputs)
    return jnp.swapaxes(h, -1, -2)
