"""Measures a trained model: numbers for each image, and pictures as arrays.

``evaluate`` scores every image of a test set. ``draw`` computes a few images of the
model. Both decode the mean of q(z|x).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax import views
from vae_jax.distributions import latent_noise
from vae_jax.evidence import ImportanceEstimate, importance_estimate
from vae_jax.model import VAE, Params
from vae_jax.per_image import map_images
from vae_jax.products import float32_products

# Number of samples for E_q[z|x] if it has no closed form.
_MEAN_SAMPLES = 100


@float32_products
def posterior_mean(
    model: VAE, params: Params, key: jax.Array, x: jax.Array
) -> jax.Array:
    """Returns E_q[z|x] ``[batch, latent]`` of images x ``[batch, D]``.

    It is exact if it has a formula. Otherwise it is a mean over 100 samples.

    Args:
        model: the VAE.
        params: its parameters.
        key: a typed key, for the samples.
        x: images in the likelihood's view, ``[batch, D]``.
    """
    noise = latent_noise(key, _MEAN_SAMPLES, len(x), model.latent_dim)
    return model.encode(params, x).expectation(noise)


@float32_products
def expected_intensity(
    model: VAE, params: Params, key: jax.Array, z: jax.Array
) -> jax.Array:
    """Returns the mean of ``VAE.sample_images`` as intensities, ``[images, D]``."""
    return _intensity(model, model.sample_images(params, key, z)[0])


class Evaluation(NamedTuple):
    """Numbers for each image, ``[N]`` and in nats unless a field says otherwise."""

    estimate: ImportanceEstimate
    # Mean over pixels of (E[x|z = q's mean] - intensity of the image)^2, in units of
    # intensity^2. For an autoregressive decoder, E[x_i | x_<i, z] at one draw replaces
    # E[x|z]; the variance of the draw increases the error.
    squared_error: jax.Array
    posterior_mean: jax.Array  # E_q[z|x], [N, latent]


@float32_products
def evaluate(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    images: jax.Array,
    latent_mask: jax.Array,
    *,
    num_samples: int,
    chunk: int,
    batch_size: int,
) -> Evaluation:
    """Evaluates a model on every image, in batches of one size.

    The memory is that for decoding ``batch_size * chunk`` images. The results depend on
    these two numbers only because matrix products of different sizes round differently:
    in float32 by a few units of an estimate's last digit (0.0005 nats near -4500).

    Args:
        model: the VAE.
        params: its parameters.
        key: a typed key; each image's index is folded into it.
        x: images in the likelihood's view, ``[N, D]``.
        images: the integers that x was drawn from, ``[N, D]``. Squared errors are
            relative to their intensity, a common reference for all views.
        latent_mask: as in ``objectives.Batch``, ``[latent]``.
        num_samples: number of importance samples per image.
        chunk: number of importance samples decoded together.
        batch_size: most images evaluated together.
    """

    def one_image(key: jax.Array, x: jax.Array, image: jax.Array) -> Evaluation:
        estimate = importance_estimate(
            model,
            params,
            key,
            x,
            num_samples=num_samples,
            chunk=chunk,
            latent_mask=latent_mask,
        )
        # The samples use the children 0 to num_samples - 1 of the key; these are the
        # next.
        mean_key, pixel_key = (jax.random.fold_in(key, num_samples + i) for i in (0, 1))
        mean = posterior_mean(model, params, mean_key, x[None])  # [1, L]
        shown = expected_intensity(model, params, pixel_key, mean)[0]
        target = views.to_intensity("levels", image, model.likelihood.levels)
        return Evaluation(estimate, jnp.mean((shown - target) ** 2), mean[0])

    return map_images(one_image, key, x, images, batch_size=batch_size)


class Pictures(NamedTuple):
    """Intensities, ``[images, D]``."""

    reconstructions: jax.Array  # E[x|z] at the posterior mean of the first images
    prior_means: jax.Array  # E[x|z] at z ~ p(z), the same number of images
    samples: jax.Array  # x ~ p(x|z) at the same z
    manifold: jax.Array  # E[x|z] on a grid of the first two latents; the others are 0


@float32_products
def draw(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    num_images: int,
    manifold_side: int,
) -> Pictures:
    """Computes all pictures of a model as arrays.

    The values on the manifold's grid are equally likely under N(0, I): they are the
    inverse Gaussian CDF of equally spaced quantiles (Kingma & Welling 2014, figure 4).

    Args:
        model: the VAE.
        params: its parameters.
        key: a typed key.
        x: images in the likelihood's view, ``[N, D]``.
        num_images: number of images that are reconstructed (the first ones of x), and
            number of images that are drawn.
        manifold_side: number of values of each of the manifold's two latents.
    """
    mean_key, generate_key, reconstruct_key, manifold_key = (
        jax.random.fold_in(key, i) for i in range(4)
    )
    posterior_means = posterior_mean(model, params, mean_key, x[:num_images])
    means, samples = model.generate(params, generate_key, num_images)
    quantiles = (jnp.arange(manifold_side) + 0.5) / manifold_side
    coordinates = jax.scipy.stats.norm.ppf(quantiles)
    first, second = jnp.meshgrid(coordinates, -coordinates)
    grid = jnp.zeros((first.size, model.latent_dim)).at[:, 0].set(first.ravel())
    if model.latent_dim > 1:
        grid = grid.at[:, 1].set(second.ravel())
    return Pictures(
        expected_intensity(model, params, reconstruct_key, posterior_means),
        _intensity(model, means),
        _intensity(model, samples),
        expected_intensity(model, params, manifold_key, grid),
    )


def _intensity(model: VAE, x: jax.Array) -> jax.Array:
    return views.to_intensity(model.likelihood.view, x, model.likelihood.levels)
