"""Gaussians whose mean and scale are functions of something else."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.gaussian import DiagonalGaussian
from vae_jax.networks import MLP, MLPEncoder, Params, hidden_layers


@dataclasses.dataclass(frozen=True)
class ConditionalGaussian:
    """N(mean(h), diag(scale(h)^2)) of ``latent_dim`` latents, by dense layers."""

    latent_dim: int
    network: MLP

    @property
    def _encoder(self) -> MLPEncoder:
        heads = (("mean", self.latent_dim), ("log_scale", self.latent_dim))
        # Scales of 1 at first: with several layers, one's spread is another's input.
        return MLPEncoder(self.network, heads, starts_at_zero=("log_scale",))

    def init(self, key: jax.Array, size: int) -> Params:
        """Fresh parameters for h of a size."""
        params: Params = self._encoder.init(key, jnp.zeros((1, size)))["params"]
        return params

    def at(self, params: Params, h: jax.Array) -> DiagonalGaussian:
        """The Gaussians of h ``[..., size]``, with the same leading axes."""
        # One batch axis: with two, XLA transposes the gradient of every product.
        flat = h.reshape(-1, h.shape[-1])
        outputs: Any = self._encoder.apply({"params": params}, flat)
        return DiagonalGaussian.from_outputs(
            *(
                outputs[name].reshape(*h.shape[:-1], self.latent_dim)
                for name in ("mean", "log_scale")
            )
        )


@dataclasses.dataclass(frozen=True)
class GaussianLayers:
    """Stochastic layers, each Gaussian given the layer above it or below it.

    Attributes:
        layer_dims: number of latents of each layer, the images' first.
        layer_widths: hidden units between two layers.
        activation: a name in ``networks.ACTIVATIONS``.
        precision: a name in ``networks.PRECISIONS``.
    """

    layer_dims: tuple[int, ...]
    layer_widths: tuple[int, ...] = (64,)
    activation: str = "relu"
    precision: str = "float32"
    has_closed_form_kl: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _ = self.network  # Refuses what cannot be, before anything is computed.

    @property
    def network(self) -> MLP:
        """The hidden layers between two layers."""
        return hidden_layers(
            "layer_widths", self.layer_widths, self.activation, self.precision
        )

    def conditional(self, i: int) -> ConditionalGaussian:
        """Returns the form of a layer's Gaussian, given the other layer."""
        return ConditionalGaussian(self.layer_dims[i], self.network)


def sample_each(gaussian: DiagonalGaussian, noise: jax.Array) -> jax.Array:
    """One sample of each of many Gaussians, like the noise ``[..., latent]``."""
    return gaussian.sample(noise[None])[0]


def sample_and_log_prob_each(
    gaussian: DiagonalGaussian, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``sample_each`` and its log-density, of the noise itself."""
    z, log_q = gaussian.sample_and_log_prob(noise[None])
    return z[0], log_q[0]


def log_prob_each(gaussian: DiagonalGaussian, z: jax.Array) -> jax.Array:
    """log-density in nats, ``[...]``, of one z ``[..., latent]`` for each Gaussian."""
    return gaussian.log_prob(z[None])[0]


def split_layers(z: jax.Array, layer_dims: tuple[int, ...]) -> list[jax.Array]:
    """Each layer's latents ``[..., layer_dims[i]]`` of z ``[..., latent]``."""
    return jnp.split(z, np.cumsum(layer_dims)[:-1], axis=-1)
