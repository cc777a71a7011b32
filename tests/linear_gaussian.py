"""A linear-Gaussian VAE at its exact posterior: the model whose answers are known.

p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I), so p(x) = N(b, W W^T + s^2 I) and
p(z|x) = N(M^-1 W^T (x - b), s^2 M^-1) with M = W^T W + s^2 I (Tipping & Bishop 1999,
eqs. 4, 6-8). The columns of W are orthogonal here, so the posterior is diagonal.
"""

import jax.numpy as jnp
import numpy as np
import scipy.stats

from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae

LEVELS = 256
SCALE = 0.3
SHAPE = (2, 3, 1)
NUM_PIXELS = 6
LATENTS = 3


def exact_model():
    """The model, parameters at which q(z|x) = p(z|x), and p(x) as a SciPy object."""
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(NUM_PIXELS, LATENTS)))
    weights = basis * np.array([0.9, 0.5, 0.2])  # [D, L]
    offset = rng.uniform(0.3, 0.7, NUM_PIXELS)
    precision = np.diag(weights.T @ weights + SCALE**2 * np.eye(LATENTS))
    projection = weights / precision  # [D, L]

    # The encoder sees intensity (x levels - 1/2) / (levels - 1), affine in x.
    slope, shift = (LEVELS - 1) / LEVELS, 0.5 / LEVELS
    params = {
        "encoder": {
            "head": {
                "mean": {
                    "kernel": slope * projection,
                    "bias": (shift - offset) @ projection,
                },
                "log_scale": {
                    "kernel": np.zeros((NUM_PIXELS, LATENTS)),
                    "bias": raw_log_scale(0.5 * np.log(SCALE**2 / precision)),
                },
            }
        },
        "decoder": {
            "output": {"kernel": weights.T},
            "bias": {"pixels": offset[None]},
        },
        "shared": np.zeros(0),
    }
    model = make_vae(
        make_likelihood("gaussian_fixed", LEVELS, fixed_scale=SCALE),
        image_shape=SHAPE,
        latent_dim=LATENTS,
        widths=(),
    )
    covariance = weights @ weights.T + SCALE**2 * np.eye(NUM_PIXELS)
    evidence = scipy.stats.multivariate_normal(offset, covariance)
    return model, as_float32(params), evidence


def raw_log_scale(log_scale):
    """The encoder's output at which the bounded log-scale has this value."""
    return 20 * np.arctanh(log_scale / 20)


def as_float32(tree):
    if isinstance(tree, dict):
        return {name: as_float32(leaf) for name, leaf in tree.items()}
    return jnp.asarray(tree, jnp.float32)
