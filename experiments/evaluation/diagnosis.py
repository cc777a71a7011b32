"""Measures the latents of a trained model: columns of ``results.csv``."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.evaluation import columns
from experiments.settings.schema import DiagnosticsSettings
from vae_jax.diagnostics import LatentUse, judge_collapse, probe_latents

# By column, the field of ``KLParts`` that it holds.
_PARTS = {
    "mutual_information": "mutual_information",
    "marginal_kl": "marginal_kl",
    "total_correlation": "total_correlation",
    "dimension_kl": "sum_of_dimensions",
}


def measured(
    settings: DiagnosticsSettings,
    use: LatentUse,
    row: Mapping[str, Any],
    posterior_means: np.ndarray,
    labels: np.ndarray | None,
    *,
    floor: float,
    latent_dim: int,
) -> dict[str, Any]:
    """Returns the columns of a run that describe its latents.

    Args:
        settings: the diagnostics that are asked for; columns of others are NaN.
        use: the measurements of the device.
        row: the run's other columns, on which the verdict depends.
        posterior_means: E_q[z|x] of the test images, ``[M, latent]``.
        labels: classes of the test images, or None.
        floor: mean of -log p(x) without latents, nats.
        latent_dim: number of latents, of all layers.
    """
    found: dict[str, Any] = {
        column.name: math.nan for column in columns.BY_SECTION["latents"]
    }
    if use.decomposition:
        parts, errors = use.decomposition.parts, use.decomposition.standard_errors
        for column, part in _PARTS.items():
            found[column] = float(getattr(parts, part))
            found[f"{column}_se"] = float(getattr(errors, part))
    if use.density_error is not None:
        found["density_error"] = float(use.density_error)
    if use.two_samples:
        found |= {
            "squared_mmd": float(use.two_samples.squared_mmd),
            "mmd_p_value": float(use.two_samples.p_value),
        }
    found["floor"] = floor
    found |= judged({**row, **found}, latent_dim)
    means, finite = posterior_means[:, :latent_dim], np.isfinite(posterior_means).all()
    if settings.probes and finite and (scores := probe_latents(means, labels, seed=0)):
        found |= {
            "linear_probe": scores.linear_accuracy,
            "linear_probe_se": scores.linear_se,
            "neighbour_probe": scores.neighbour_accuracy,
            "neighbour_probe_se": scores.neighbour_se,
        }
    return found


def judged(row: Mapping[str, Any], latent_dim: int) -> dict[str, Any]:
    """Returns the columns ``gain``, in nats, and ``latents``, the verdict of a row."""
    gain = row["elbo"] + row["floor"]
    signs = {
        "rate": row["rate"],
        "mutual_information": row["mutual_information"],
        "gain": gain,
    }
    verdict = ""  # Where a number that it needs is missing.
    if all(map(math.isfinite, signs.values())):
        verdict = judge_collapse(
            **signs, active_units=row["active_units"], latent_dim=latent_dim
        )
    return {"gain": gain, "latents": verdict}
