"""This project: an epoch is one call of a compiled program."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.work import LEVELS, SIDE, Work
from vae_jax import population
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import VAE, make_vae
from vae_jax.training import Member, Metrics, Recipe, TrainState, train_epochs

# Every call of the program ends in a validation, which the other contenders do not
# have; on so few images it takes no time.
_NUM_VALIDATION = 100


class Program(NamedTuple):
    """Members with the compiled program that trains them."""

    state: TrainState
    train: Callable[[TrainState], tuple[TrainState, Metrics]]


def compile_members(
    models: Sequence[VAE],
    recipe: Recipe,
    images: np.ndarray,
    *,
    betas: Sequence[float],
    learning_rate: float,
    execution: str,
) -> Program:
    """Compiles ``recipe.validate_every`` epochs of members that share a program.

    Args:
        models: one per member; they differ in latent size alone.
        recipe: how they are trained.
        images: integers, uint8 ``[N, D]``.
        betas: one per member.
        learning_rate: of all members.
        execution: 'map' or 'loop'.
    """
    widest = max(models, key=lambda model: model.latent_dim)
    levels = widest.likelihood.levels
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(0), jnp.arange(len(models))
    )
    intensity = images / np.float32(levels - 1)
    statistics = (jnp.asarray(intensity.mean(0)), jnp.asarray(intensity.std(0)))
    init = population.compile_init(models, recipe, keys, *statistics)
    state = init(keys, *statistics)
    masks = [
        population.latent_mask(model.latent_dim, widest.latent_dim) for model in models
    ]
    member = Member(
        keys,
        jnp.asarray(betas, jnp.float32),
        jnp.full(len(models), learning_rate),
        jnp.asarray(np.stack(masks)),
    )
    train = functools.partial(
        population.train_active, functools.partial(train_epochs, widest, recipe)
    )
    lifted = population.over_members(train, num_shared=2, execution=execution)
    validation_x = jnp.asarray(intensity[:_NUM_VALIDATION].round())
    data = (member, jnp.asarray(images), validation_x)
    compiled = jax.jit(lifted, donate_argnums=0).lower(state, *data).compile()
    return Program(state, lambda state: compiled(state, *data))


def mlp(work: Work, latent_dim: int) -> VAE:
    """The model of a piece of work."""
    return make_vae(
        make_likelihood("bernoulli", LEVELS),
        image_shape=(SIDE, SIDE, 1),
        latent_dim=latent_dim,
        widths=(work.width,),
    )


def make(work: Work, variant: str) -> Callable[[], float]:
    """One model: a population of one."""
    del variant
    state, train = compile_members(
        [mlp(work, work.latent_dim)],
        Recipe(batch_size=work.batch_size, num_epochs=1, validate_every=1),
        work.images(),
        betas=[1.0],
        learning_rate=work.learning_rate,
        execution="loop",
    )

    def epoch() -> float:
        nonlocal state
        state, metrics = train(state)
        return float(metrics.train.elbo[0, -1])

    return epoch
