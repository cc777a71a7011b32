"""This project: an epoch is one call of a compiled program."""

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.work import LEVELS, SIDE, Work
from vae_jax import views
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import VAE, make_vae
from vae_jax.population import Layout, Population, member_keys
from vae_jax.training import EpochMetrics, TrainingConfig, TrainState


class Program(NamedTuple):
    """Members with the compiled program that trains them."""

    state: TrainState
    train: Callable[[TrainState], tuple[TrainState, EpochMetrics]]
    compiled: jax.stages.Compiled  # one epoch


def compile_members(
    models: Sequence[VAE],
    config: TrainingConfig,
    images: np.ndarray,
    *,
    betas: Sequence[float],
    learning_rate: float,
    execution: str,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """Compiles ``config.num_epochs`` epochs of members that share a program.

    Args:
        models: one per member; they differ in latent size alone.
        config: how they are trained.
        images: integers, uint8 ``[N, D]``.
        betas: one per member.
        learning_rate: of all members.
        execution: 'map' or 'loop'.
        devices: that members are split over; all devices if None.
    """
    population = Population(
        models,
        config,
        len(images),
        keys=member_keys(np.arange(len(models), dtype=np.uint32)),
        beta=betas,
        learning_rate=[learning_rate] * len(models),
        layout=Layout.of(len(models), devices),
        execution=execution,
    )
    statistics = views.pixel_statistics(images, models[0].likelihood.levels)
    state = population.init(population.compile_init(*statistics), *statistics)
    on_device = population.placement.place_shared(images)
    compiled = population.compile_epoch(on_device)

    def one_epoch(state: TrainState) -> tuple[TrainState, EpochMetrics]:
        return compiled(state, population.placed_members, on_device)

    def train(state: TrainState) -> tuple[TrainState, EpochMetrics]:
        epochs = population.epochs(one_epoch, None, state)
        (last,) = collections.deque(epochs, maxlen=1)
        return last.state, last.metrics

    return Program(state, train, compiled)


def vae(work: Work, latent_dim: int) -> VAE:
    """Returns the model of a workload, with so many latents."""
    return make_vae(
        make_likelihood("bernoulli", LEVELS),
        image_shape=(SIDE, SIDE, 1),
        latent_dim=latent_dim,
        network=work.network,
        widths=work.widths,
        activation=work.activation,
        precision="bfloat16" if work.precision == "bfloat16" else "float32",
    )


def compile_one(
    work: Work,
    images: np.ndarray,
    members: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """Compiles an epoch of one model, or of several that differ in their keys."""
    return compile_members(
        [vae(work, work.latent_dim)] * members,
        TrainingConfig(batch_size=work.batch_size, num_epochs=1, validate_every=1),
        images,
        betas=[1.0] * members,
        learning_rate=work.learning_rate,
        execution="loop" if members == 1 else "map",
        devices=devices,
    )


def make(work: Work, variant: str) -> Callable[[], float]:
    """Returns an epoch of one model, or of as many as the variant says, mapped."""
    state, train, _ = compile_one(work, work.images(), int(variant or 1))

    def epoch() -> float:
        nonlocal state
        state, metrics = train(state)
        return float(metrics.terms.elbo.mean())

    return epoch
