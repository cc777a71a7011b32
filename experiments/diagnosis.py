"""What the latents of a trained model do: columns of ``results.csv``."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.probes import probe_latents
from vae_jax.diagnostics import (
    KLDecomposition,
    TwoSampleTest,
    bernoulli_floor,
    decompose_gaussian_kl,
    decompose_kl,
    fit_constant,
    judge_collapse,
    mmd_test,
)
from vae_jax.distributions import DiagonalGaussian, Posterior, latent_noise
from vae_jax.likelihoods import Likelihood
from vae_jax.model import VAE, Params
from vae_jax.priors import Prior, StandardNormal

# Samples compared at once; measured fastest on a CPU, and bounds the memory.
_CHUNK = 16
# Samples of q(z) at least, where images are few: what they cost is little, and their
# noise falls below what the choice of images leaves.
_SAMPLES = 3000
# The two-sample test compares all pairs: of this many images at most.
_MOST_COMPARED = 1000
# Images whose log-probability is computed at once in the search for the floor.
_FLOOR_CHUNK = 2000


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


@dataclasses.dataclass(frozen=True)
class DiagnosticsSettings:
    """Which diagnostics are computed of every model; columns of others are empty."""

    latents: bool  # the average KL in parts
    permutations: int  # of the two-sample test of q(z) against p(z); 0: no test
    floor: bool  # what a decoder without latents reaches, and the verdict on collapse
    probes: bool  # how much of a label the latents tell, where there are labels


class LatentUse(NamedTuple):
    """What is measured on the device, of one member; None where not asked for."""

    decomposition: KLDecomposition | None
    density_error: jax.Array | None  # see ``columns``, nats; None of factorised q(z|x)
    two_samples: TwoSampleTest | None


def measure(
    settings: DiagnosticsSettings,
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    latent_mask: jax.Array,
) -> LatentUse:
    """Measures one model on images x ``[N, D]`` in the likelihood's view.

    Total correlation and dimension-wise KL are NaN where latents are not independent in
    every q(z|x) and p(z).
    """
    noise_key, prior_key, permutation_key, sample_key = (
        jax.random.fold_in(key, i) for i in range(4)
    )
    posterior = model.encode(params, x)
    decomposition = density_error = two_samples = None
    prior = model.prior(params)
    if settings.latents:
        decomposition, density_error = _decompose(
            model, params, sample_key, posterior, prior, latent_mask, len(x)
        )
    if settings.permutations:
        noise = latent_noise(noise_key, 1, len(x), model.latent_dim)
        z = posterior.sample(noise * latent_mask[None, None])[0, :_MOST_COMPARED]
        prior_z = prior.sample(prior_key, len(z))
        two_samples = mmd_test(
            permutation_key,
            z,
            prior_z * latent_mask[None],
            num_permutations=settings.permutations,
        )
    return LatentUse(decomposition, density_error, two_samples)


def _decompose(
    model: VAE,
    params: Params,
    key: jax.Array,
    posterior: Posterior,
    prior: Prior,
    latent_mask: jax.Array,
    num_images: int,
) -> tuple[KLDecomposition, jax.Array | None]:
    shape = (num_images, model.latent_dim)
    if isinstance(posterior, DiagonalGaussian) and isinstance(prior, StandardNormal):
        noise = latent_noise(key, -(-_SAMPLES // num_images), *shape)
        decomposition = decompose_gaussian_kl(
            posterior.mean, posterior.log_scale, noise, latent_mask, chunk=_CHUNK
        )
        return decomposition, None

    def log_densities(image, z):
        del image
        log_q = posterior.log_prob(jnp.broadcast_to(z, shape)[None])[0]
        return log_q[:, None], prior.log_prob(z)[None]

    kl = None
    if model.has_closed_form_kl:
        kl = model.closed_form_kl(params, posterior).sum(-1, keepdims=True)
    # One sample an image: the density of each takes a flow's inverse for every image.
    z, log_q = posterior.sample_and_log_prob(latent_noise(key, 1, *shape))
    density_error = jnp.abs(posterior.log_prob(z) - log_q).mean()
    found = decompose_kl(log_densities, z, chunk=_CHUNK, closed_form_kl=kl)
    unknown = {
        "total_correlation": jnp.float32(math.nan),
        "dimension_kl": jnp.full(1, math.nan),
        "sum_of_dimensions": jnp.float32(math.nan),
    }
    found = found._replace(
        parts=found.parts._replace(**unknown),
        standard_errors=found.standard_errors._replace(**unknown),
    )
    return found, density_error


def floor(
    likelihood: Likelihood,
    pixel_mean: jax.Array,
    pixel_std: jax.Array,
    train_x: jax.Array,
    test_x: jax.Array,
) -> jax.Array:
    """-log p(x) of test images under the best output without latents, nats, ``[M]``.

    NaN where the search for that output has not settled.

    Args:
        likelihood: the family.
        pixel_mean: as in ``VAE.init``.
        pixel_std: as in ``VAE.init``.
        train_x: training images; their intensities for the binary view, for which the
            best output has a closed form, else images in the likelihood's view.
        test_x: test images in the likelihood's view.
    """
    if likelihood.view == "binary":
        return bernoulli_floor(train_x, test_x)
    outputs = likelihood.initial_outputs(pixel_mean, pixel_std)
    num_pixels = outputs.shape[1]

    def log_prob(outputs, x):
        own, shared = outputs
        repeated = jnp.broadcast_to(shared[:, None], (shared.size, num_pixels))
        return likelihood.log_prob(jnp.concatenate([own, repeated]), x)

    own = outputs[: likelihood.pixel_outputs]
    shared = outputs[likelihood.pixel_outputs :].mean(axis=1)
    fit = fit_constant(log_prob, (own, shared), train_x, test_x, chunk=_FLOOR_CHUNK)
    return jnp.where(fit.settled, fit.negative_log_prob, jnp.nan)


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
    """The columns of a run, NaN where not asked for or not to be had.

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
        found |= {
            "mutual_information": float(parts.mutual_information),
            "mutual_information_se": float(errors.mutual_information),
            "marginal_kl": float(parts.marginal_kl),
            "marginal_kl_se": float(errors.marginal_kl),
            "total_correlation": float(parts.total_correlation),
            "total_correlation_se": float(errors.total_correlation),
            "dimension_kl": float(parts.sum_of_dimensions),
            "dimension_kl_se": float(errors.sum_of_dimensions),
        }
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
