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
from vae_jax.fitting import epochs
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import VAE, make_vae
from vae_jax.objectives import Terms
from vae_jax.trained import TrainedModel
from vae_jax.training import TrainingConfig

# How the digits are learned, unless a program has its own configuration.
CONFIG = TrainingConfig(
    batch_size=100, num_epochs=100, validate_every=100, schedule="cosine"
)


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
