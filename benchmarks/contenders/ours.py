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
from vae_jax.training import EpochMetrics, Member, Recipe, TrainState, train_epoch


class Program(NamedTuple):
    """Members with the compiled program that trains them."""

    state: TrainState
    train: Callable[[TrainState], tuple[TrainState, EpochMetrics]]
    compiled: jax.stages.Compiled  # one epoch


def compile_members(
    models: Sequence[VAE],
    recipe: Recipe,
    images: np.ndarray,
    *,
    betas: Sequence[float],
    learning_rate: float,
    execution: str,
) -> Program:
    """Compiles ``recipe.num_epochs`` epochs of members that share a program.

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
    one_epoch = functools.partial(train_epoch, widest, recipe)
    lifted = population.over_members(one_epoch, num_shared=1, execution=execution)
    data = (member, jnp.asarray(images))
    compiled = jax.jit(lifted, donate_argnums=0).lower(state, *data).compile()

    def train(state: TrainState) -> tuple[TrainState, EpochMetrics]:
        for _ in range(recipe.num_epochs):
            state, metrics = compiled(state, *data)
        return state, metrics

    return Program(state, train, compiled)


def vae(work: Work, latent_dim: int) -> VAE:
    """The model of a piece of work, at a number of latents."""
    return make_vae(
        make_likelihood("bernoulli", LEVELS),
        image_shape=(SIDE, SIDE, 1),
        latent_dim=latent_dim,
        network=work.network,
        widths=work.widths,
        activation=work.activation,
    )


def compile_one(work: Work, images: np.ndarray, members: int = 1) -> Program:
    """One model, or several that differ in their keys, and an epoch of these images."""
    return compile_members(
        [vae(work, work.latent_dim)] * members,
        Recipe(batch_size=work.batch_size, num_epochs=1, validate_every=1),
        images,
        betas=[1.0] * members,
        learning_rate=work.learning_rate,
        execution="loop" if members == 1 else "map",
    )


def make(work: Work, variant: str) -> Callable[[], float]:
    """A population of one model, or of as many as the variant says, mapped."""
    state, train, _ = compile_one(work, work.images(), int(variant or 1))

    def epoch() -> float:
        nonlocal state
        state, metrics = train(state)
        return float(metrics.terms.elbo.mean())

    return epoch
