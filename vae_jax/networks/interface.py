"""What every network offers to the rest of the library."""

import abc
from typing import Any, ClassVar, Protocol

import jax

# Parameters of a network, or of what is made of networks: a tree of arrays.
Params = dict[str, Any]

# Names and sizes of the linear outputs that are asked of an encoder.
Heads = tuple[tuple[str, int], ...]

# Height, width and channels of an image.
Shape = tuple[int, int, int]


class Module(Protocol):
    """One half of a network: Linen's pure ``init`` and ``apply``.

    Of one array; the decoder of an autoregressive network takes images as a second.
    """

    def init(self, key: jax.Array, /, *inputs: jax.Array) -> Any:
        """Returns fresh variables, ``{'params': ...}``, for inputs like these."""

    def apply(self, variables: Any, /, *inputs: jax.Array) -> Any:
        """Returns the outputs."""


class Network(abc.ABC):
    """An encoder and its decoder.

    A frozen dataclass, whose fields are the network's options: hashable, so that it can
    be static under ``jit``.

    Attributes:
        pads_exactly: whether the network stays the same function if a latent's
            parameters are appended to it and are zero: an encoder then gives zeros for
            this latent, and a decoder is not moved by it. Networks of different latent
            sizes can then share a program.
        is_autoregressive: whether the decoder takes images as a second input, and has
            the outputs of a pixel depend on pixels before it, in raster order.
    """

    pads_exactly: ClassVar[bool] = False
    is_autoregressive: ClassVar[bool] = False

    @abc.abstractmethod
    def encoder(self, image_shape: Shape, heads: Heads) -> Module:
        """Returns the map from intensities to named outputs.

        Args:
            image_shape: (height, width, channels); D is their product.
            heads: names and sizes of the outputs.

        Returns:
            A map ``[..., D]`` -> ``{name: [..., size]}``.
        """

    @abc.abstractmethod
    def decoder(self, image_shape: Shape, pixel_outputs: int) -> Module:
        """Returns the map from latents to parameters of a likelihood.

        Args:
            image_shape: (height, width, channels); D is their product.
            pixel_outputs: number of parameters for each pixel.

        Returns:
            A map ``[..., latent]`` -> ``[..., pixel_outputs, D]``, with a parameter
            ``['bias']['pixels']``, ``[pixel_outputs, D]``, that is added to the
            outputs: the model starts it at the mean image.
        """
