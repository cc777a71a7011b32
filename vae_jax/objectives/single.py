"""The ELBO, whose samples each count as much, in forms of different variance."""

import jax
import jax.numpy as jnp

from vae_jax.distributions import sample_without_score
from vae_jax.model import VAE, Params
from vae_jax.objectives.interface import (
    Terms,
    log_ratios,
    posterior_and_noise,
    sampled_log_ratios,
)


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
    capacity: jax.Array | float = 0.0,
) -> Terms:
    """ELBO with the KL in closed form: E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    The expectation is a mean over ``num_samples``; its variance is lower than the
    log-weight form's where q is far from the true posterior. Kingma & Welling 2014,
    eq. 7 (there estimator B); beta as in Higgins et al. 2017, eq. 4.

    ``free_bits`` nats of each latent's KL cost nothing: where a latent has less, its KL
    enters the bound as that many (Kingma et al. 2016, eq. 15, per image). Of a
    posterior whose KL is one term for all latents they count once.

    ``capacity`` is a KL in nats that every image is drawn to: the bound is then
    reconstruction - beta |KL - capacity| (Burgess et al. 2018, per image). Not to be
    combined with free bits.
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
        if latent_mask is not None and model.can_be_padded:
            per_latent = per_latent * latent_mask[None]
        charged = per_latent.sum(-1)
    charged = jnp.abs(charged - capacity)
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
    reconstruction, kl = sampled_log_ratios(
        model, params, key, x, num_samples, latent_mask
    )
    reconstruction, kl = reconstruction.mean(0), kl.mean(0)
    return Terms(reconstruction - beta * kl, reconstruction, kl)


def stl(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    beta: jax.Array | float = 1.0,
    num_samples: int = 1,
    latent_mask: jax.Array | None = None,
) -> Terms:
    """``elbo_log_weight`` with a gradient that leaves out the score of q.

    The score, the derivative of log q(z|x) for a z that is held fixed, is 0 on average.
    Without it the gradient remains unbiased, and that for q has no variance where q is
    the true posterior. Roeder et al. 2017, "Sticking the landing".
    """
    posterior, noise = posterior_and_noise(
        model, params, key, x, num_samples, latent_mask
    )
    samples = sample_without_score(posterior, noise)
    reconstruction, kl = log_ratios(model, params, x, *samples)
    reconstruction, kl = reconstruction.mean(0), kl.mean(0)
    return Terms(reconstruction - beta * kl, reconstruction, kl)
