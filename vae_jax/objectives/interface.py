"""What every objective is, and what all are made of: samples of q and log-weights."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from vae_jax.distributions import Posterior, latent_noise
from vae_jax.model import VAE, Params


class Terms(NamedTuple):
    """What an objective says of each image, ``[batch]``, nats."""

    # What is maximised; where beta = 1, a bound on log p(x), but for a capacity, the
    # estimate that 'mmd' subtracts, and 'renyi' with alpha < 0, a bound from above.
    bound: jax.Array
    reconstruction: jax.Array  # estimate of E_q[log p(x|z)]
    kl: jax.Array  # KL(q(z|x) || p(z)), exact or estimated

    @property
    def elbo(self) -> jax.Array:
        """reconstruction - kl, whatever beta and bound were trained on."""
        return self.reconstruction - self.kl


@dataclasses.dataclass(frozen=True)
class Objective:
    """A bound, and what it asks for."""

    terms: Callable[..., Terms]
    options: tuple[str, ...] = ()  # names of the options it takes
    needs_closed_form_kl: bool = False
    needs_diagonal_posterior: bool = False
    needs_num_images: bool = False  # takes the number of training images as an option
    depends_on_batch: bool = False  # an image's terms depend on the batch it is in
    weighs_samples: bool = False  # an image's samples count by their weights
    fewest_samples: int = 1  # per image


def posterior_and_noise(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    num_samples: int,
    latent_mask: jax.Array | None,
) -> tuple[Posterior, jax.Array]:
    """q(z|x) of a batch and the noise to reparameterize samples of it with.

    Args:
        model: the VAE.
        params: its parameters, possibly zero-padded to a wider latent.
        key: a typed key.
        x: images in the likelihood's view, ``[batch, D]``.
        num_samples: samples per image.
        latent_mask: 1 for a latent in use and 0 for padding, ``[latent]``, or None.
            In the padding q is the prior and z is 0: the decoder's padded rows get a
            gradient of exactly 0, and so do the encoder's.

    Returns:
        The posterior and standard normal noise, ``[num_samples, batch, latent]``.

    Raises:
        ValueError: no samples.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} is too few: set it to 1 or more.")
    posterior = model.encode(params, x, latent_mask)
    noise = latent_noise(key, num_samples, x.shape[0], model.latent_dim)
    if latent_mask is not None:
        noise = noise * latent_mask[None, None]
    return posterior, noise


def log_ratios(
    model: VAE, params: Params, x: jax.Array, z: jax.Array, log_q: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """log p(x|z) and log q(z|x) - log p(z) in nats, each ``[samples, batch]``.

    Their difference is the log-weight log p(x, z) - log q(z|x).

    Args:
        model: the VAE.
        params: its parameters.
        x: images in the likelihood's view, ``[batch, D]``.
        z: samples of q(z|x), ``[samples, batch, latent]``.
        log_q: log q(z|x) of these in nats, ``[samples, batch]``.
    """
    # Padded latents add the same constant to both densities, which cancels.
    return model.log_likelihood(params, x, z), log_q - model.prior(params).log_prob(z)


def sampled_log_ratios(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    num_samples: int,
    latent_mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """``log_ratios`` of reparameterized samples; see ``posterior_and_noise``."""
    posterior, noise = posterior_and_noise(
        model, params, key, x, num_samples, latent_mask
    )
    return log_ratios(model, params, x, *posterior.sample_and_log_prob(noise))
