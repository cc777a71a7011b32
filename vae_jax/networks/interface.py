"""The interface of every network to the rest of the library."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax

# Parameters of a network, or of a part that contains networks: a tree of arrays.
Params = dict[str, Any]

# Names and sizes of the linear outputs of an encoder.
Heads = tuple[tuple[str, int], ...]

# Height, width and channels of an image.
Shape = tuple[int, int, int]


class Module(Protocol):
    """One half of a network, with the pure ``init`` and ``apply`` of Linen.

    It takes one array. The decoder of an autoregressive network takes images as a
    second one. In a model with classes, the encoder takes a one-hot class ``[..., K]``
    as a second one, and the decoder finds it before the latents, in its first.
    """

    def init(self, key: jax.Array, /, *inputs: jax.Array) -> Any:
        """Returns fresh variables, ``{'params': ...}``, for inputs of these shapes."""

    def apply(self, variables: Any, /, *inputs: jax.Array) -> Any:
        """Returns the outputs for the inputs."""


@dataclasses.dataclass(frozen=True)
class WithoutParameters:
    """A module that is a function of its inputs alone."""

    function: Callable[..., Any]

    def init(self, key: jax.Array, /, *inputs: jax.Array) -> Any:
        """See ``Module``."""
        del key, inputs
        return {"params": {}}

    def apply(self, variables: Any, /, *inputs: jax.Array) -> Any:
        """See ``Module``."""
        del variables
        return self.function(*inputs)


class Network(abc.ABC):
    """An encoder and its decoder.

    A network is a frozen dataclass whose fields are its options. It is hashable, so it
    can be static under ``jit``.

    Attributes:
        pads_exactly: whether the network stays the same function if parameters of a
            further latent are appended and all are zero: the encoder then gives zeros
            for this latent, and the decoder does not depend on it. Networks of
            different latent sizes can then share a program.
        is_autoregressive: whether the decoder takes images as a second input; the
            outputs of a pixel then depend on the pixels before it, in raster order.
        takes_class: whether the encoder can take a class as a second input.
    """

    pads_exactly: ClassVar[bool] = False
    is_autoregressive: ClassVar[bool] = False
    takes_class: ClassVar[bool] = False

    @abc.abstractmethod
    def encoder(self, image_shape: Shape, heads: Heads) -> Module:
        """Returns the map from intensities to named outputs.

        Args:
            image_shape: (height, width, channels); D is their product.
            heads: names and sizes of the outputs.

        Returns:
            A map ``[..., D]`` -> ``{name: [..., size]}``; with classes, of two inputs,
            ``[..., D]`` and ``[..., K]``.
        """

    @abc.abstractmethod
    def decoder(self, image_shape: Shape, pixel_outputs: int) -> Module:
        """Returns the map from latents to parameters of a likelihood.

        Args:
            image_shape: (height, width, channels); D is their product.
            pixel_outputs: number of parameters for each pixel.

        Returns:
            A map ``[..., latent]`` -> ``[..., pixel_outputs, D]``; with classes, of
            ``[..., K + latent]``, the class first. Its parameter
            ``['bias']['pixels']``, ``[pixel_outputs, D]``, is added to the outputs; the
            model starts it at the mean image.
        """
