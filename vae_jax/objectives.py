"""Lower bounds on log p(x), per image, in nats; larger is better.

Every objective is a function ``(model, params, key, x, *, beta, num_samples,
latent_mask, **options) -> Terms`` of one batch, estimated with reparameterized samples
of q(z|x). Nothing here averages over images: the training step does, so that bounds
stay comparable between likelihoods and batch sizes.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.model import VAE, Params
from vae_jax.posteriors import Posterior, latent_noise


class Terms(NamedTuple):
    """What an objective says of each image, ``[batch]``, nats."""

    bound: jax.Array  # what is maximised; a bound on log p(x) where beta = 1
    reconstruction: jax.Array  # estimate of E_q[log p(x|z)]
    kl: jax.Array  # KL(q(z|x) || p(z)), exact or estimated

    @property
    def elbo(self) -> jax.Array:
        """reconstruction - kl, whatever beta and bound were trained on."""
        return self.reconstruction - self.kl


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
    """
    posterior = model.encode(params, x, latent_mask)
    noise = latent_noise(key, num_samples, x.shape[0], model.latent_dim)
    if latent_mask is not None:
        noise = noise * latent_mask[None, None]
    return posterior, noise


def elbo(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
    free_bits: float = 0.0,
) -> Terms:
    """ELBO with the KL in closed form: E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    The expectation is a mean over ``num_samples``; its variance is lower than the
    log-weight form's where q is far from the true posterior. Kingma & Welling 2014,
    eq. 7 (there estimator B); beta as in Higgins et al. 2017, eq. 4.

    ``free_bits`` nats of each latent's KL cost nothing: where a latent has less, its KL
    enters the bound as that many (Kingma et al. 2016, eq. 15, per image).
    """
    posterior, noise = posterior_and_noise(
        model, params, key, x, num_samples, latent_mask
    )
    z = posterior.sample(noise)
    reconstruction = model.log_likelihood(params, x, z).mean(0)  # [B]
    per_latent = model.closed_form_kl(params, posterior)  # [B, L]
    kl = per_latent.sum(-1)  # [B]
    charged = kl
    if free_bits:
        per_latent = jnp.maximum(per_latent, free_bits)
        if latent_mask is not None:
            per_latent = per_latent * latent_mask[None]
        charged = per_latent.sum(-1)
    return Terms(reconstruction - beta * charged, reconstruction, kl)


def elbo_log_weight(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
) -> Terms:
    """ELBO as a mean log-weight: E_q[log p(x|z) + beta (log p(z) - log q(z|x))].

    Needs no closed-form KL, and has no variance where q is the true posterior.
    Kingma & Welling 2014, eq. 6 (there estimator A).
    """
    reconstruction, kl = _log_weight_terms(
        model, params, key, x, num_samples, latent_mask
    )
    reconstruction, kl = reconstruction.mean(0), kl.mean(0)
    return Terms(reconstruction - beta * kl, reconstruction, kl)


def iwae(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
) -> Terms:
    """Importance-weighted bound L_k = E[log 1/k sum_i p(x, z_i)/q(z_i|x)].

    Burda et al. 2016, eq. 8; k is ``num_samples`` and one sample gives the ELBO in
    log-weight form. Reconstruction and KL are plain means over the samples.
    """
    reconstruction, kl = _log_weight_terms(
        model, params, key, x, num_samples, latent_mask
    )
    bound = jax.nn.logsumexp(reconstruction - beta * kl, axis=0) - jnp.log(num_samples)
    return Terms(bound, reconstruction.mean(0), kl.mean(0))


def _log_weight_terms(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    num_samples: int,
    latent_mask: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """log p(x|z) and log q(z|x) - log p(z), each ``[num_samples, batch]``."""
    posterior, noise = posterior_and_noise(
        model, params, key, x, num_samples, latent_mask
    )
    z, log_q = posterior.sample_and_log_prob(noise)
    # Padded latents add the same constant to both densities, which cancels.
    kl = log_q - model.prior(params).log_prob(z)
    return model.log_likelihood(params, x, z), kl


@dataclasses.dataclass(frozen=True)
class Objective:
    """A bound, and what it asks for."""

    terms: Callable[..., Terms]
    options: tuple[str, ...] = ()  # names of the options it takes
    needs_closed_form_kl: bool = False


OBJECTIVES: dict[str, Objective] = {
    "elbo": Objective(elbo, options=("free_bits",), needs_closed_form_kl=True),
    "elbo_log_weight": Objective(elbo_log_weight),
    "iwae": Objective(iwae),
}
