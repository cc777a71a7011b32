"""A variational autoencoder as a frozen description and pure functions of parameters.

The generative model is p(x, z) = p(z) p(x|z); the encoder gives q(z|x). Parameters are
a plain dictionary::

    {'encoder': ..., 'decoder': ..., 'shared': [shared_outputs]}

where 'shared' holds the likelihood's parameters that all pixels have in common.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax import networks, priors, views
from vae_jax.likelihoods import Likelihood
from vae_jax.posteriors import DiagonalGaussian

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class VAE:
    """What a model is made of; hashable, so that it can be static under ``jit``."""

    encoder: networks.Network
    decoder: networks.Network
    likelihood: Likelihood
    latent_dim: int
    prior: priors.StandardNormal
    ignore_x: bool = False  # q(z) in place of q(z|x): the encoder sees a black image

    def init(
        self, key: jax.Array, pixel_mean: jax.Array, pixel_std: jax.Array
    ) -> Params:
        """Fresh parameters, whose decoder starts at the data's mean image.

        Args:
            key: a typed key.
            pixel_mean: mean intensity of the training images, in [0, 1], ``[D]``.
            pixel_std: standard deviation of the same, ``[D]``.
        """
        encoder_key, decoder_key = jax.random.split(key)
        encoder = self.encoder.init(encoder_key, jnp.zeros((1, *pixel_mean.shape)))
        decoder = self.decoder.init(decoder_key, jnp.zeros((1, self.latent_dim)))
        initial = self.likelihood.initial_outputs(pixel_mean, pixel_std)
        pixel_outputs = self.likelihood.pixel_outputs
        decoder["params"]["bias"]["pixels"] = initial[:pixel_outputs]
        return {
            "encoder": encoder["params"],
            "decoder": decoder["params"],
            "shared": initial[pixel_outputs:].mean(axis=1),
        }

    def encode(
        self, params: Params, x: jax.Array, latent_mask: jax.Array | None = None
    ) -> DiagonalGaussian:
        """q(z|x) of images x ``[batch, D]`` given in the likelihood's view.

        Args:
            params: the model's parameters, possibly zero-padded to a wider latent.
            x: the images.
            latent_mask: 1 for a latent in use, 0 for padding, ``[latent]``: q is the
                prior there, and no gradient reaches the padding's parameters. Where no
                gradient is taken, zero-padded parameters give the same without it.
        """
        likelihood = self.likelihood
        intensity = views.to_intensity(likelihood.view, x, likelihood.levels)
        if self.ignore_x:
            intensity = jnp.zeros_like(intensity)
        mean, log_scale = self.encoder.apply({"params": params["encoder"]}, intensity)
        if latent_mask is not None:
            mean, log_scale = mean * latent_mask[None], log_scale * latent_mask[None]
        return DiagonalGaussian.from_outputs(mean, log_scale)

    def decode(self, params: Params, z: jax.Array) -> jax.Array:
        """Parameters of p(x|z), ``[..., outputs, D]``, of latents z ``[..., latent]``.

        The likelihood's shared parameters are repeated over pixels behind the
        decoder's, so one density serves shared and per-pixel parameters alike.
        """
        outputs = self.decoder.apply({"params": params["decoder"]}, z)
        if not self.likelihood.shared_outputs:
            return outputs
        *leading, _, num_pixels = outputs.shape
        shared = params["shared"]
        shared = jnp.broadcast_to(
            shared.reshape((1,) * len(leading) + (-1, 1)),
            (*leading, shared.size, num_pixels),
        )
        return jnp.concatenate([outputs, shared], axis=-2)

    def log_likelihood(self, params: Params, x: jax.Array, z: jax.Array) -> jax.Array:
        """log p(x|z) in nats, summed over pixels, ``[samples, batch]``.

        Args:
            params: the model's parameters.
            x: images in the likelihood's view, ``[batch, D]``.
            z: latents, ``[samples, batch, latent]``.
        """
        return self.likelihood.log_prob(self.decode(params, z), x[None])

    def generate(
        self, params: Params, key: jax.Array, num_samples: int
    ) -> tuple[jax.Array, jax.Array]:
        """Ancestral samples: z ~ p(z), then p(x|z).

        Returns:
            The likelihood's mean E[x|z] and a draw x ~ p(x|z), each
            ``[num_samples, D]`` in the likelihood's view.
        """
        latent_key, pixel_key = jax.random.split(key)
        z = self.prior.sample(latent_key, num_samples, self.latent_dim)
        outputs = self.decode(params, z)
        return self.likelihood.mean(outputs), self.likelihood.sample(pixel_key, outputs)

    def num_parameters(self, params: Params) -> int:
        """Number of scalars in ``params``."""
        return sum(leaf.size for leaf in jax.tree.leaves(params))


def make_vae(
    likelihood: Likelihood,
    *,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    network: str = "mlp",
    widths: tuple[int, ...] = (256,),
    activation: str = "relu",
    ignore_x: bool = False,
) -> VAE:
    """A VAE whose encoder and decoder mirror each other.

    Args:
        likelihood: p(x|z), from ``vae_jax.likelihoods``.
        image_shape: (height, width, channels).
        latent_dim: number of latents, at least 1.
        network: 'mlp' or 'conv'.
        widths: hidden units or channels, from the image inwards.
        activation: a name in ``networks.ACTIVATIONS``.
        ignore_x: whether the posterior is one q(z) for all images. The ELBO remains a
            bound, and is highest where the decoder ignores z: the model collapses.

    Raises:
        ValueError: a value outside those allowed.
    """
    if latent_dim < 1:
        raise ValueError(f"latent_dim is {latent_dim}: a VAE needs at least 1 latent.")
    encoder = networks.make_encoder(
        network,
        widths=widths,
        activation=activation,
        image_shape=image_shape,
        latent_dim=latent_dim,
    )
    decoder = networks.make_decoder(
        network,
        widths=widths,
        activation=activation,
        image_shape=image_shape,
        pixel_outputs=likelihood.pixel_outputs,
    )
    prior = priors.StandardNormal()
    return VAE(encoder, decoder, likelihood, latent_dim, prior, ignore_x)
