"""Twelve members on the digits, mapped together or one after another.

The variant is ``WIDTHS EXECUTION``, as in ``128x128 map``.
"""

from collections.abc import Callable

import jax

from benchmarks.contenders.ours import compile_members
from benchmarks.work import Work
from experiments.data.images import load_data
from experiments.data.settings import DataSettings
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.training import TrainingConfig

EPOCHS_PER_CALL = 10
LATENT_DIMS = (2, 4, 8, 16)
SEEDS = 3


def make(work: Work, variant: str) -> Callable[[], float]:
    """Returns a lap of EPOCHS_PER_CALL epochs of one group of the main job."""
    del work
    widths, execution = variant.split()
    data = load_data(DataSettings("digits"))
    models = [
        make_vae(
            make_likelihood("bernoulli", data.levels),
            image_shape=data.image_shape,
            latent_dim=latent_dim,
            widths=tuple(map(int, widths.split("x"))),
        )
        for latent_dim in LATENT_DIMS
        for _ in range(SEEDS)
    ]
    state, train, _ = compile_members(
        models,
        TrainingConfig(
            batch_size=100, num_epochs=EPOCHS_PER_CALL, validate_every=EPOCHS_PER_CALL
        ),
        data.train.images.reshape(-1, data.num_pixels),
        betas=[1.0] * len(models),
        learning_rate=3e-3,
        execution=execution,
    )

    def epochs() -> float:
        nonlocal state
        state, metrics = train(state)
        return float(jax.device_get(metrics.terms.elbo).mean())

    return epochs
