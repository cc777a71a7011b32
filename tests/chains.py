"""Chains of latents: with the best denoiser, and with any."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.diffusion import ExactDenoiser, GaussianImages
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.priors.diffusion import DiffusionFamily

# The parts of a chain of images.
CHAIN = {"network": "identity", "posterior": "noise", "prior": "diffusion"}


def normal_images(size, scale, variance):
    """Returns a normal distribution of images.

    Args:
        size: number of values of an image.
        scale: of the part of the covariance that is not diagonal.
        variance: on the diagonal beside it.
    """
    rng = np.random.default_rng(0)
    factor = scale * rng.standard_normal((size, size))
    mean = rng.uniform(-0.5, 0.5, size)
    return GaussianImages(mean, factor @ factor.T + variance * np.eye(size))


def exact_chain(images, *, ends, **options):
    """Returns the chain of such images whose denoiser is the best one.

    Args:
        images: their distribution.
        ends: where gamma starts and ends.
        **options: other fields of the family.
    """
    gammas = dataclasses.asdict(ends)
    family = DiffusionFamily(
        len(images.mean),
        denoiser=ExactDenoiser(images, **gammas),
        predicts="data",
        **gammas,
        **options,
    )
    return family.at({"prior": family.init(jax.random.key(0), None, 2)}, None)


def chain(shape=(4, 4, 1), levels=3, likelihood="discretized_gaussian", **options):
    """Returns a chain of images as a model, and parameters."""
    model = make_vae(
        make_likelihood(likelihood, levels),
        image_shape=shape,
        latent_dim=int(np.prod(shape)),
        **CHAIN | {"denoiser_widths": (8,)} | options,
    )
    half = jnp.full(model.num_pixels, 0.5)
    params = model.init(jax.random.key(0), half, half)
    leaves, tree = jax.tree.flatten(params["prior"]["denoiser"])
    rng = np.random.default_rng(0)
    moved = [leaf + 0.3 * rng.standard_normal(leaf.shape) for leaf in leaves]
    denoiser = jax.tree.unflatten(tree, [jnp.float32(leaf) for leaf in moved])
    return model, params | {"prior": params["prior"] | {"denoiser": denoiser}}
