"""Compiled epochs of members: their times, and the memory of the device."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.contenders.ours import Program, compile_members
from benchmarks.work import SIDE
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import VAE, make_vae
from vae_jax.training import TrainingConfig, TrainState


def vae(
    likelihood: str = "bernoulli",
    *,
    latent_dim: int = 20,
    widths: tuple[int, ...] = (400,),
    image_shape: tuple[int, int, int] = (SIDE, SIDE, 1),
    levels: int = 256,
    **options: Any,
) -> VAE:
    """Returns a model, 784-400-20 unless said otherwise."""
    return make_vae(
        make_likelihood(likelihood, levels),
        image_shape=image_shape,
        latent_dim=latent_dim,
        widths=widths,
        **options,
    )


def epoch_of(
    models: Sequence[VAE],
    images: np.ndarray,
    devices: Sequence[jax.Device],
    *,
    batch_size: int = 128,
) -> Program:
    """Compiles an epoch of members that are mapped together."""
    return compile_members(
        models,
        TrainingConfig(batch_size=batch_size, num_epochs=1, validate_every=1),
        images,
        betas=[1.0] * len(models),
        learning_rate=1e-3,
        execution="map",
        devices=devices,
    )


def timed_epochs(program: Program, count: int) -> tuple[TrainState, list[float]]:
    """Returns the state after some epochs, and the seconds of each."""
    state, seconds = program.state, []
    for _ in range(count):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(program.train(state))
        seconds.append(time.perf_counter() - started)
    return state, seconds


def epoch_seconds(program: Program, repeats: int) -> list[float]:
    """Returns the seconds of each of some epochs, after one that is not timed."""
    return timed_epochs(program, 1 + repeats)[1][1:]


def bytes_in_use(device: jax.Device) -> int | None:
    """Returns the bytes that arrays take on a device; None if it does not say."""
    return (device.memory_stats() or {}).get("bytes_in_use")
