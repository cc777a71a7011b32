"""No network: the latents are the image."""

import dataclasses
from typing import Any, ClassVar

import jax

from vae_jax.networks.interface import Heads, Module, Network, Shape


@dataclasses.dataclass(frozen=True)
class Identity(Network):
    """Encoder and decoder without parameters, for the posterior 'noise'."""

    takes_class: ClassVar[bool] = True

    def encoder(self, image_shape: Shape, heads: Heads) -> Module:
        """Returns the intensities, under the name of the only head."""
        del image_shape
        return _Unchanged(heads[0][0])

    def decoder(self, image_shape: Shape, pixel_outputs: int) -> Module:
        """Returns the latents: the model reads the image out of them."""
        del image_shape, pixel_outputs
        return _Unchanged("")


@dataclasses.dataclass(frozen=True)
class _Unchanged:
    """Returns its first input; as a dictionary if that has a name."""

    name: str

    def init(self, key: jax.Array, /, *inputs: jax.Array) -> Any:
        del key, inputs
        return {"params": {}}

    def apply(self, variables: Any, /, *inputs: jax.Array) -> Any:
        del variables
        return {self.name: inputs[0]} if self.name else inputs[0]
