"""Approximate posteriors q(z|x), as values.

A posterior is a pytree of its parameters with pure methods, so an encoder returns
one, ``vmap`` maps over it, and objectives need not know its family.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_LOG_SCALE_BOUND = 20.0


def latent_noise(
    key: jax.Array, num_samples: int, batch: int, latent_dim: int
) -> jax.Array:
    """Standard normal noise ``[num_samples, batch, latent_dim]``.

    Drawn latent-major: with partitionable threefry the first rows of a wider draw are
    the narrower draw, so a model's noise does not depend on how far its latent was
    padded.
    """
    noise = jax.random.normal(key, (latent_dim, num_samples, batch))
    return jnp.moveaxis(noise, 0, -1)


class DiagonalGaussian(NamedTuple):
    """q(z|x) = N(mean, diag(scale^2)) (Kingma & Welling 2014, eq. 9)."""

    mean: jax.Array  # [..., latent]
    log_scale: jax.Array  # [..., latent]

    @classmethod
    def from_outputs(cls, mean: jax.Array, raw_log_scale: jax.Array):
        """The posterior of an encoder's two linear outputs, each ``[..., latent]``.

        ``log_scale = 20 tanh(raw/20)``: within 2 % of raw up to |raw| = 5, and bounded
        where ``exp(2 log_scale)`` would overflow float32. It maps 0 to 0, so a
        zero-padded latent is exactly N(0, 1).
        """
        bound = _LOG_SCALE_BOUND
        return cls(mean, bound * jnp.tanh(raw_log_scale / bound))

    def sample(self, noise: jax.Array) -> jax.Array:
        """Reparameterized ``z = mean + scale * noise``, ``[samples, ..., latent]``.

        Args:
          noise: standard normal, ``[samples, ..., latent]``.
        """
        return self.mean[None] + jnp.exp(self.log_scale)[None] * noise

    def log_prob(self, z: jax.Array) -> jax.Array:
        """log q(z|x) in nats, a density.

        Args:
          z: ``[samples, ..., latent]``.

        Returns:
          ``[samples, ...]``.
        """
        standardized = (z - self.mean[None]) * jnp.exp(-self.log_scale)[None]
        per_latent = -0.5 * (standardized**2 + np.log(2 * np.pi)) - self.log_scale[None]
        return per_latent.sum(-1)

    def kl_to_standard_normal(self) -> jax.Array:
        """KL(q(z|x) || N(0, I)) in nats, ``[..., latent]`` (one value per latent).

        Kingma & Welling 2014, appendix B. Through expm1, so that it is exactly zero and
        never negative where q is the prior.
        """
        variance_excess = jnp.expm1(2 * self.log_scale)
        return 0.5 * (self.mean**2 + variance_excess) - self.log_scale
