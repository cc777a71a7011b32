"""Gaussian posteriors."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.networks import Heads
from vae_jax.posteriors.interface import Params

_LOG_SCALE_BOUND = 20.0


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

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See ``Posterior``."""
        z = self.sample(noise)
        return z, self.log_prob(z)

    def expectation(self, noise: jax.Array) -> jax.Array:
        """The mean, exactly."""
        del noise
        return self.mean

    def relative_to(self, mean: jax.Array, log_scale: jax.Array) -> "DiagonalGaussian":
        """The distribution of (z - mean) / exp(log_scale), for ``[latent]`` of each.

        Its KL to N(0, I) is that of z to N(mean, diag(exp(2 log_scale))).
        """
        mean, log_scale = (
            jax.lax.broadcast_to_rank(parameter, self.mean.ndim)
            for parameter in (mean, log_scale)
        )
        return DiagonalGaussian(
            (self.mean - mean) * jnp.exp(-log_scale), self.log_scale - log_scale
        )

    def kl_to_standard_normal(self) -> jax.Array:
        """KL(q(z|x) || N(0, I)) in nats, ``[..., latent]`` (one value per latent).

        Kingma & Welling 2014, appendix B. Through expm1, so that it is exactly zero and
        never negative where q is the prior.
        """
        variance_excess = jnp.expm1(2 * self.log_scale)
        return 0.5 * (self.mean**2 + variance_excess) - self.log_scale


@dataclasses.dataclass(frozen=True)
class DiagonalGaussianFamily:
    """q(z|x) = N(mean(x), diag(scale(x)^2)): the mean field."""

    latent_dim: int
    has_closed_form_kl: ClassVar[bool] = True

    @property
    def heads(self) -> Heads:
        """See ``PosteriorFamily``."""
        return (("mean", self.latent_dim), ("log_scale", self.latent_dim))

    def init(self, key: jax.Array) -> Params:
        """No parameters beyond the encoder's."""
        del key
        return {}

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> DiagonalGaussian:
        """See ``PosteriorFamily``."""
        del params
        return DiagonalGaussian.from_outputs(outputs["mean"], outputs["log_scale"])
