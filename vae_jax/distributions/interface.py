"""What every distribution of latents given images offers to the rest of the library."""

from typing import Protocol

import jax

from vae_jax.gradients import with_gradient_of


class Posterior(Protocol):
    """q(z|x) of a batch of images, as a value.

    A pytree of its parameters with pure methods, so ``vmap`` maps over it, an optimiser
    can move it, and objectives need not know its family. z is one vector ``[latent]``,
    which holds the latents of one stochastic layer after the other.
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
    """Returns z and log q(z|x), whose gradient leaves out the score of q.

    z is reparameterized.

    That is the derivative for a z held fixed. The value is that of the noise: from the
    sample, which is rounded, a flow's inverse or a narrow scale may be far off it. The
    gradient has no other way, and is as well conditioned as that inverse.
    """
    z, log_q = posterior.sample_and_log_prob(noise)
    return z, with_gradient_of(jax.lax.stop_gradient(posterior).log_prob(z), log_q)
