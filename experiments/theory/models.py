"""The digits, and models of them that are trained as one population."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from vae_jax import views
from vae_jax.diffusion import ExactDenoiser, GaussianImages
from vae_jax.fitting import epochs
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import VAE, make_vae
from vae_jax.networks import Denoiser
from vae_jax.objectives import Terms
from vae_jax.priors.diffusion import DiffusionFamily, DiffusionPrior
from vae_jax.trained import TrainedModel
from vae_jax.training import TrainingConfig

# How the digits are learned, unless a program has its own configuration.
CONFIG = TrainingConfig(
    batch_size=100, num_epochs=100, validate_every=100, schedule="cosine"
)

# -log SNR of a chain at the image's end and at the noise's.
GAMMA = (-8.0, 5.0)


class Images(NamedTuple):
    """Images for training and for judging, as rows of integers."""

    train: np.ndarray  # uint8, [N, D]
    test: np.ndarray  # uint8, [M, D]
    shape: tuple[int, int, int]  # height, width, channels
    levels: int  # a pixel is in {0, ..., levels - 1}

    def intensities(self, pixels: np.ndarray) -> np.ndarray:
        """Returns k / (levels - 1) of integers, float32 in [0, 1]."""
        return (pixels / (self.levels - 1)).astype(np.float32)

    @property
    def centres(self) -> np.ndarray:
        """(k + 1/2) / levels of the training images: x without its noise, [N, D]."""
        centres: np.ndarray = (self.train + 0.5) / self.levels
        return centres

    def observe(self, view: str, key: jax.Array, pixels: np.ndarray) -> jax.Array:
        """Returns x of integers ``[N, D]``, as the likelihoods of a view see them."""
        return views.observe(view, key, jnp.asarray(pixels), self.levels)

    def vae(self, likelihood: str, **options: Any) -> VAE:
        """Returns a VAE of such images; options as in ``make_vae``."""
        family = make_likelihood(likelihood, self.levels)
        return make_vae(family, image_shape=self.shape, **options)


@functools.cache
def load(name: str) -> Images:
    """Returns a data set; 'digits' are those of scikit-learn and need no network."""
    data = load_data(DataSettings(name))
    train, test = (
        split.images.reshape(len(split.images), -1) for split in (data.train, data.test)
    )
    return Images(train, test, data.image_shape, data.levels)


def fitted(seed: int) -> tuple[GaussianImages, np.ndarray]:
    """Returns the normal of the dequantised digits, -1 to 1, and an unseen digit."""
    images = load("digits")
    keys = jax.random.split(jax.random.key(seed))
    train, test = (
        2 * np.asarray(images.observe("continuous", key, pixels), np.float64) - 1
        for key, pixels in zip(keys, (images.train, images.test[:1]), strict=True)
    )
    return GaussianImages.fitted(train), test[0]


def chain(denoiser: Denoiser, latent_dim: int, **options: Any) -> DiffusionPrior:
    """Returns a chain of latents with a denoiser that gives E[x|z]."""
    own: dict[str, Any] = {"denoiser": denoiser, "predicts": "data"}
    own |= dict(zip(("gamma_min", "gamma_max"), GAMMA, strict=True))
    family = DiffusionFamily(latent_dim, **own | options)
    params = family.init(jax.random.key(0), jnp.zeros(0), 2)
    return family.at({"prior": params}, None)


def exact_chain(images: GaussianImages, **options: Any) -> DiffusionPrior:
    """Returns the chain with the best denoiser of such images."""
    denoiser = ExactDenoiser(images, *GAMMA)
    return chain(denoiser, len(images.mean), **options)


def train(
    model: VAE,
    images: Images,
    config: TrainingConfig = CONFIG,
    *,
    learning_rate: float = 3e-3,
    seeds: Sequence[int] = (0,),
    **options: Any,
) -> tuple[list[TrainedModel], Terms]:
    """Trains models together as one compiled program.

    Args:
        model: of every member, except for its latent size.
        images: the training images.
        config: of the training.
        learning_rate: of every member.
        seeds: of the members' initial parameters and noise.
        **options: other options that members may differ in, as in ``vae_jax.fit``.

    Returns:
        The models, and the means over each epoch of their training, nats,
        ``[epochs, members]``.

    Raises:
        FloatingPointError: a member met a value that is not finite.
    """
    terms = []
    for epoch in epochs(
        model,
        images.train,
        config,
        seeds=jax.vmap(jax.random.key)(jnp.array(seeds)),
        learning_rate=learning_rate,
        execution="map",
        **options,
    ):
        if epoch.snapshot.epoch:
            terms.append(epoch.metrics.terms)
    trained = epoch.trained()
    if failures := [own.failure for own in trained if own.failure]:
        raise FloatingPointError(f"members stopped: not finite are {failures}.")
    return trained, jax.tree.map(lambda *means: np.stack(means), *terms)
