"""Standard normal noise; samples of latents are functions of it."""

import jax
import jax.numpy as jnp


def latent_noise(
    key: jax.Array, num_samples: int, batch: int, latent_dim: int
) -> jax.Array:
    """Returns standard normal noise ``[num_samples, batch, latent_dim]``.

    It is drawn with the latents as the first axis. With partitionable threefry, the
    first rows of a wider draw are the narrower draw. So a model's noise does not depend
    on how far its latents are padded.
    """
    noise = jax.random.normal(key, (latent_dim, num_samples, batch))
    return jnp.moveaxis(noise, 0, -1)
