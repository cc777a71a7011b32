"""Linear-Gaussian VAEs at their best linear encoder: models whose answers are known.

See ``vae_jax.evidence.linear_gaussian`` for the formulas; SciPy's density of the
marginal is an independent reference.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from vae_jax.evidence import LinearGaussian

LEVELS = 256
SCALE = 0.3
SHAPE = (2, 3, 1)
NUM_PIXELS = 6
LATENTS = 3


def exact_model():
    """Returns a model, parameters with q(z|x) = p(z|x), and p(x) as a SciPy object.

    The columns of W are orthogonal, so the posterior is diagonal.
    """
    weights, offset = _orthogonal_weights_and_offset()
    exact = LinearGaussian(weights, offset, SCALE**2)
    return *exact.to_vae(SHAPE, LEVELS), marginal(exact)


def correlated_gaussian():
    """Returns a LinearGaussian whose columns of W are not orthogonal.

    Its posterior's correlations cost a diagonal q 0.44 nats.
    """
    weights, offset = _orthogonal_weights_and_offset()
    mixing = np.array([[1.0, 0.6, 0.3], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
    return LinearGaussian(weights @ mixing, offset, SCALE**2)


def _orthogonal_weights_and_offset():
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(NUM_PIXELS, LATENTS)))
    return basis * np.array([0.9, 0.5, 0.2]), rng.uniform(0.3, 0.7, NUM_PIXELS)


def marginal(exact):
    """Returns p(x) as a SciPy object, from the D x D covariance."""
    covariance = exact.weights @ exact.weights.T + exact.variance * np.eye(NUM_PIXELS)
    return scipy.stats.multivariate_normal(exact.offset, covariance)


def shifted(params, deviations):
    """Returns parameters that shift q(z|x) by so many standard deviations."""
    params = jax.tree.map(jnp.copy, params)
    head = params["encoder"]["head"]
    scale = np.exp(20 * np.tanh(np.asarray(head["log_scale"]["bias"]) / 20))
    head["mean"]["bias"] += deviations * scale
    return params
