"""The interface of every family of posteriors to the rest of the library."""

from typing import Protocol

import jax

from vae_jax.distributions import Posterior
from vae_jax.networks import Heads, Params


class PosteriorFamily(Protocol):
    """A family of posteriors; hashable, and static under ``jit``.

    Its first argument is the number of latents or, with a ClassVar
    ``is_hierarchical = True``, the number for each stochastic layer; its other fields
    are its options. It may also declare ``pads_exactly: ClassVar[bool] = True``: if the
    encoder's outputs for a latent are 0, the posterior of this latent is a standard
    normal that is independent of the other latents. Or ``is_noise: ClassVar[bool] =
    True``: z is the image and noise, which ``read`` undoes (see ``noise``).
    """

    @property
    def has_closed_form_kl(self) -> bool:
        """Whether posteriors have ``kl_to_standard_normal`` and ``relative_to``."""

    @property
    def heads(self) -> Heads:
        """Names and sizes of the linear outputs that the encoder must give."""

    def init(self, key: jax.Array) -> Params:
        """Returns fresh parameters in addition to the encoder's; {} if none."""

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> Posterior:
        """Returns the posterior of a batch.

        Args:
            params: the parameters of the whole model.
            outputs: the encoder's outputs by name, each ``[batch, size]``.
        """
