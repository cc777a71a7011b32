"""The interface of every distribution of latents given images."""

from typing import Protocol

import jax

from vae_jax.gradients import with_gradient_of


class Posterior(Protocol):
    """q(z|x) of a batch of images, as a value.

    It is a pytree of its parameters with pure methods. So ``vmap`` maps over it, an
    optimiser can move it, and objectives need not know its family. z is one vector
    ``[latent]``; it holds the latents of one stochastic layer after another.
    """

    def sample(self, noise: jax.Array) -> jax.Array:
        """Returns reparameterized samples z, ``[samples, batch, latent]``.

        Args:
            noise: standard normal, ``[samples, batch, latent]``.
        """

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns the log-density log q(z|x) in nats, ``[samples, batch]``.

        Args:
            z: latents, ``[samples, batch, latent]``.
        """

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns ``sample(noise)`` and its log-density; cheaper than two calls."""

    def expectation(self, noise: jax.Array) -> jax.Array:
        """Returns E_q[z|x] ``[batch, latent]``, exactly or from samples of the noise.

        Args:
            noise: standard normal, ``[samples, batch, latent]``.
        """


def sample_without_score(
    posterior: Posterior, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns z and log q(z|x); the gradient of log q(z|x) leaves out the score of q.

    The score is the derivative with respect to q's parameters at a fixed z. The value
    of log q is computed from the noise. From the sample, which is rounded, a flow's
    inverse or a narrow scale may give a very different value. The gradient can only be
    computed from the sample, so it is as well conditioned as that inverse.

    Args:
        posterior: q(z|x).
        noise: standard normal, ``[samples, batch, latent]``.

    Returns:
        Reparameterized z ``[samples, batch, latent]``, and log q ``[samples, batch]``
        in nats.
    """
    z, log_q = posterior.sample_and_log_prob(noise)
    return z, with_gradient_of(jax.lax.stop_gradient(posterior).log_prob(z), log_q)
