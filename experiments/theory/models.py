"""Models for the theory: the digits, and several models trained as one population."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import DataSettings, load_data, pixel_statistics
from vae_jax import population
from vae_jax.model import VAE, Params
from vae_jax.objectives import Terms
from vae_jax.training import Member, Recipe, train_epoch

# How the digits are learned, if nothing else is said.
RECIPE = Recipe(batch_size=100, num_epochs=100, validate_every=100, schedule="cosine")


class Images(NamedTuple):
    """Images to learn from and to be judged by, as rows of integers."""

    train: np.ndarray  # uint8, [N, D]
    test: np.ndarray  # uint8, [M, D]
    pixel_mean: np.ndarray  # of the training images' intensity, in [0, 1], [D]
    pixel_std: np.ndarray  # its standard deviation, [D]
    shape: tuple[int, int, int]  # height, width, channels
    levels: int  # a pixel is in {0, ..., levels - 1}

    @property
    def intensities(self) -> np.ndarray:
        """k / (levels - 1) of the training images, float32 in [0, 1], [N, D]."""
        return (self.train / (self.levels - 1)).astype(np.float32)


@functools.cache
def digits() -> Images:
    """The 8x8 handwritten digits that scikit-learn carries: no network is needed."""
    data = load_data(DataSettings("digits"))
    train, test = (
        split.images.reshape(len(split.images), -1) for split in (data.train, data.test)
    )
    return Images(train, test, *pixel_statistics(data), data.image_shape, data.levels)


@dataclasses.dataclass(frozen=True)
class Population:
    """Trained models: members of one compiled program, in the order they were given."""

    models: tuple[VAE, ...]  # each at its own latent size
    padded: Params  # zero-padded to the widest latent, leading axis [members]
    training: Terms  # means over each epoch while it trained, nats, [epochs, members]

    @property
    def widest(self) -> VAE:
        """The member whose shapes ``padded`` has."""
        return max(self.models, key=lambda model: model.latent_dim)

    @property
    def masks(self) -> jax.Array:
        """1 for a latent in use, 0 for padding, ``[members, latent]``."""
        return _masks(self.models)

    def params(self, index: int) -> Params:
        """The parameters of one member at its own latent size."""
        own = jax.tree.map(lambda leaf: leaf[index], self.padded)
        num_pixels = own["decoder"]["bias"]["pixels"].shape[-1]
        shapes = population.param_shapes(self.models[index], num_pixels)
        return population.unpad(own, shapes)


def train(
    models: Sequence[VAE],
    recipe: Recipe,
    images: Images,
    *,
    seeds: Sequence[int],
    betas: Sequence[float],
    learning_rate: float = 3e-3,
) -> Population:
    """Trains models together as one compiled program.

    Args:
        models: one per member; they differ in latent size alone.
        recipe: how they are trained; every epoch of it is one.
        images: what they learn from.
        seeds: of each member's initial parameters and noise.
        betas: weight of each member's KL.
        learning_rate: of all.

    Raises:
        FloatingPointError: a member met a value that is not finite.
    """
    member_keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    widest = max(models, key=lambda model: model.latent_dim)
    members = Member(
        key=member_keys,
        beta=jnp.array(betas, jnp.float32),
        learning_rate=jnp.full(len(models), learning_rate),
        latent_mask=_masks(models),
    )
    statistics = jnp.asarray(images.pixel_mean), jnp.asarray(images.pixel_std)
    init = population.compile_init(models, recipe, member_keys, *statistics)
    start = init(member_keys, *statistics)
    one_epoch = population.over_members(
        functools.partial(train_epoch, widest, recipe), num_shared=1, execution="map"
    )

    @jax.jit
    def all_epochs(state, members, train_images):
        def epoch(state, _):
            state, metrics = one_epoch(state, members, train_images)
            return state, metrics.terms

        return jax.lax.scan(epoch, state, length=recipe.num_epochs)

    state, terms = all_epochs(start, members, jnp.asarray(images.train))
    if not state.active.all():
        raise FloatingPointError(f"members stopped: {state.failure}.")
    return Population(tuple(models), state.params, terms)


def _masks(models: Sequence[VAE]) -> jax.Array:
    widest = max(model.latent_dim for model in models)
    return jnp.stack(
        [population.latent_mask(model.latent_dim, widest) for model in models]
    )
