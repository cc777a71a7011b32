"""Diagnostics of the latent space.

``activity`` counts the latents whose mean moves with the image,
``aggregated_posterior`` splits the average KL into information and mismatch with the
prior, ``two_samples`` tests that mismatch on samples, ``constant_output`` scores the
decoder that ignores its latents, ``probes`` predicts a label from them, ``latent_use``
runs those that need samples of a model's latents, and ``collapse`` sums up.
"""

from vae_jax.diagnostics.activity import active_units, latent_variances
from vae_jax.diagnostics.aggregated_posterior import (
    KLDecomposition,
    KLParts,
    decompose_gaussian_kl,
    decompose_kl,
)
from vae_jax.diagnostics.classification import (
    CALIBRATION_BINS,
    Classification,
    calibration_error,
    classify,
)
from vae_jax.diagnostics.collapse import ONE_BIT, judge_collapse
from vae_jax.diagnostics.constant_output import (
    ConstantFit,
    bernoulli_floor,
    fit_constant,
    likelihood_floor,
)
from vae_jax.diagnostics.latent_use import LatentUse, measure_latent_use
from vae_jax.diagnostics.probes import ProbeScores, probe_latents
from vae_jax.diagnostics.two_samples import TwoSampleTest, mmd_test

__all__ = [
    "CALIBRATION_BINS",
    "ONE_BIT",
    "Classification",
    "ConstantFit",
    "KLDecomposition",
    "KLParts",
    "LatentUse",
    "ProbeScores",
    "TwoSampleTest",
    "active_units",
    "bernoulli_floor",
    "calibration_error",
    "classify",
    "decompose_gaussian_kl",
    "decompose_kl",
    "fit_constant",
    "judge_collapse",
    "latent_variances",
    "likelihood_floor",
    "measure_latent_use",
    "mmd_test",
    "probe_latents",
]
