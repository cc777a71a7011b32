"""No network: the latents are the image."""

import dataclasses
from typing import ClassVar

from vae_jax.networks.interface import (
    Heads,
    Module,
    Network,
    Shape,
    WithoutParameters,
)


@dataclasses.dataclass(frozen=True)
class Identity(Network):
    """Encoder and decoder without parameters, for the posterior 'noise'."""

    takes_class: ClassVar[bool] = True

    def encoder(self, image_shape: Shape, heads: Heads) -> Module:
        """Returns the intensities, under the name of the only head."""
        del image_shape
        ((name, _),) = heads
        return WithoutParameters(lambda x, *y: {name: x})

    def decoder(self, image_shape: Shape, pixel_outputs: int) -> Module:
        """Returns the latents: the model reads the image out of them."""
        del image_shape, pixel_outputs
        return WithoutParameters(lambda z, *x: z)
