"""Fits a prior to the aggregated posterior of a trained model."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vae_jax.distributions import latent_noise
from vae_jax.model import VAE, Params
from vae_jax.posteriors import LadderFamily, PosteriorFamily
from vae_jax.priors import PRIORS, PriorFamily, VampPriorFamily

# Names of the priors whose parameters are their own and can be fitted.
FITTABLE = tuple(name for name in PRIORS if name not in ("standard_normal", "vamp"))


def fit_prior(
    model: VAE,
    params: Params,
    family: PriorFamily,
    key: jax.Array,
    x: jax.Array,
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
) -> tuple[VAE, Params]:
    """Returns the model with another prior, fitted to the aggregated posterior.

    The average ELBO over images depends on the prior only through -KL(q(z) || p(z)),
    where q(z) is the mean of q(z|x) over the images (Hoffman & Johnson 2016, "ELBO
    surgery"). Maximum likelihood on samples of q(z) raises the ELBO by as many nats as
    it lowers this KL. The parameters of encoder and decoder do not change.

    Args:
        model: the VAE.
        params: its parameters, not padded.
        family: the family of the new prior, over all latents of the model.
        key: a typed key.
        x: training images in the likelihood's view, ``[N, D]``.
        num_steps: number of steps of Adam, each with fresh samples.
        batch_size: samples per step, each for an image that is drawn with replacement.
        learning_rate: of the first step; it falls to 0 along a cosine.

    Returns:
        The model, and parameters that differ only in 'prior'.

    Raises:
        ValueError: the new prior is a VampPrior, which is made of the encoder; or the
            posterior is a ladder, which is made of its prior, or 'noise', which makes
            one chain with its prior.
    """
    require_own_prior(model.posterior_family)
    if isinstance(family, VampPriorFamily):
        raise ValueError(
            "prior 'vamp' cannot be fitted to a trained encoder, of which it is made: "
            "train with it, or fit another such as 'mixture'."
        )
    fitted = dataclasses.replace(model, prior_family=family)
    own = _fit(fitted, num_steps, batch_size, learning_rate, params, key, x)
    return fitted, {**params, "prior": own}


def require_own_prior(posterior: PosteriorFamily) -> None:
    """Refuses a posterior that depends on the prior.

    Raises:
        ValueError: the posterior is a ladder, or the first layer of a chain.
    """
    if getattr(posterior, "is_noise", False):
        raise ValueError(
            "the prior of 'noise' cannot be replaced: they are one chain of latents. "
            "Train with another posterior, such as 'diagonal'."
        )
    if isinstance(posterior, LadderFamily):
        raise ValueError(
            "the prior of a 'ladder' cannot be replaced: its posterior is made of it. "
            "Train with posterior 'bottom_up' instead."
        )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _fit(
    model: VAE,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    params: Params,
    key: jax.Array,
    x: jax.Array,
) -> Params:
    """Returns the fitted parameters of the model's prior."""
    init_key, step_key = (jax.random.fold_in(key, i) for i in range(2))
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def loss_of(own: Params, key: jax.Array, z: jax.Array) -> jax.Array:
        prior: Any = model.prior({**params, "prior": own})
        if model.has_density:
            loss: jax.Array = -prior.log_prob(z).mean()
        else:
            terms = prior.terms(key, z)  # All of the bound that has parameters.
            loss = (terms.prior + terms.weighted).mean()
        return loss

    def step(carry: Any, index: jax.Array) -> tuple[Any, None]:
        own, state = carry
        key = jax.random.fold_in(step_key, index)
        image_key, noise_key = jax.random.split(key)
        chain_key = jax.random.fold_in(key, 2)  # After the two children of the split.
        rows = jax.random.randint(image_key, (batch_size,), 0, x.shape[0])
        noise = latent_noise(noise_key, 1, batch_size, model.latent_dim)
        z = model.encode(params, x[rows]).sample(noise)
        updates, state = optimizer.update(jax.grad(loss_of)(own, chain_key, z), state)
        return (optax.apply_updates(own, updates), state), None

    no_images = jnp.zeros((0, x.shape[1]), jnp.uint8)
    own = model.prior_family.init(init_key, no_images, model.likelihood.levels)
    (own, _), _ = jax.lax.scan(step, (own, optimizer.init(own)), jnp.arange(num_steps))
    return own
