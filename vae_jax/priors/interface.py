"""The interface of every prior p(z) to the rest of the library."""

from collections.abc import Callable
from typing import Protocol

import jax

from vae_jax.distributions import Posterior
from vae_jax.networks import Params

# Maps the intensities of images, ``[N, D]`` in [0, 1], to q(z|x).
Encode = Callable[[jax.Array], Posterior]


class Prior(Protocol):
    """p(z), as a value."""

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns log p(z) in nats, a log-density: ``[..., latent] -> [...]``."""

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Returns samples z, ``[num_samples, latent]``."""


class PriorFamily(Protocol):
    """A family of priors; hashable, and static under ``jit``.

    Its first argument is the number of latents; its other fields are its options. It
    may declare ``pads_exactly: ClassVar[bool] = True``: latents are independent
    standard normals, so further latents do not change the density of the others. Or
    ``has_density: ClassVar[bool] = False``: its priors have no ``log_prob``, but
    ``kl_terms``, an estimate of a bound (see ``diffusion``); and, if there are classes,
    a field ``num_classes`` and ``given``.
    """

    @property
    def has_closed_form_kl(self) -> bool:
        """Whether priors have ``kl_from``, of a diagonal Gaussian posterior."""

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """Returns fresh parameters; an empty dictionary if there are none.

        Args:
            key: a typed key.
            images: the training images, integers in 0 ... levels - 1, ``[N, D]``.
            levels: number of intensity levels.
        """

    def at(self, params: Params, encode: Encode) -> Prior:
        """Returns the prior.

        Args:
            params: the parameters of the whole model.
            encode: the encoder with these parameters.
        """
