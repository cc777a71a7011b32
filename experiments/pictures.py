"""Pictures of one model: what it reconstructs, generates and lays out in latents."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.charts import latent_scatter
from experiments.data import ImageData
from experiments.files import write_atomically
from experiments.grid import Run
from experiments.image_grids import image_grid, reconstruction_grid
from vae_jax import views
from vae_jax.evaluation import Evaluation
from vae_jax.model import VAE, Params
from vae_jax.posteriors import latent_noise

_SHOWN = 32
_COLUMNS = 8
_MANIFOLD_SIDE = 10
# For E_q[z|x] where it has no closed form.
_MEAN_SAMPLES = 100


class Arrays(NamedTuple):
    """Intensities, ``[pictures, D]``."""

    reconstructions: jax.Array  # E[x|z] at the posterior mean of the first test images
    prior_means: jax.Array  # E[x|z] at z ~ p(z)
    samples: jax.Array  # x ~ p(x|z) at the same z
    manifold: jax.Array  # E[x|z] over a grid of the first two latents, the others 0


def draw(model: VAE, params: Params, key: jax.Array, test_x: jax.Array) -> Arrays:
    """Computes all pictures of a model as arrays.

    The manifold's grid lies at equally likely values under the prior: the inverse
    Gaussian CDF of equally spaced quantiles (Kingma & Welling 2014, figure 4).
    """
    likelihood = model.likelihood

    def intensity(x: jax.Array) -> jax.Array:
        return views.to_intensity(likelihood.view, x, likelihood.levels)

    def expected(key: jax.Array, z: jax.Array) -> jax.Array:
        return intensity(model.sample_images(params, key, z)[0])

    noise_key, generate_key, reconstruct_key, manifold_key = (
        jax.random.fold_in(key, i) for i in range(4)
    )
    shown = test_x[:_SHOWN]
    noise = latent_noise(noise_key, _MEAN_SAMPLES, len(shown), model.latent_dim)
    posterior_means = model.encode(params, shown).expectation(noise)
    means, samples = model.generate(params, generate_key, _SHOWN)
    quantiles = (jnp.arange(_MANIFOLD_SIDE) + 0.5) / _MANIFOLD_SIDE
    coordinates = jax.scipy.stats.norm.ppf(quantiles)
    first, second = jnp.meshgrid(coordinates, -coordinates)
    grid = jnp.zeros((first.size, model.latent_dim)).at[:, 0].set(first.ravel())
    if model.latent_dim > 1:
        grid = grid.at[:, 1].set(second.ravel())
    return Arrays(
        expected(reconstruct_key, posterior_means),
        intensity(means),
        intensity(samples),
        expected(manifold_key, grid),
    )


def write(
    folder: Path, run: Run, data: ImageData, evaluation: Evaluation, arrays: Arrays
) -> None:
    """Writes a model's pictures as PNG files.

    Args:
        folder: where to, one folder per run.
        run: the run.
        data: the data set the model was trained on.
        evaluation: arrays over the test images.
        arrays: what ``draw`` computed.
    """

    def images(flat: jax.Array) -> np.ndarray:
        return np.asarray(flat).reshape(-1, *data.image_shape)

    originals = data.test.images[:_SHOWN] / (data.levels - 1)
    contents = {
        "reconstructions": reconstruction_grid(
            originals, images(arrays.reconstructions)
        ),
        "prior_means": image_grid(images(arrays.prior_means), _COLUMNS),
        "samples": image_grid(images(arrays.samples), _COLUMNS),
    }
    model = run.settings.model
    if model.latent_dim == 2 and model.can_be_padded:
        contents["manifold"] = image_grid(images(arrays.manifold), _MANIFOLD_SIDE)
        contents["latents"] = latent_scatter(
            np.asarray(evaluation.posterior_mean), data.test.labels
        )
    for name, content in contents.items():
        write_atomically(folder / f"{name}.png", content)
