"""One pass over a test set: everything that is reported of a trained model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax import views
from vae_jax.distributions import latent_noise
from vae_jax.evidence import ImportanceEstimate, importance_estimate
from vae_jax.model import VAE, Params
from vae_jax.per_image import map_images

# For E_q[z|x] where it has no closed form.
_MEAN_SAMPLES = 100


class Evaluation(NamedTuple):
    """Per image, ``[N]`` unless said, nats unless said."""

    estimate: ImportanceEstimate
    # mean over pixels of (E[x|z = q's mean] - intensity of the image)^2, intensity^2;
    # of an autoregressive decoder with E[x_i | x_<i, z] at one draw, which adds to it
    squared_error: jax.Array
    posterior_mean: jax.Array  # E_q[z|x], [N, latent]


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
    """Evaluates a model on every image given, remainder of the batches included.

    Memory is that of decoding ``batch_size * chunk`` images. Results depend on neither,
    but for how the networks round in products of another size: in float32 a few units
    of an estimate's last place (0.0005 nats near -4500).

    Args:
        model: the VAE.
        params: its parameters.
        key: from which each image's key is folded.
        x: images in the likelihood's view, ``[N, D]``.
        images: the integers they were drawn from, ``[N, D]``: squared errors are
            against their intensity, one common reference for all views.
        latent_mask: as in ``objectives.posterior_and_noise``.
        num_samples: importance samples per image.
        chunk: importance samples decoded together.
        batch_size: images evaluated together.
    """
    likelihood = model.likelihood

    def one_image(key, x, image):
        estimate = importance_estimate(
            model,
            params,
            key,
            x,
            num_samples=num_samples,
            chunk=chunk,
            latent_mask=latent_mask,
        )
        noise = latent_noise(
            jax.random.fold_in(key, num_samples), _MEAN_SAMPLES, 1, model.latent_dim
        )
        mean = model.encode(params, x[None]).expectation(noise)  # [1, L]
        pixel_key = jax.random.fold_in(key, num_samples + 1)
        expected, _ = model.sample_images(params, pixel_key, mean)
        shown = views.to_intensity(likelihood.view, expected[0], likelihood.levels)
        target = views.to_intensity("levels", image, likelihood.levels)
        return Evaluation(estimate, jnp.mean((shown - target) ** 2), mean[0])

    return map_images(one_image, key, x, images, batch_size=batch_size)
