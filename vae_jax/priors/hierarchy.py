"""The generative side of several stochastic layers."""

import dataclasses

import jax
import jax.numpy as jnp

from vae_jax.distributions import latent_noise
from vae_jax.distributions.conditional import (
    GaussianLayers,
    log_prob_each,
    sample_each,
    split_layers,
)
from vae_jax.networks import Params
from vae_jax.priors.gaussian import StandardNormal
from vae_jax.priors.interface import Encode


@dataclasses.dataclass(frozen=True)
class TopDownPrior:
    """p(z_L) p(z_{L-1}|z_L) ... p(z_1|z_2), as a value."""

    family: "TopDown"
    params: Params  # of p(z_i|z_{i+1}), by i

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns log p(z) in nats, a log-density: ``[..., latent] -> [...]``."""
        latents = split_layers(z, self.family.layer_dims)
        total = StandardNormal(self.family.layer_dims[-1]).log_prob(latents[-1])
        for i in range(len(latents) - 1):
            gaussian = self.family.conditional(i).at(
                self.params[str(i)], latents[i + 1]
            )
            total = total + log_prob_each(gaussian, latents[i])
        return total

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Returns samples z ``[num_samples, latent]``, drawn from the top downwards."""
        dims = self.family.layer_dims
        noises = split_layers(latent_noise(key, 1, num_samples, sum(dims))[0], dims)
        latents = [noises[-1]]
        for i in range(len(dims) - 2, -1, -1):
            gaussian = self.family.conditional(i).at(self.params[str(i)], latents[0])
            latents.insert(0, sample_each(gaussian, noises[i]))
        return jnp.concatenate(latents, axis=-1)

    def with_means_below(self, z: jax.Array, layer: int) -> jax.Array:
        """Returns z with the layers below one at their means, given the layer above.

        Args:
            z: latents, ``[..., latent]``.
            layer: number of the lowest layer that keeps its latents; 0 is the one next
                to the images.
        """
        latents = list(split_layers(z, self.family.layer_dims))
        for i in range(layer - 1, -1, -1):
            above = latents[i + 1]
            conditional = self.family.conditional(i)
            latents[i] = conditional.at(self.params[str(i)], above).mean
        return jnp.concatenate(latents, axis=-1)


@dataclasses.dataclass(frozen=True)
class TopDown(GaussianLayers):
    """Gaussian layers, each given the layer above; the top layer is a standard normal.

    Sonderby et al. 2016, "Ladder variational autoencoders". z holds the latents of one
    layer after another; the first is the layer next to the images.
    """

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """Returns parameters of p(z_i|z_{i+1}), by i."""
        del images, levels
        return {
            str(i): self.conditional(i).init(
                jax.random.fold_in(key, i), self.layer_dims[i + 1]
            )
            for i in range(len(self.layer_dims) - 1)
        }

    def at(self, params: Params, encode: Encode) -> TopDownPrior:
        """See ``PriorFamily``."""
        del encode
        return TopDownPrior(self, params["prior"])
