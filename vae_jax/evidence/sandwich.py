"""log p(x) between two bounds, and the reasons why the ELBO is below it.

For given images: the ELBO, the ELBO of the best q for each image, and
importance-weighted and annealed estimates of log p(x). For images that the model itself
generates: annealed bounds from both sides. Their gap says how far the annealed estimate
can be trusted.
"""

from typing import Any, NamedTuple

import jax

from vae_jax.evidence.annealing import (
    AnnealedEstimate,
    BidirectionalEstimate,
    annealed_estimate,
    bidirectional_estimate,
    sigmoid_schedule,
)
from vae_jax.evidence.gap import InferenceGap, inference_gap
from vae_jax.evidence.importance import ImportanceEstimate, importance_estimate
from vae_jax.model import VAE, Params
from vae_jax.per_image import map_images

# Numbers of images and of samples computed together. They bound the memory and do not
# change the result.
_BATCH = 8
_CHUNK = 50
# Learning rate of Adam for each image's own q, in units of its mean and log-scale.
_LEARNING_RATE = 0.01
_SAMPLES_PER_STEP = 10
_MEASURED_SAMPLES = 1000


class Sandwich(NamedTuple):
    """Arrays over the images, nats."""

    importance: ImportanceEstimate
    annealed: AnnealedEstimate
    gap: InferenceGap
    simulated: BidirectionalEstimate | None  # None if the likelihood is not simulated


def measure_sandwich(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    num_samples: int,
    num_temperatures: int,
    num_chains: int,
    gap_steps: int,
) -> Sandwich:
    """Measures a model on images: the estimates of log p(x) and the inference gap.

    Chains start from the encoder's posterior.

    Args:
        model: the VAE.
        params: its parameters, not padded.
        key: a typed key; each image's index is folded into it.
        x: images in the likelihood's view, ``[N, D]``.
        num_samples: number of importance samples of each image.
        num_temperatures: number of steps of the annealing schedule.
        num_chains: number of annealing chains for each image.
        gap_steps: number of steps of the search for each image's best q, at least 5.

    Raises:
        ValueError: ``gap_steps`` is less than 5.
    """
    annealing: dict[str, Any] = {
        "schedule": sigmoid_schedule(num_temperatures),
        "num_chains": num_chains,
        "initial": "posterior",
    }

    def one_image(key: jax.Array, x: jax.Array) -> Sandwich:
        importance_key, annealed_key, gap_key, simulated_key = (
            jax.random.fold_in(key, i) for i in range(4)
        )
        importance = importance_estimate(
            model, params, importance_key, x, num_samples=num_samples, chunk=_CHUNK
        )
        annealed = annealed_estimate(model, params, annealed_key, x, **annealing)
        gap = inference_gap(
            model,
            params,
            gap_key,
            x,
            annealed.log_px,
            num_steps=gap_steps,
            learning_rate=_LEARNING_RATE,
            num_samples=_SAMPLES_PER_STEP,
            num_eval_samples=_MEASURED_SAMPLES,
            chunk=_CHUNK,
        )
        simulated = None
        if model.likelihood.samples_its_density:
            simulated = bidirectional_estimate(
                model, params, simulated_key, **annealing
            )
        return Sandwich(importance, annealed, gap, simulated)

    return map_images(one_image, key, x, batch_size=_BATCH)
