"""Gaussian distributions of latents; one value holds a batch of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_LOG_SCALE_BOUND = 20.0


class DiagonalGaussian(NamedTuple):
    """q(z|x) = N(mean, diag(scale^2)) (Kingma & Welling 2014, eq. 9)."""

    mean: jax.Array  # [..., latent]
    log_scale: jax.Array  # [..., latent]

    @classmethod
    def from_outputs(
        cls, mean: jax.Array, raw_log_scale: jax.Array
    ) -> "DiagonalGaussian":
        """Returns the posterior of an encoder's linear outputs, each ``[..., latent]``.

        ``log_scale = 20 tanh(raw/20)``: it is within 2 % of raw up to |raw| = 4.9, and
        so limited that ``exp(2 log_scale)`` does not overflow float32. It maps 0 to 0,
        so a zero-padded latent is exactly N(0, 1).
        """
        bound = _LOG_SCALE_BOUND
        return cls(mean, bound * jnp.tanh(raw_log_scale / bound))

    def sample(self, noise: jax.Array) -> jax.Array:
        """Returns ``z = mean + scale * noise``, ``[samples, ..., latent]``.

        Args:
            noise: standard normal, ``[samples, ..., latent]``.
        """
        return self.mean[None] + jnp.exp(self.log_scale)[None] * noise

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns the log-density log q(z|x), in nats.

        Args:
            z: latents, ``[samples, ..., latent]``.

        Returns:
            ``[samples, ...]``.
        """
        standardized = (z - self.mean[None]) * jnp.exp(-self.log_scale)[None]
        per_latent: jax.Array = (
            -0.5 * (standardized**2 + np.log(2 * np.pi)) - self.log_scale[None]
        )
        return per_latent.sum(-1)

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See ``Posterior``."""
        # Computed from the noise: the sample is rounded if the mean is far larger.
        per_latent: jax.Array = (
            -0.5 * (noise**2 + np.log(2 * np.pi)) - self.log_scale[None]
        )
        return self.sample(noise), per_latent.sum(-1)

    def expectation(self, noise: jax.Array) -> jax.Array:
        """Returns the mean, exactly."""
        del noise
        return self.mean

    def relative_to(self, mean: jax.Array, log_scale: jax.Array) -> "DiagonalGaussian":
        """Returns the distribution of (z - mean) / exp(log_scale).

        Its KL to N(0, I) is the KL of z to N(mean, diag(exp(2 log_scale))).

        Args:
            mean: ``[latent]``.
            log_scale: ``[latent]``.
        """
        mean, log_scale = (
            jax.lax.broadcast_to_rank(parameter, self.mean.ndim)
            for parameter in (mean, log_scale)
        )
        return DiagonalGaussian(
            (self.mean - mean) * jnp.exp(-log_scale), self.log_scale - log_scale
        )

    def kl_to_standard_normal(self) -> jax.Array:
        """Returns KL(q(z|x) || N(0, I)) in nats, ``[..., latent]`` (one per latent).

        Kingma & Welling 2014, appendix B. It uses ``expm1``, so it is exactly zero if q
        is the prior, and never negative near it.
        """
        variance_excess = jnp.expm1(2 * self.log_scale)
        return 0.5 * (self.mean**2 + variance_excess) - self.log_scale


class FullCovarianceGaussian(NamedTuple):
    """q(z|x) = N(mean, L L^T) with L lower triangular and a positive diagonal."""

    mean: jax.Array  # [..., latent]
    log_scale: jax.Array  # log of L's diagonal, [..., latent]
    lower: jax.Array  # L below its diagonal, row by row, [..., latent (latent - 1) / 2]

    @property
    def factor(self) -> jax.Array:
        """The lower triangular factor L, ``[..., latent, latent]``."""
        size = self.mean.shape[-1]
        entries = jnp.zeros((*self.mean.shape, size))
        entries = entries.at[..., *np.diag_indices(size)].set(jnp.exp(self.log_scale))
        return entries.at[..., *np.tril_indices(size, -1)].set(self.lower)

    def sample(self, noise: jax.Array) -> jax.Array:
        """Returns ``z = mean + L noise``, ``[samples, ..., latent]``."""
        return self.mean[None] + jnp.einsum(
            "...ij,s...j->s...i", self.factor, noise, precision="highest"
        )

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns the log-density log q(z|x), in nats.

        Args:
            z: latents, ``[samples, ..., latent]``.

        Returns:
            ``[samples, ...]``.
        """
        centred = jnp.moveaxis(z - self.mean[None], 0, -1)  # [..., latent, samples]
        noise = jax.scipy.linalg.solve_triangular(self.factor, centred, lower=True)
        squares = jnp.moveaxis((noise**2).sum(-2), -1, 0)
        log_determinant = self.log_scale.sum(-1)
        size = self.mean.shape[-1]
        log_q: jax.Array = -0.5 * (squares + size * np.log(2 * np.pi))
        return log_q - log_determinant[None]

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See ``Posterior``; this solves no system of equations."""
        size = self.mean.shape[-1]
        squares = (noise**2).sum(-1) + size * np.log(2 * np.pi)
        return self.sample(noise), -0.5 * squares - self.log_scale.sum(-1)[None]

    def expectation(self, noise: jax.Array) -> jax.Array:
        """Returns the mean, exactly."""
        del noise
        return self.mean

    def relative_to(
        self, mean: jax.Array, log_scale: jax.Array
    ) -> "FullCovarianceGaussian":
        """See ``DiagonalGaussian.relative_to``."""
        rows, _ = np.tril_indices(self.mean.shape[-1], -1)
        diagonal = DiagonalGaussian(self.mean, self.log_scale).relative_to(
            mean, log_scale
        )
        shrink = jax.lax.broadcast_to_rank(jnp.exp(-log_scale)[rows], self.lower.ndim)
        return FullCovarianceGaussian(
            diagonal.mean, diagonal.log_scale, self.lower * shrink
        )

    def kl_to_standard_normal(self) -> jax.Array:
        """Returns KL(q(z|x) || N(0, I)) in nats, ``[..., 1]`` (one for all latents).

        The formula is 0.5 (tr(L L^T) + |mean|^2 - latent) - log det L; it is exactly
        zero if q is the prior.
        """
        diagonal = DiagonalGaussian(self.mean, self.log_scale).kl_to_standard_normal()
        return (diagonal.sum(-1) + 0.5 * (self.lower**2).sum(-1))[..., None]
