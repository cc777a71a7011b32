"""Mixture priors."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from vae_jax.checks import Count, require_fields
from vae_jax.distributions import DiagonalGaussian, Posterior, latent_noise
from vae_jax.networks import Params
from vae_jax.priors.interface import Encode

# Means have variance 3/4 and components variance 1/4: together 1, as for N(0, I).
_INITIAL_MEAN_SCALE = math.sqrt(3) / 2
_INITIAL_LOG_SCALE = math.log(1 / 2)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """p(z) = sum_k w_k p_k(z), whose components p_k are posteriors of any family."""

    latent_dim: int
    log_weights: jax.Array  # log w_k, [components]; the w_k sum to 1
    components: Posterior  # all components, as a batch
    pick: Callable[[jax.Array], Posterior]  # the components of given indices [n]

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns log p(z) in nats, a log-density: ``[..., latent] -> [...]``."""
        flat = z.reshape(-1, 1, z.shape[-1])
        each = jnp.broadcast_to(
            flat, (len(flat), self.log_weights.size, flat.shape[-1])
        )
        joint = self.log_weights[None] + self.components.log_prob(each)
        return jax.nn.logsumexp(joint, axis=-1).reshape(z.shape[:-1])

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Returns samples z, ``[num_samples, latent]``."""
        component_key, noise_key = jax.random.split(key)
        component = jax.random.categorical(
            component_key, self.log_weights, shape=(num_samples,)
        )
        noise = latent_noise(noise_key, 1, num_samples, self.latent_dim)
        return self.pick(component).sample(noise)[0]


@dataclasses.dataclass(frozen=True)
class GaussianMixtureFamily:
    """A mixture of diagonal Gaussians with learned weights, means and scales.

    It starts with equal weights and different components. They are drawn so that the
    mixture has the mean and variance of N(0, I) on average.
    """

    latent_dim: int
    components: Count = 100
    has_closed_form_kl: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_fields(self)

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """Returns logits of the weights, means, and unbounded log-scales."""
        del images, levels
        shape = (self.components, self.latent_dim)
        return {
            "logits": jnp.zeros(self.components),
            "mean": _INITIAL_MEAN_SCALE * jax.random.normal(key, shape),
            "log_scale": jnp.full(shape, _INITIAL_LOG_SCALE),
        }

    def at(self, params: Params, encode: Encode) -> Mixture:
        """See ``PriorFamily``; log-scales are bounded like those of a posterior."""
        del encode
        own = params["prior"]

        def pick(index: jax.Array) -> Posterior:
            return DiagonalGaussian.from_outputs(
                own["mean"][index], own["log_scale"][index]
            )

        return Mixture(
            self.latent_dim,
            jax.nn.log_softmax(own["logits"]),
            pick(jnp.arange(self.components)),
            pick,
        )
