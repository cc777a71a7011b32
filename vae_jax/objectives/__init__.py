"""Lower bounds on log p(x), per image, in nats; larger is better.

An objective is a frozen value with its options: ``MIWAE(num_samples=8, num_groups=2)``,
or ``OBJECTIVES.make("miwae", num_samples=8, num_groups=2)``. Called with a model, its
parameters, a key and a batch, it returns the ``Terms`` of each image, estimated with
samples of q(z|x). Nothing here averages over images: the training step does, so that
bounds stay comparable between likelihoods and batch sizes.

``elbo`` holds the ELBO in several forms, ``importance`` the bounds that weigh several
samples, ``aggregate`` those that see the batch as a whole, ``semi_supervised`` the one
that learns from images with and without a class, ``diffusion`` that of a chain of
latents.
"""

from vae_jax.objectives.aggregate import MMD, BetaTC
from vae_jax.objectives.base import OBJECTIVES, Batch, Objective, Terms
from vae_jax.objectives.diffusion import Diffusion
from vae_jax.objectives.elbo import STL, Elbo, ElboLogWeight
from vae_jax.objectives.importance import (
    CIWAE,
    IWAE,
    MIWAE,
    PIWAE,
    DReG,
    Renyi,
    Thermodynamic,
)
from vae_jax.objectives.semi_supervised import SemiSupervised

__all__ = [
    "CIWAE",
    "IWAE",
    "MIWAE",
    "MMD",
    "OBJECTIVES",
    "PIWAE",
    "STL",
    "Batch",
    "BetaTC",
    "DReG",
    "Diffusion",
    "Elbo",
    "ElboLogWeight",
    "Objective",
    "Renyi",
    "SemiSupervised",
    "Terms",
    "Thermodynamic",
]

OBJECTIVES |= {
    "elbo": Elbo,
    "elbo_log_weight": ElboLogWeight,
    "stl": STL,
    "iwae": IWAE,
    "dreg": DReG,
    "miwae": MIWAE,
    "ciwae": CIWAE,
    "piwae": PIWAE,
    "renyi": Renyi,
    "thermodynamic": Thermodynamic,
    "beta_tc": BetaTC,
    "mmd": MMD,
    "semi_supervised": SemiSupervised,
    "diffusion": Diffusion,
}
