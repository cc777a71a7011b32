"""Gaussian priors."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions import DiagonalGaussian, latent_noise
from vae_jax.networks import Params
from vae_jax.priors.interface import Encode


@dataclasses.dataclass(frozen=True)
class StandardNormal:
    """p(z) = N(0, I). It has no parameters, so family and prior are the same value."""

    latent_dim: int
    has_closed_form_kl: ClassVar[bool] = True
    pads_exactly: ClassVar[bool] = True

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """Returns no parameters."""
        del key, images, levels
        return {}

    def at(self, params: Params, encode: Encode) -> "StandardNormal":
        """Returns itself."""
        del params, encode
        return self

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns log p(z) in nats, a log-density: ``[..., latent] -> [...]``."""
        per_latent: jax.Array = -0.5 * (z**2 + np.log(2 * np.pi))
        return per_latent.sum(-1)

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Returns samples z, ``[num_samples, latent]``."""
        return latent_noise(key, 1, num_samples, self.latent_dim)[0]

    def kl_from(self, posterior: DiagonalGaussian) -> jax.Array:
        """Returns KL(q(z|x) || p(z)) in nats, ``[..., latent]`` (one per latent)."""
        return posterior.kl_to_standard_normal()


class GaussianPrior(NamedTuple):
    """p(z) = N(mean, diag(scale^2)); mean and log-scale are ``[latent]``."""

    mean: jax.Array
    log_scale: jax.Array

    @property
    def _distribution(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean, self.log_scale)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns log p(z) in nats, a log-density: ``[..., latent] -> [...]``."""
        flat = z.reshape(-1, z.shape[-1])
        return self._distribution.log_prob(flat).reshape(z.shape[:-1])

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Returns samples z, ``[num_samples, latent]``."""
        noise = latent_noise(key, 1, num_samples, self.mean.size)[0]
        return self._distribution.sample(noise)

    def kl_from(self, posterior: DiagonalGaussian) -> jax.Array:
        """Returns KL(q(z|x) || p(z)) in nats, ``[..., latent]`` (one per latent)."""
        return posterior.relative_to(self.mean, self.log_scale).kl_to_standard_normal()


@dataclasses.dataclass(frozen=True)
class GaussianPriorFamily:
    """A diagonal Gaussian with learned mean and scale, which starts at N(0, I).

    With an unrestricted encoder and decoder it is no richer than N(0, I), because these
    can shift and scale z. Fitted after training, it is the diagonal Gaussian closest to
    q(z).
    """

    latent_dim: int
    has_closed_form_kl: ClassVar[bool] = True

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """Returns a mean and a log-scale of zeros."""
        del key, images, levels
        zeros = jnp.zeros(self.latent_dim)
        return {"mean": zeros, "log_scale": zeros}

    def at(self, params: Params, encode: Encode) -> GaussianPrior:
        """See ``PriorFamily``; the log-scale is bounded like that of a posterior."""
        del encode
        own = params["prior"]
        return GaussianPrior(
            *DiagonalGaussian.from_outputs(own["mean"], own["log_scale"])
        )
