"""Standard normal noise, which samples are functions of."""

import jax
import jax.numpy as jnp


def latent_noise(
    key: jax.Array, num_samples: int, batch: int, latent_dim: int
) -> jax.Array:
    """Returns standard normal noise ``[num_samples, batch, latent_dim]``.

    Drawn latent-major: with partitionable threefry the first rows of a wider draw are
    the narrower draw, so a model's noise does not depend on how far its latent was
    padded.
    """
    noise = jax.random.normal(key, (latent_dim, num_samples, batch))
    return jnp.moveaxis(noise, 0, -1)
