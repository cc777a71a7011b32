"""What every family of posteriors offers to the rest of the library."""

from typing import Protocol

import jax

from vae_jax.distributions import Posterior
from vae_jax.networks import Heads, Params


class PosteriorFamily(Protocol):
    """A family of posteriors; hashable, and static under ``jit``.

    Made from the number of latents or, with a ClassVar ``is_hierarchical = True``, from
    those of each stochastic layer; its other fields are its options. It may also
    declare ``pads_exactly: ClassVar[bool] = True``: of an encoder's outputs that are 0
    for a latent, it makes the standard normal there, independent of the other latents.
    """

    @property
    def has_closed_form_kl(self) -> bool:
        """Whether its values have ``kl_to_standard_normal`` and ``relative_to``."""

    @property
    def heads(self) -> Heads:
        """What it asks of the encoder: names and sizes of linear outputs."""

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters beyond the encoder's; an empty dictionary where none."""

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> Posterior:
        """The posterior of a batch.

        Args:
            params: the parameters of the whole model.
            outputs: the encoder's, ``[batch, size]`` by name.
        """
