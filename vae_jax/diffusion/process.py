"""Linear Gaussian noise: q(z_t|x) = N(alpha_t x, sigma_t^2 I), a fixed encoder.

Everything is a function of gamma = -log SNR, with SNR = alpha^2 / sigma^2. The formulas
are those of Kingma, Salimans, Poole and Ho 2021, "Variational diffusion models",
appendix A, in forms that keep their digits where two times are close.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.distributions import DiagonalGaussian


@dataclasses.dataclass(frozen=True)
class Process:
    """How image and noise are scaled; hashable, and static under ``jit``.

    The latents of the two kinds differ by a known factor, so all densities of the image
    are the same.

    Attributes:
        preserves_variance: whether alpha^2 + sigma^2 = 1; otherwise alpha = 1, and the
            variance explodes.
    """

    preserves_variance: bool = True

    def alpha(self, gamma: jax.Array) -> jax.Array:
        """Returns the factor of the image."""
        if not self.preserves_variance:
            return jnp.ones_like(gamma)
        return jnp.exp(0.5 * jax.nn.log_sigmoid(-gamma))

    def sigma(self, gamma: jax.Array) -> jax.Array:
        """Returns the factor of the noise."""
        if not self.preserves_variance:
            return jnp.exp(0.5 * gamma)
        return jnp.exp(0.5 * jax.nn.log_sigmoid(gamma))

    def size(self, gamma: jax.Array) -> jax.Array:
        """Returns sqrt(alpha^2 + sigma^2): that of images of unit variance."""
        if self.preserves_variance:
            return jnp.ones_like(gamma)
        return jnp.exp(0.5 * jax.nn.softplus(gamma))

    def noised(self, x: jax.Array, gamma: jax.Array, noise: jax.Array) -> jax.Array:
        """Returns z = alpha x + sigma noise.

        Args:
            x: ``[..., D]``.
            gamma: ``[...]``.
            noise: standard normal, ``[..., D]``.
        """
        return self.alpha(gamma)[..., None] * x + self.sigma(gamma)[..., None] * noise

    def layer(self, x: jax.Array, gamma: jax.Array) -> DiagonalGaussian:
        """Returns q(z|x) of one layer; x is ``[..., D]`` and gamma ``[...]``."""
        mean = self.alpha(gamma)[..., None] * x
        log_scale = jnp.log(self.sigma(gamma))[..., None]
        return DiagonalGaussian(mean, jnp.broadcast_to(log_scale, mean.shape))

    def step(
        self, z: jax.Array, noise: jax.Array, gamma: jax.Array, gamma_before: jax.Array
    ) -> DiagonalGaussian:
        """Returns q(z_s|z_t, x), the layer before z_t, from the noise that z_t has.

        With the noise of the image itself this is the posterior; with that of a
        denoiser it is the generative p(z_s|z_t).

        Args:
            z: z_t, ``[..., D]``.
            noise: (z_t - alpha_t x) / sigma_t, ``[..., D]``.
            gamma: of time t, ``[...]``.
            gamma_before: of time s <= t, ``[...]``.
        """
        share = -jnp.expm1(gamma_before - gamma)  # 1 - SNR_t / SNR_s
        ratio = self.alpha(gamma_before) / self.alpha(gamma)
        taken = (share * self.sigma(gamma))[..., None] * noise
        mean = ratio[..., None] * (z - taken)
        log_scale = jnp.log(self.sigma(gamma_before)) + 0.5 * jnp.log(share)
        return DiagonalGaussian(mean, jnp.broadcast_to(log_scale[..., None], z.shape))

    def kl_to_prior(self, x: jax.Array, gamma: jax.Array) -> jax.Array:
        """Returns KL(q(z_1|x) || p(z_1)) in nats, ``[...]``.

        p(z_1) is N(0, size^2 I), a standard normal if the variance is preserved.

        Args:
            x: ``[..., D]``.
            gamma: of time 1, ``[...]``.
        """
        size = self.size(gamma)
        standardized = DiagonalGaussian(
            (self.alpha(gamma) / size)[..., None] * x,
            jnp.broadcast_to(jnp.log(self.sigma(gamma) / size)[..., None], x.shape),
        )
        return standardized.kl_to_standard_normal().sum(-1)


class Denoised(NamedTuple):
    """What a denoiser says of z = alpha x + sigma noise: one statement, four ways."""

    x: jax.Array  # [..., D]
    noise: jax.Array  # [..., D]
    score: jax.Array  # the gradient of log q(z), [..., D]
    velocity: jax.Array  # alpha noise - sigma x, of a preserved variance, [..., D]


PREDICTIONS = ("velocity", "noise", "data", "levels")


def read_output(
    process: Process, predicts: str, output: jax.Array, z: jax.Array, gamma: jax.Array
) -> Denoised:
    """Returns what a network's output says of z.

    'velocity' (Salimans and Ho 2022, "Progressive distillation"), 'noise' and 'data'
    read one output for each value. 'levels' reads a logit for each level of a pixel, of
    a prior that the other pixels give it; z itself then decides between the levels, and
    x is the mean level (Dieleman et al. 2022, "Continuous diffusion for categorical
    data", with this decision added).

    Args:
        process: how image and noise are scaled.
        predicts: one of ``PREDICTIONS``.
        output: of the network, ``[..., outputs, D]``.
        z: the latents that it saw, ``[..., D]``.
        gamma: of z, ``[...]``.
    """
    preserving = Process()
    z = z / process.size(gamma)[..., None]
    alpha, sigma = (
        part(gamma)[..., None] for part in (preserving.alpha, preserving.sigma)
    )
    if predicts == "velocity":
        velocity = output[..., 0, :]
        x, noise = alpha * z - sigma * velocity, sigma * z + alpha * velocity
    elif predicts == "noise":
        noise = output[..., 0, :]
        x = (z - sigma * noise) / alpha
        velocity = alpha * noise - sigma * x
    else:
        x = output[..., 0, :]
        if predicts == "levels":
            x = _mean_level(output, z, gamma, alpha)
        noise = (z - alpha * x) / sigma
        velocity = alpha * noise - sigma * x
    return Denoised(x, noise, -noise / process.sigma(gamma)[..., None], velocity)


def _mean_level(
    logits: jax.Array, z: jax.Array, gamma: jax.Array, alpha: jax.Array
) -> jax.Array:
    """Returns E[x|z] for pixels that are independent, with these logits a priori."""
    num_levels = logits.shape[-2]
    levels = jnp.linspace(-1.0, 1.0, num_levels).reshape(
        (1,) * (logits.ndim - 2) + (num_levels, 1)
    )
    snr = jnp.exp(-gamma)[..., None, None]
    distance = (z / alpha)[..., None, :] - levels
    chances = jax.nn.softmax(logits - 0.5 * snr * distance**2, axis=-2)
    return (chances * levels).sum(-2)
