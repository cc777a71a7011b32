"""XLA's own matrix products at the shapes of a training step, and nothing else."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.work import PIXELS, Work, initial_weights


def make(work: Work, variant: str) -> Callable[[], float]:
    """Returns an "epoch" of the forward and backward products; its ELBO is NaN.

    The layers are dense, since a convolution need not be a matrix product.
    """
    del variant
    intensity = work.images().astype(np.float32) / 255
    images = jnp.asarray(intensity)
    weights = initial_weights(work, intensity.mean(0))
    matrices = {name: jnp.asarray(w) for name, w in weights.items() if w.ndim == 2}

    def network(matrices, x):
        """Returns the logits and the other head, without biases and activations."""
        names = [layer.name for layer in work.layers()]
        head = names.index("mean")
        for name in names[:head]:
            x = x @ matrices[name]
        log_scale = x @ matrices["log_scale"]
        for name in ("mean", *names[head + 2 :]):
            x = x @ matrices[name]
        return x, log_scale

    def step(gradients, index):
        # The carried arrays are overwritten: no product can be dropped or added to.
        del gradients
        start = index * work.batch_size
        x = jax.lax.dynamic_slice(images, (start, 0), (work.batch_size, PIXELS))
        outputs, pull_back = jax.vjp(lambda matrices: network(matrices, x), matrices)
        return pull_back(outputs)[0], None

    @jax.jit
    def epoch(gradients):
        return jax.lax.scan(step, gradients, jnp.arange(work.num_steps))[0]

    gradients = jax.tree.map(jnp.zeros_like, matrices)
    compiled = epoch.lower(gradients).compile()

    def run() -> float:
        jax.block_until_ready(compiled(gradients))
        return float("nan")

    return run
