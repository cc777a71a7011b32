"""Gaussians whose mean and scale are functions of another array."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.gaussian import DiagonalGaussian
from vae_jax.networks import MLP, MLPEncoder, Params, hidden_layers


@dataclasses.dataclass(frozen=True)
class ConditionalGaussian:
    """N(mean(h), diag(scale(h)^2)), with mean and scale from dense layers.

    Attributes:
        latent_dim: number of latents.
        network: the hidden layers.
    """

    latent_dim: int
    network: MLP

    @property
    def _encoder(self) -> MLPEncoder:
        heads = (("mean", self.latent_dim), ("log_scale", self.latent_dim))
        # Scales start at 1: in a chain of layers, samples of one are inputs of another.
        return MLPEncoder(self.network, heads, starts_at_zero=("log_scale",))

    def init(self, key: jax.Array, size: int) -> Params:
        """Returns fresh parameters for h ``[..., size]``."""
        params: Params = self._encoder.init(key, jnp.zeros((1, size)))["params"]
        return params

    def at(self, params: Params, h: jax.Array) -> DiagonalGaussian:
        """Returns the Gaussians of h ``[..., size]``, with the same leading axes."""
        # One batch axis. With two, XLA transposes the gradient of every product.
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
    """Stochastic layers, each a Gaussian given the layer above it or below it.

    Attributes:
        layer_dims: number of latents of each layer; the first is the one next to the
            images.
        layer_widths: widths of the hidden layers between two stochastic layers.
        activation: a name in ``networks.ACTIVATIONS``.
        precision: a name in ``networks.PRECISIONS``.
    """

    layer_dims: tuple[int, ...]
    layer_widths: tuple[int, ...] = (64,)
    activation: str = "relu"
    precision: str = "float32"
    has_closed_form_kl: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _ = self.network  # Refuses wrong options before anything is computed.

    @property
    def network(self) -> MLP:
        """The hidden layers between two stochastic layers."""
        return hidden_layers(
            "layer_widths", self.layer_widths, self.activation, self.precision
        )

    def conditional(self, i: int) -> ConditionalGaussian:
        """Returns the Gaussian of layer ``i`` as a function of its neighbour layer."""
        return ConditionalGaussian(self.layer_dims[i], self.network)


def sample_each(gaussian: DiagonalGaussian, noise: jax.Array) -> jax.Array:
    """Returns one sample of each Gaussian; noise and samples are ``[..., latent]``."""
    return gaussian.sample(noise[None])[0]


def sample_and_log_prob_each(
    gaussian: DiagonalGaussian, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns ``sample_each`` and its log-density ``[...]`` in nats, from the noise."""
    z, log_q = gaussian.sample_and_log_prob(noise[None])
    return z[0], log_q[0]


def log_prob_each(gaussian: DiagonalGaussian, z: jax.Array) -> jax.Array:
    """Returns the log-density ``[...]`` of one z ``[..., latent]`` for each Gaussian.

    It is in nats.
    """
    return gaussian.log_prob(z[None])[0]


def split_layers(z: jax.Array, layer_dims: tuple[int, ...]) -> list[jax.Array]:
    """Returns each layer's latents ``[..., layer_dims[i]]`` of z ``[..., latent]``."""
    return jnp.split(z, np.cumsum(layer_dims)[:-1], axis=-1)
