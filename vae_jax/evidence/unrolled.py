"""A chain of latents with a known number of steps, as an ordinary hierarchy.

``unrolled(model, steps)`` describes the same model with all its layers in z. So
log p(z) is exact, and everything that needs it is defined: importance weights,
annealing, the objectives. Its memory grows with the steps; keep them few.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vae_jax.checks import require_count
from vae_jax.distributions import DiagonalGaussian, latent_noise
from vae_jax.distributions.conditional import (
    log_prob_each,
    sample_each,
    split_layers,
)
from vae_jax.model import VAE, Params
from vae_jax.networks import Heads
from vae_jax.posteriors.hierarchy import ChainPosterior
from vae_jax.posteriors.noise import NoiseFamily
from vae_jax.priors.diffusion import DiffusionFamily, DiffusionPrior
from vae_jax.priors.interface import Encode


def unrolled(model: VAE, steps: int) -> VAE:
    """Returns a model whose latents are all layers z_0 ... z_T of a chain.

    It has the parameters of the chain. For T steps of the chain itself it is the same
    model; for another number, the one that shares all parameters.

    Args:
        model: with the posterior 'noise' and the prior 'diffusion'.
        steps: T, at least 1.

    Raises:
        ValueError: the model is no chain, or is unrolled already, or has classes.
    """
    require_count("steps", steps)
    if not model.is_chain or model.has_density:
        raise ValueError(
            f"posterior is {model.name_of('posterior')}: only a chain of "
            "latents can be unrolled. Choose the posterior 'noise' and the prior "
            "'diffusion'."
        )
    if model.num_classes:
        raise ValueError(
            f"num_classes is {model.num_classes}: the layers of an unrolled chain see "
            "no class. Make the model without classes."
        )
    first: Any = model.posterior_family
    chain: Any = model.prior_family
    layer_dims = (model.latent_dim,) * (steps + 1)
    return dataclasses.replace(
        model,
        posterior_family=NoiseLayers(first, chain, layer_dims),
        prior_family=DenoisedLayers(chain, layer_dims),
        layer_dims=layer_dims,
    )


def _gammas(chain: DiffusionPrior, layer_dims: Sequence[int]) -> jax.Array:
    """Returns -log SNR of the layers, ``[T + 1]``."""
    return chain.gamma(jnp.linspace(0.0, 1.0, len(layer_dims)))


@dataclasses.dataclass(frozen=True)
class NoiseLayers:
    """q(z_T|x) q(z_{T-1}|z_T, x) ... q(z_0|z_1, x), without parameters."""

    first: NoiseFamily
    chain: DiffusionFamily
    layer_dims: tuple[int, ...]

    has_closed_form_kl: ClassVar[bool] = False
    is_noise: ClassVar[bool] = True

    @property
    def heads(self) -> Heads:
        """See ``PosteriorFamily``."""
        return self.first.heads

    def init(self, key: jax.Array) -> Params:
        """Returns no parameters."""
        return self.first.init(key)

    def read(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See ``NoiseFamily``; z is z_0."""
        return self.first.read(z)

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> ChainPosterior:
        """See ``PosteriorFamily``."""
        image = self.first.at(params, outputs).image
        chain = DiffusionPrior(params["prior"], None, self.chain)
        gammas = _gammas(chain, self.layer_dims)
        return ChainPosterior((image, gammas), self)

    @property
    def order(self) -> Sequence[int]:
        """See ``ChainFamily``: from the last layer to the first."""
        return range(len(self.layer_dims))[::-1]

    def layer(self, values: Any, i: int, before: jax.Array | None) -> DiagonalGaussian:
        """See ``ChainFamily``."""
        image, gammas = values
        process = self.chain.process
        if before is None:
            return process.layer(image, jnp.broadcast_to(gammas[i], image.shape[:-1]))
        gamma, own = (
            jnp.broadcast_to(gammas[j], before.shape[:-1]) for j in (i + 1, i)
        )
        signal = process.alpha(gamma)[..., None] * jnp.broadcast_to(image, before.shape)
        noise = (before - signal) / process.sigma(gamma)[..., None]
        return process.step(before, noise, gamma, own)


@dataclasses.dataclass(frozen=True)
class DenoisedLayers:
    """p(z_T) p(z_{T-1}|z_T) ... p(z_0|z_1), each step by the denoiser."""

    chain: DiffusionFamily
    layer_dims: tuple[int, ...]

    has_closed_form_kl: ClassVar[bool] = False

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """See ``PriorFamily``."""
        return self.chain.init(key, images, levels)

    def at(self, params: Params, encode: Encode) -> "DenoisedChain":
        """See ``PriorFamily``."""
        return DenoisedChain(self.chain.at(params, encode), self.layer_dims)


@dataclasses.dataclass(frozen=True)
class DenoisedChain:
    """The prior of an unrolled chain, as a value."""

    chain: DiffusionPrior
    layer_dims: tuple[int, ...]

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns log p(z) in nats, a log-density: ``[..., latent] -> [...]``."""
        latents = split_layers(z, self.layer_dims)
        total = log_prob_each(self._top(latents[-1].shape), latents[-1])
        for i in range(len(latents) - 1):
            total = total + log_prob_each(self._step(i, latents[i + 1]), latents[i])
        return total

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Returns samples z ``[num_samples, latent]``, drawn from the top downwards."""
        size = sum(self.layer_dims)
        noises = split_layers(
            latent_noise(key, 1, num_samples, size)[0], self.layer_dims
        )
        latents = [sample_each(self._top(noises[-1].shape), noises[-1])]
        for i in range(len(noises) - 2, -1, -1):
            latents.insert(0, sample_each(self._step(i, latents[0]), noises[i]))
        return jnp.concatenate(latents, axis=-1)

    def _top(self, shape: tuple[int, ...]) -> DiagonalGaussian:
        size = self.chain.family.process.size(_gammas(self.chain, self.layer_dims)[-1])
        return DiagonalGaussian(
            jnp.zeros(shape), jnp.broadcast_to(jnp.log(size), shape)
        )

    def _step(self, i: int, above: jax.Array) -> DiagonalGaussian:
        """Returns p(z_i|z_{i+1}) of latents ``[..., D]``."""
        gammas = _gammas(self.chain, self.layer_dims)
        gamma, own = (jnp.broadcast_to(gammas[j], above.shape[:-1]) for j in (i + 1, i))
        flat = above.reshape(-1, above.shape[-1])
        noise = self.chain.denoised(flat, gamma.reshape(-1)).noise
        return self.chain.family.process.step(
            above, noise.reshape(above.shape), gamma, own
        )
