"""What the latent space does."""

import jax
import jax.numpy as jnp

ACTIVE_VARIANCE = 0.01


def active_units(posterior_means: jax.Array) -> jax.Array:
    """Number of latents that carry information about x, ``[]``.

    A latent is active if Var_x(E_q[z|x]) > 0.01 over the images given (Burda et al.
    2016, section 5.1). Padded latents have variance 0 and never count.

    Args:
        posterior_means: E_q[z|x], ``[images, latent]``.
    """
    return jnp.sum(jnp.var(posterior_means, axis=0) > ACTIVE_VARIANCE)
