"""Gaussian priors."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from vae_jax.posteriors import DiagonalGaussian, latent_noise
from vae_jax.posteriors.interface import Params
from vae_jax.priors.interface import Encode


@dataclasses.dataclass(frozen=True)
class StandardNormal:
    """p(z) = N(0, I): both the family and, having no parameters, its only value."""

    latent_dim: int
    has_closed_form_kl: ClassVar[bool] = True

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """No parameters."""
        del key, images, levels
        return {}

    def at(self, params: Params, encode: Encode) -> "StandardNormal":
        """Itself."""
        del params, encode
        return self

    def log_prob(self, z: jax.Array) -> jax.Array:
        """log p(z) in nats, a density: ``[..., latent] -> [...]``."""
        return (-0.5 * (z**2 + np.log(2 * np.pi))).sum(-1)

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """z, ``[num_samples, latent]``."""
        return latent_noise(key, 1, num_samples, self.latent_dim)[0]

    def kl_from(self, posterior: DiagonalGaussian) -> jax.Array:
        """KL(q(z|x) || p(z)) in nats, ``[..., latent]`` (one value per latent)."""
        return posterior.kl_to_standard_normal()
