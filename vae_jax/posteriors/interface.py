"""What every approximate posterior q(z|x) offers to the rest of the library."""

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vae_jax.gradients import with_gradient_of
from vae_jax.networks import Heads

Params = Any


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


def make_family(family: Any, size: Any, options: Mapping[str, Any]) -> Any:
    """A family from its size and those of the options that it takes."""
    names = set(inspect.signature(family).parameters)
    return family(size, **{name: options[name] for name in names & options.keys()})


class Posterior(Protocol):
    """q(z|x) of a batch of images, as a value.

    A pytree of its parameters with pure methods, so ``vmap`` maps over it, an optimiser
    can move it, and objectives need not know its family. z is one vector ``[latent]``,
    the latents of several stochastic layers behind each other.
    """

    def sample(self, noise: jax.Array) -> jax.Array:
        """Reparameterized z, ``[samples, batch, latent]``, of normal noise like it."""

    def log_prob(self, z: jax.Array) -> jax.Array:
        """log q(z|x) in nats, a density: ``[samples, batch, latent]`` to
        ``[samples, batch]``."""

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``sample(noise)`` and its ``log_prob``, where together they cost less."""

    def expectation(self, noise: jax.Array) -> jax.Array:
        """E_q[z|x], ``[batch, latent]``: exact, or with low variance from the noise."""


def sample_without_score(
    posterior: Posterior, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reparameterized z and log q(z|x), whose gradient leaves out the score of q.

    That is the derivative for a z held fixed. The value is that of the noise: from the
    sample, which is rounded, a flow's inverse or a narrow scale may be far off it. The
    gradient has no other way, and is as well conditioned as that inverse.
    """
    z, log_q = posterior.sample_and_log_prob(noise)
    return z, with_gradient_of(jax.lax.stop_gradient(posterior).log_prob(z), log_q)


class PosteriorFamily(Protocol):
    """A family of posteriors: hashable, so that it can be static under ``jit``."""

    @property
    def has_closed_form_kl(self) -> bool:
        """Whether its values have ``kl_to_standard_normal`` and ``relative_to``."""

    @property
    def heads(self) -> Heads:
        """What it asks of the encoder: names and sizes of linear outputs."""

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters beyond the encoder's; an empty dictionary where none."""

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> Posterior:
        """The posterior of a batch.

        Args:
            params: the parameters of the whole model.
            outputs: the encoder's, ``[batch, size]`` by name.
        """
