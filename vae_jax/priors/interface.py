"""What every prior p(z) offers to the rest of the library."""

from collections.abc import Callable
from typing import Protocol

import jax

from vae_jax.distributions import Posterior
from vae_jax.networks import Params

# Gives q(z|x) of images by their intensities, ``[N, D]`` in [0, 1].
Encode = Callable[[jax.Array], Posterior]


class Prior(Protocol):
    """p(z), as a value."""

    def log_prob(self, z: jax.Array) -> jax.Array:
        """log p(z) in nats, a density: ``[..., latent] -> [...]``."""

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """z, ``[num_samples, latent]``."""


class PriorFamily(Protocol):
    """A family of priors; hashable, and static under ``jit``.

    Made from the number of latents; its other fields are its options. It may declare
    ``pads_exactly: ClassVar[bool] = True``: latents are independent and each standard
    normal, so that more of them do not change the density of the others.
    """

    @property
    def has_closed_form_kl(self) -> bool:
        """Whether its values have ``kl_from`` of a diagonal Gaussian posterior."""

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """Fresh parameters; an empty dictionary where it has none.

        Args:
            key: a typed key.
            images: the training images, integers, ``[N, D]``.
            levels: number of values an integer takes.
        """

    def at(self, params: Params, encode: Encode) -> Prior:
        """The prior.

        Args:
            params: the parameters of the whole model.
            encode: the encoder at these.
        """
