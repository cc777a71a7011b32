"""Gaussian posteriors."""

import dataclasses
from typing import ClassVar

import jax

from vae_jax.distributions import DiagonalGaussian, FullCovarianceGaussian
from vae_jax.networks import Heads, Params


@dataclasses.dataclass(frozen=True)
class DiagonalGaussianFamily:
    """q(z|x) = N(mean(x), diag(scale(x)^2)), the mean-field posterior."""

    latent_dim: int
    has_closed_form_kl: ClassVar[bool] = True
    pads_exactly: ClassVar[bool] = True

    @property
    def heads(self) -> Heads:
        """See ``PosteriorFamily``."""
        return (("mean", self.latent_dim), ("log_scale", self.latent_dim))

    def init(self, key: jax.Array) -> Params:
        """Returns no parameters: those of the encoder are all."""
        del key
        return {}

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> DiagonalGaussian:
        """See ``PosteriorFamily``."""
        del params
        return DiagonalGaussian.from_outputs(outputs["mean"], outputs["log_scale"])


@dataclasses.dataclass(frozen=True)
class FullCovarianceFamily:
    """q(z|x) = N(mean(x), L(x) L(x)^T), with all correlations between latents."""

    latent_dim: int
    has_closed_form_kl: ClassVar[bool] = True

    @property
    def heads(self) -> Heads:
        """See ``PosteriorFamily``."""
        num_lower = self.latent_dim * (self.latent_dim - 1) // 2
        diagonal = DiagonalGaussianFamily(self.latent_dim).heads
        # A linear layer needs at least one output.
        return (*diagonal, ("lower", num_lower)) if num_lower else diagonal

    def init(self, key: jax.Array) -> Params:
        """Returns no parameters: those of the encoder are all."""
        del key
        return {}

    def at(
        self, params: Params, outputs: dict[str, jax.Array]
    ) -> FullCovarianceGaussian:
        """See ``PosteriorFamily``."""
        del params
        diagonal = DiagonalGaussian.from_outputs(outputs["mean"], outputs["log_scale"])
        lower = outputs.get("lower", outputs["mean"][..., :0])
        return FullCovarianceGaussian(diagonal.mean, diagonal.log_scale, lower)
