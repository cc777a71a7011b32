"""log p(x) of a model, per image, in nats: exact, estimated, and split into parts.

``importance`` and ``annealing`` estimate it for any model. ``linear_gaussian`` computes
it exactly for one family. ``gap`` splits the difference between log p(x) and the ELBO.
``sandwich`` applies the estimates and the split to each image of a set. ``flow`` is
about the probability flow of a chain of latents, ``unrolled`` about its layers.
"""

from vae_jax.evidence.annealing import (
    AnnealedEstimate,
    BidirectionalEstimate,
    annealed_estimate,
    bidirectional_estimate,
    linear_schedule,
    sigmoid_schedule,
)
from vae_jax.evidence.flow import (
    FlowDensity,
    FlowEstimate,
    flow_estimate,
    flow_log_prob,
)
from vae_jax.evidence.gap import InferenceGap, inference_gap
from vae_jax.evidence.importance import (
    ChainEstimate,
    ImportanceEstimate,
    importance_bias,
    importance_estimate,
)
from vae_jax.evidence.linear_gaussian import (
    LinearGaussian,
    PrincipalComponents,
    num_surviving,
    principal_components,
)
from vae_jax.evidence.sandwich import Sandwich, measure_sandwich
from vae_jax.evidence.unrolled import unrolled

__all__ = [
    "AnnealedEstimate",
    "BidirectionalEstimate",
    "ChainEstimate",
    "FlowDensity",
    "FlowEstimate",
    "ImportanceEstimate",
    "InferenceGap",
    "LinearGaussian",
    "PrincipalComponents",
    "Sandwich",
    "annealed_estimate",
    "bidirectional_estimate",
    "flow_estimate",
    "flow_log_prob",
    "importance_bias",
    "importance_estimate",
    "inference_gap",
    "linear_schedule",
    "measure_sandwich",
    "num_surviving",
    "principal_components",
    "sigmoid_schedule",
    "unrolled",
]
