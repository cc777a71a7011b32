"""A chain of latents with a convolutional denoiser, and the bare denoiser.

The variant is 'training', all of our training step, or 'denoiser', value and gradient
of the network's squared output alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.contenders.ours import compile_members
from benchmarks.work import LEVELS, PIXELS, SIDE, Work
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.objectives import Diffusion
from vae_jax.priors.diffusion import DiffusionFamily
from vae_jax.training import TrainingConfig

_DENOISER: dict[str, Any] = {"denoiser": "unet", "denoiser_widths": (16, 32)}


def make(work: Work, variant: str) -> Callable[[], float]:
    """Returns an epoch; the bound of the bare denoiser is NaN."""
    return _training(work) if variant == "training" else _denoiser(work)


def _training(work: Work) -> Callable[[], float]:
    model = make_vae(
        make_likelihood("discretized_gaussian", LEVELS),
        image_shape=(SIDE, SIDE, 1),
        latent_dim=PIXELS,
        network="identity",
        posterior="noise",
        prior="diffusion",
        **_DENOISER,
    )
    config = TrainingConfig(
        objective=Diffusion(),
        batch_size=work.batch_size,
        num_epochs=1,
        validate_every=1,
        kl_warmup_epochs=0,
    )
    state, train, _ = compile_members(
        [model],
        config,
        work.images(),
        betas=[1.0],
        learning_rate=work.learning_rate,
        execution="loop",
    )

    def epoch() -> float:
        nonlocal state
        state, metrics = train(state)
        return float(metrics.terms.elbo.mean())

    return epoch


def _denoiser(work: Work) -> Callable[[], float]:
    family = DiffusionFamily(PIXELS, latent_shape=(SIDE, SIDE, 1), **_DENOISER)
    key = jax.random.key(0)
    z = jax.random.normal(key, (work.batch_size, PIXELS))
    inputs = family.inputs(z, jnp.linspace(-5.0, 5.0, work.batch_size))
    params = jax.jit(family.module.init)(key, *inputs)["params"]

    def loss(params, place):
        # Other numbers in each step: nothing can be computed once for all.
        z, *others = inputs
        output = family.module.apply({"params": params}, z + place, *others)
        return (output**2).sum()

    def step(carried, place):
        # The carried numbers are overwritten: no gradient can be dropped.
        del carried
        return jax.value_and_grad(loss)(params, place), None

    @jax.jit
    def epoch(params):
        places = jnp.arange(work.num_steps, dtype=jnp.float32)
        start = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(step, start, places)[0]

    compiled = epoch.lower(params).compile()

    def run() -> float:
        jax.block_until_ready(compiled(params))
        return float("nan")

    return run
