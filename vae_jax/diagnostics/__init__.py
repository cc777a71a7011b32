"""What the latent space does, from arrays alone.

``activity`` counts the latents whose mean moves with the image,
``aggregated_posterior`` splits the average KL into information and mismatch with the
prior, ``two_samples`` tests that mismatch on samples, ``constant_output`` scores the
decoder that ignores its latents, and ``collapse`` sums up.
"""

from vae_jax.diagnostics.activity import active_units, latent_variances
from vae_jax.diagnostics.aggregated_posterior import (
    KLDecomposition,
    KLParts,
    decompose_gaussian_kl,
    decompose_kl,
)
from vae_jax.diagnostics.collapse import ONE_BIT, judge_collapse
from vae_jax.diagnostics.constant_output import (
    ConstantFit,
    bernoulli_floor,
    fit_constant,
)
from vae_jax.diagnostics.two_samples import (
    TwoSampleTest,
    mmd_test,
    squared_mmd,
)

__all__ = [
    "ONE_BIT",
    "ConstantFit",
    "KLDecomposition",
    "KLParts",
    "TwoSampleTest",
    "active_units",
    "bernoulli_floor",
    "decompose_gaussian_kl",
    "decompose_kl",
    "fit_constant",
    "judge_collapse",
    "latent_variances",
    "mmd_test",
    "squared_mmd",
]
