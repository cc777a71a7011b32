"""log p(x) between two bounds, and where the ELBO loses it: a closer look at a model.

Of test images: the ELBO, that of the best q for each image, importance-weighted and
annealed estimates of log p(x). Of images that the model itself generates: annealed
bounds from both sides, whose gap says how far the annealed estimate can be trusted.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.results import mean_with_error
from vae_jax.evidence import (
    AnnealedEstimate,
    BidirectionalEstimate,
    ImportanceEstimate,
    InferenceGap,
    annealed_estimate,
    bidirectional_estimate,
    importance_estimate,
    inference_gap,
    sigmoid_schedule,
)
from vae_jax.model import VAE, Params
from vae_jax.per_image import map_images

# Images together; bounds the memory, not the result.
_BATCH = 8
_CHUNK = 50
# Of Adam on each image's own q, in units of its mean and log-scale.
_LEARNING_RATE = 0.01
_SAMPLES_PER_STEP = 10
_MEASURED_SAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class SandwichSettings:
    """How much is spent on each image."""

    num_images: int
    num_samples: int  # importance samples
    num_temperatures: int  # of the annealing
    num_chains: int
    gap_steps: int  # of the search for each image's best q


class Sandwich(NamedTuple):
    """Arrays over the images, nats."""

    importance: ImportanceEstimate
    annealed: AnnealedEstimate
    gap: InferenceGap
    simulated: BidirectionalEstimate | None  # where the likelihood can be simulated


def measure(
    settings: SandwichSettings, model: VAE, params: Params, key: jax.Array, x: jax.Array
) -> Sandwich:
    """Measures a model on the first images of x ``[N, D]``, in the likelihood's view.

    Chains start from the encoder's posterior.
    """
    schedule = sigmoid_schedule(settings.num_temperatures)
    annealing: dict[str, Any] = {
        "schedule": schedule,
        "num_chains": settings.num_chains,
        "initial": "posterior",
    }

    def one_image(key, x):
        importance_key, annealed_key, gap_key, simulated_key = (
            jax.random.fold_in(key, i) for i in range(4)
        )
        importance = importance_estimate(
            model,
            params,
            importance_key,
            x,
            num_samples=settings.num_samples,
            chunk=_CHUNK,
        )
        annealed = annealed_estimate(model, params, annealed_key, x, **annealing)
        gap = inference_gap(
            model,
            params,
            gap_key,
            x,
            annealed.log_px,
            num_steps=settings.gap_steps,
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

    return map_images(one_image, key, x[: settings.num_images], batch_size=_BATCH)


def columns(sandwich: Sandwich) -> dict[str, float]:
    """Means over the images and their standard errors, nats unless said."""
    gap, simulated = sandwich.gap, sandwich.simulated
    unknown = jnp.full_like(gap.elbo, jnp.nan)
    means = {
        "elbo": gap.elbo,
        "best_elbo": gap.best_elbo,
        "importance_log_px": sandwich.importance.log_px,
        "annealed_log_px": sandwich.annealed.log_px,
        "amortization_gap": gap.amortization,
        "approximation_gap": gap.approximation,
        "last_rise": gap.last_rise,
        "simulated_lower": simulated.lower.log_px if simulated else unknown,
        "simulated_upper": simulated.upper.log_px if simulated else unknown,
        "simulated_gap": simulated.gap if simulated else unknown,
    }
    row: dict[str, float] = {"num_images": len(gap.elbo)}
    for name, nats in means.items():
        row |= mean_with_error(name, nats)
    return row | {
        "acceptance": float(jnp.mean(sandwich.annealed.acceptance)),
        "annealed_effective_sample_size": float(
            jnp.median(sandwich.annealed.effective_sample_size)
        ),
        "gap_steps": int(gap.num_steps[0]),
    }
