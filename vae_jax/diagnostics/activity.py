"""Which latents move with the image."""

import jax
import jax.numpy as jnp

ACTIVE_VARIANCE = 0.01


def latent_variances(posterior_means: jax.Array) -> jax.Array:
    """Returns Var_x(E_q[z|x]) of each latent over the images, ``[latent]``.

    Args:
        posterior_means: E_q[z|x], ``[images, latent]``.
    """
    return jnp.var(posterior_means, axis=0)


def active_units(posterior_means: jax.Array) -> jax.Array:
    """Returns the number of latents that carry information about x, ``[]``.

    A latent is active if Var_x(E_q[z|x]) > 0.01 over the images given (Burda et al.
    2016, section 5.2, who write it as Cov_x). Padded latents have variance 0 and never
    count. Under a posterior whose aggregate is N(0, 1), the threshold is that of a
    latent with -1/2 log(1 - 0.01) = 0.005 nats of information, if jointly Gaussian.

    Args:
        posterior_means: E_q[z|x], ``[images, latent]``.
    """
    return jnp.sum(latent_variances(posterior_means) > ACTIVE_VARIANCE)
