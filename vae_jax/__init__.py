"""vae_jax: variational autoencoders as pure functions of arrays.

``fit`` trains models on arrays; the names below are its arguments and results. The
subpackages hold the rest (docs/api.md). Imports run one way: parts (likelihoods,
posteriors, priors, networks) -> model -> objectives -> training -> population -> fit.
Nothing here reads flags or files.
"""

from vae_jax.diagnostics import fit_constant, judge_collapse, measure_latent_use
from vae_jax.evidence import (
    annealed_estimate,
    bidirectional_estimate,
    importance_estimate,
    inference_gap,
    measure_sandwich,
)
from vae_jax.fitted_prior import fit_prior
from vae_jax.fitting import Epoch, epochs, fit
from vae_jax.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from vae_jax.measure import evaluate
from vae_jax.model import VAE, make_vae
from vae_jax.networks import NETWORKS, Network
from vae_jax.objectives import OBJECTIVES, Batch, Objective, Terms
from vae_jax.per_image import map_images
from vae_jax.population import Population
from vae_jax.posteriors import POSTERIORS, PosteriorFamily, make_posterior
from vae_jax.priors import PRIORS, PriorFamily, make_prior
from vae_jax.trained import TrainedModel
from vae_jax.training import Trainer, TrainingConfig

__all__ = [
    "LIKELIHOODS",
    "NETWORKS",
    "OBJECTIVES",
    "POSTERIORS",
    "PRIORS",
    "VAE",
    "Batch",
    "Epoch",
    "Likelihood",
    "Network",
    "Objective",
    "Population",
    "PosteriorFamily",
    "PriorFamily",
    "Terms",
    "TrainedModel",
    "Trainer",
    "TrainingConfig",
    "annealed_estimate",
    "bidirectional_estimate",
    "epochs",
    "evaluate",
    "fit",
    "fit_constant",
    "fit_prior",
    "importance_estimate",
    "inference_gap",
    "judge_collapse",
    "make_likelihood",
    "make_posterior",
    "make_prior",
    "make_vae",
    "map_images",
    "measure_latent_use",
    "measure_sandwich",
]
