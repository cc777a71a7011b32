"""XLA's own matrix products at the shapes of a training step, and nothing else."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.work import PIXELS, Work, initial_weights


def make(work: Work, variant: str) -> Callable[[], float]:
    """An "epoch" of the forward and backward products; its ELBO is not a number."""
    del variant
    intensity = work.images().astype(np.float32) / 255
    images = jnp.asarray(intensity)
    weights = initial_weights(work, intensity.mean(0))
    matrices = {name: jnp.asarray(w) for name, w in weights.items() if w.ndim == 2}

    def step(gradients, index):
        # What is carried is overwritten: no product can be dropped, none is added to.
        del gradients
        start = index * work.batch_size
        x = jax.lax.dynamic_slice(images, (start, 0), (work.batch_size, PIXELS))
        return _products(matrices, x), None

    @jax.jit
    def epoch(gradients):
        steps = jnp.arange(len(images) // work.batch_size)
        return jax.lax.scan(step, gradients, steps)[0]

    gradients = jax.tree.map(jnp.zeros_like, matrices)
    compiled = epoch.lower(gradients).compile()

    def run() -> float:
        jax.block_until_ready(compiled(gradients))
        return float("nan")

    return run


def _products(w: dict[str, jax.Array], x: jax.Array) -> dict[str, jax.Array]:
    """Gradients of a network without activations, from a cotangent at its output."""
    h = x @ w["encoder"]
    mean, log_scale = h @ w["mean"], h @ w["log_scale"]
    g = mean @ w["decoder"]
    logits = g @ w["output"]
    d_g = logits @ w["output"].T
    d_mean = d_g @ w["decoder"].T
    d_h = d_mean @ w["mean"].T + log_scale @ w["log_scale"].T
    return {
        "encoder": x.T @ d_h,
        "mean": h.T @ d_mean,
        "log_scale": h.T @ log_scale,
        "decoder": mean.T @ d_g,
        "output": g.T @ logits,
    }
