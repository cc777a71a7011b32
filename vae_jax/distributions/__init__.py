"""Distributions of latents, as values; posteriors and priors consist of them."""

from vae_jax.distributions.conditional import ConditionalGaussian
from vae_jax.distributions.flows import Flow
from vae_jax.distributions.gaussian import DiagonalGaussian, FullCovarianceGaussian
from vae_jax.distributions.interface import Posterior, sample_without_score
from vae_jax.distributions.noise import latent_noise

__all__ = [
    "ConditionalGaussian",
    "DiagonalGaussian",
    "Flow",
    "FullCovarianceGaussian",
    "Posterior",
    "latent_noise",
    "sample_without_score",
]
