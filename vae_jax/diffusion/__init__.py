"""Chains of latents made of noise: schedules, processes, and exact answers.

The chain itself, with its bound and its samples, is the prior 'diffusion'
(``vae_jax.priors.diffusion``). The posterior 'noise' makes z_0 of an image.
"""

from vae_jax.diffusion.gaussian import ExactDenoiser, GaussianImages
from vae_jax.diffusion.process import PREDICTIONS, Denoised, Process, read_output
from vae_jax.diffusion.schedules import (
    NOISE_SCHEDULES,
    SHARED_SCHEDULES,
    Ends,
    NoiseSchedule,
)

__all__ = [
    "NOISE_SCHEDULES",
    "PREDICTIONS",
    "SHARED_SCHEDULES",
    "Denoised",
    "Ends",
    "ExactDenoiser",
    "GaussianImages",
    "NoiseSchedule",
    "Process",
    "read_output",
]
