"""What the latents of a trained model do: columns of ``results.csv``."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.settings.schema import DiagnosticsSettings
from vae_jax.diagnostics import LatentUse, judge_collapse, probe_latents

COLUMNS = (
    "mutual_information",
    "mutual_information_se",
    "marginal_kl",
    "marginal_kl_se",
    "total_correlation",
    "total_correlation_se",
    "dimension_kl",
    "dimension_kl_se",
    "density_error",
    "squared_mmd",
    "mmd_p_value",
    "floor",
    "gain",
    "latents",
    "linear_probe",
    "linear_probe_se",
    "neighbour_probe",
    "neighbour_probe_se",
)

# Those that depend on the prior, and not on q(z|x) alone or on the floor.
OF_THE_PRIOR = (
    "marginal_kl",
    "marginal_kl_se",
    "total_correlation",
    "total_correlation_se",
    "dimension_kl",
    "dimension_kl_se",
    "squared_mmd",
    "mmd_p_value",
)


# Of the average KL: columns, and the fields of ``KLParts`` that they hold.
_PARTS = {
    "mutual_information": "mutual_information",
    "marginal_kl": "marginal_kl",
    "total_correlation": "total_correlation",
    "dimension_kl": "sum_of_dimensions",
}


def columns(
    settings: DiagnosticsSettings,
    use: LatentUse,
    row: Mapping[str, Any],
    posterior_means: np.ndarray,
    labels: np.ndarray | None,
    *,
    floor: float,
    latent_dim: int,
) -> dict[str, Any]:
    """The columns of a run, NaN if not asked for or not defined.

    Args:
        settings: what was asked for.
        use: what was measured on the device.
        row: the run's other columns, which the verdict is about.
        posterior_means: E_q[z|x] of the test images, ``[M, latent]``.
        labels: their classes, or None.
        floor: mean of -log p(x) without latents, nats.
        latent_dim: number of latents, of all layers.

    Returns:
        mutual_information, marginal_kl, total_correlation and dimension_kl (the sum
        over latents) in nats, with standard errors; density_error, the mean distance
        between log q(z|x) that comes with a sample and that which is found from it, on
        which these four rest, nats; squared_mmd and its p-value; floor,
        and what is ``judged`` by it; accuracies of a linear and a nearest-neighbour
        probe and their standard errors.
    """
    found: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
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
    """The gain of a row's ELBO over its floor, nats, and the verdict ``latents``."""
    gain = row["elbo"] + row["floor"]
    signs = {
        "rate": row["rate"],
        "mutual_information": row["mutual_information"],
        "gain": gain,
    }
    verdict = ""
    if all(map(math.isfinite, signs.values())):
        verdict = judge_collapse(
            **signs, active_units=row["active_units"], latent_dim=latent_dim
        )
    return {"gain": gain, "latents": verdict}
