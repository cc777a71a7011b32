"""Priors p(z), as values."""

from typing import NamedTuple

import jax
import numpy as np

from vae_jax import posteriors


class StandardNormal(NamedTuple):
    """p(z) = N(0, I)."""

    def log_prob(self, z: jax.Array) -> jax.Array:
        """log p(z) in nats, a density: ``[..., latent] -> [...]``."""
        return (-0.5 * (z**2 + np.log(2 * np.pi))).sum(-1)

    def sample(self, key: jax.Array, num_samples: int, latent_dim: int) -> jax.Array:
        """z, ``[num_samples, latent_dim]``."""
        return posteriors.latent_noise(key, 1, num_samples, latent_dim)[0]
