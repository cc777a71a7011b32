"""The parts that can be combined freely: those that make no chain of latents."""

from vae_jax import networks, objectives, posteriors, priors

ORDINARY_NETWORKS = [name for name in networks.NETWORKS if name != "identity"]
ORDINARY_POSTERIORS = [name for name in posteriors.POSTERIORS if name != "noise"]
ORDINARY_PRIORS = [name for name in priors.PRIORS if name != "diffusion"]
# One objective needs a classifier, and one a chain; both have tests of their own.
ORDINARY_OBJECTIVES = [
    name
    for name in objectives.OBJECTIVES
    if name not in ("diffusion", "semi_supervised")
]
