"""A fixed encoder: the latents are the image and noise."""

import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from vae_jax.checks import Range, require_fields
from vae_jax.diffusion.process import Process
from vae_jax.distributions import DiagonalGaussian
from vae_jax.networks import Heads, Params
from vae_jax.trees import tree_dataclass


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class NoisedImage:
    """q(z_0|x) of a batch, the first layer of a chain.

    Attributes:
        image: x, from -1 (black) to 1 (white), ``[batch, D]``.
        gaussian: N(alpha_0 x, sigma_0^2 I).
    """

    image: jax.Array
    gaussian: DiagonalGaussian

    def sample(self, noise: jax.Array) -> jax.Array:
        """See ``Posterior``."""
        return self.gaussian.sample(noise)

    def log_prob(self, z: jax.Array) -> jax.Array:
        """See ``Posterior``."""
        return self.gaussian.log_prob(z)

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See ``Posterior``."""
        return self.gaussian.sample_and_log_prob(noise)

    def expectation(self, noise: jax.Array) -> jax.Array:
        """See ``Posterior``."""
        return self.gaussian.expectation(noise)


@dataclasses.dataclass(frozen=True)
class NoiseFamily:
    """q(z_0|x) = N(alpha_0 x, sigma_0^2 I), which has no parameters.

    It is the first layer of the chain that the prior 'diffusion' is. The likelihood
    reads the image out of z_0, so the model has no other decoder.

    Attributes:
        latent_dim: D, the number of values of an image.
        gamma_min: -log SNR of z_0.
        preserves_variance: as in the prior.
    """

    latent_dim: int
    gamma_min: Annotated[float, Range(at_least=-30, at_most=30)] = -8.0
    preserves_variance: bool = True

    has_closed_form_kl: ClassVar[bool] = False
    is_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_fields(self)

    @property
    def heads(self) -> Heads:
        """See ``PosteriorFamily``."""
        return (("image", self.latent_dim),)

    def init(self, key: jax.Array) -> Params:
        """Returns no parameters."""
        del key
        return {}

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> NoisedImage:
        """See ``PosteriorFamily``."""
        del params
        image = 2 * outputs["image"] - 1
        gamma = jnp.full(image.shape[:-1], self.gamma_min, image.dtype)
        process = Process(self.preserves_variance)
        return NoisedImage(image, process.layer(image, gamma))

    def read(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns mean and standard deviation of the intensity that z_0 speaks of.

        With a flat prior, p(x|z_0) is N(z_0 / alpha_0, e^gamma_0 I).

        Args:
            z: z_0, ``[..., D]``.

        Returns:
            In units where black is 0 and white is 1: ``[..., D]`` each.
        """
        alpha = Process(self.preserves_variance).alpha(jnp.float32(self.gamma_min))
        std = jnp.exp(jnp.float32(0.5 * self.gamma_min)) / 2
        return (z / alpha + 1) / 2, jnp.broadcast_to(std, z.shape)
