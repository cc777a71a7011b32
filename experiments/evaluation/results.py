"""Rows of results from arrays over test images."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.images import ImageData
from experiments.evaluation.status import status
from experiments.settings.grid import Run
from vae_jax import views
from vae_jax.diagnostics import active_units, classify
from vae_jax.evidence import ChainEstimate, Sandwich, importance_bias
from vae_jax.measure import Evaluation
from vae_jax.model import VAE


def result_row(
    run: Run,
    model: VAE,
    data: ImageData,
    evaluation: Evaluation,
    *,
    floor: np.ndarray,
    last_gain: float,
    epochs: int,
    **facts: Any,
) -> dict[str, Any]:
    """Returns the row of a run; ``columns.toml`` explains its columns.

    Means over test images have a standard error over these images (``_se``). ``score``
    is the importance-weighted estimate of the negative log-likelihood on a scale on
    which models of a view can be compared, smaller is better: nats per binary image, or
    bits per dimension of the integers (for a continuous view, an upper bound).

    Args:
        run: the run.
        model: its model, unpadded.
        data: the data set.
        evaluation: arrays over the test images.
        floor: -log p(x) of the test images without latents, nats in the likelihood's
            view, ``[M]``; NaN where it is not known.
        last_gain: rise of the best validation bound in the last fifth of training,
            nats.
        epochs: number of epochs that were trained.
        **facts: further columns that training knows: best_epoch, seconds, ...
    """
    settings, view = run.settings, model.likelihood.view
    estimate = evaluation.estimate
    ends = np.cumsum(model.layer_dims)[:-1]
    means = np.asarray(evaluation.posterior_mean)
    layers = np.split(means, ends, axis=1) if np.isfinite(means).all() else []
    active = [int(active_units(jnp.asarray(layer))) for layer in layers]
    binary = view == "binary"
    bound = mean_with_error("elbo", estimate.elbo)
    bias, bias_se = importance_bias(estimate.last_doubling, estimate.doubling_before)
    score = views.scores(view, estimate.log_px, data.num_pixels, data.levels)
    reached = mean_with_error("score", score)
    minus_elbo = views.scores(view, estimate.elbo, data.num_pixels, data.levels)
    reconstruction = np.asarray(estimate.reconstruction, np.float64)
    log_mass = views.log_mass_bound(view, reconstruction, data.num_pixels, data.levels)
    # The score of a guess that calls all images equally probable.
    guess = data.num_pixels * np.log(2) if binary else np.log2(data.levels)
    return {
        "run": run.name,
        "dataset": data.name,
        "likelihood": settings.model.likelihood,
        "latent_dim": settings.model.latent_dim,
        "beta": settings.training.beta,
        "learning_rate": settings.training.learning_rate,
        "ema": settings.training.ema,
        "seed": settings.seed,
        "condition_on": settings.model.condition_on,
        "view": view,
        "unit": views.unit(view),
        **reached,
        "estimator": "importance" if model.has_density else "bound",
        **mean_with_error("bound", minus_elbo),
        **bound,
        **mean_with_error("log_px", estimate.log_px),
        "reconstruction": float(np.mean(estimate.reconstruction)),
        "kl": float(np.mean(estimate.kl)),
        "rate": float(np.mean(estimate.kl)),
        "distortion": float(-np.mean(log_mass)),
        **chain_columns(estimate.chain),
        **(
            {"bits_per_dim": None, "bits_per_dim_se": None}
            if binary
            else mean_with_error("bits_per_dim", score)
        ),
        "num_importance_samples": settings.evaluation.num_samples,
        "effective_sample_size": float(np.median(estimate.effective_sample_size)),
        "largest_weight": float(np.median(estimate.largest_weight)),
        "importance_bias": bias,
        "importance_bias_se": bias_se,
        **_of_classes(settings.evaluation.class_samples, data, evaluation),
        "mean_squared_error": float(np.mean(evaluation.squared_error)),
        "active_units": sum(active) if active else math.nan,
        "active_by_layer": "+".join(map(str, active)),
        "num_test_images": len(data.test.images),
        "binarization": data.binarization if binary else "",
        "binarization_seed": (
            settings.data.binarization_seed
            if binary and data.binarization == "static"
            else ""
        ),
        "last_gain": last_gain,
        "epochs": epochs,
        "status": status(
            score=reached["score"],
            elbo=bound["elbo"],
            over_guess=score / guess - 1,
            over_constant=-np.asarray(estimate.log_px, float) - floor,
            epochs=epochs,
            num_epochs=settings.training.num_epochs,
        ),
        **facts,
    }


def chain_columns(chain: ChainEstimate | None) -> dict[str, float | None]:
    """Returns the columns on the layers of a chain of latents; None without them."""
    if chain is None:
        return dict.fromkeys(("chain_last_kl", "chain_layers_kl", "chain_error"))
    last, layers, variance = (np.asarray(part, np.float64) for part in chain)
    return {
        "chain_last_kl": float(last.mean()),
        "chain_layers_kl": float(layers.mean()),
        "chain_error": float(np.sqrt(variance.sum()) / variance.size),
    }


def _of_classes(
    num_samples: int, data: ImageData, evaluation: Evaluation
) -> dict[str, float]:
    """Returns the columns on p(x) and p(y|x); NaN where they are not known.

    Args:
        num_samples: importance samples of each image and class.
        data: the data set; without labels, unless the model has classes.
        evaluation: arrays over the test images.
    """
    log_px = by_bayes = by_classifier = np.full(1, np.nan)
    calibration_error = num_class_samples = math.nan
    log_q_y, log_px_y = evaluation.log_q_y, evaluation.log_px_y
    if log_q_y is not None:
        labels = data.class_index(data.test.labels)
        by_classifier = np.argmax(log_q_y, axis=1) == labels
    if log_px_y is not None and np.isfinite(log_px_y).all():
        found = classify(log_px_y, data.class_index(data.test.labels))
        log_px, by_bayes = found.log_px, found.correct
        calibration_error, num_class_samples = found.calibration_error, num_samples
    return {
        **mean_with_error("marginal_log_px", log_px),
        **mean_with_error("label_accuracy", by_bayes),
        "calibration_error": calibration_error,
        "num_class_samples": num_class_samples,
        **mean_with_error("classifier_accuracy", by_classifier),
    }


def sandwich_columns(sandwich: Sandwich) -> dict[str, float]:
    """Returns the columns of ``sandwich.csv`` that are measured, in nats."""
    gap, simulated = sandwich.gap, sandwich.simulated
    unknown = np.full(gap.elbo.shape, np.nan)
    means = {
        "elbo": gap.elbo,
        "best_elbo": gap.best_elbo,
        "importance_log_px": sandwich.importance.log_px,
        "annealed_log_px": sandwich.annealed.log_px,
        "amortization_gap": gap.amortization,
        "approximation_gap": gap.approximation,
        "last_rise": gap.last_rise,
        "simulated_lower": simulated.lower.log_px if simulated else unknown,
        "simulated_upper": simulated.upper.log_px if simulated else unknown,
        "simulated_gap": simulated.gap if simulated else unknown,
    }
    row: dict[str, float] = {"num_images": len(gap.elbo)}
    for name, nats in means.items():
        row |= mean_with_error(name, nats)
    return row | {
        "acceptance": float(jnp.mean(sandwich.annealed.acceptance)),
        "annealed_effective_sample_size": float(
            jnp.median(sandwich.annealed.effective_sample_size)
        ),
        "gap_steps": int(gap.num_steps[0]),
    }


def mean_with_error(name: str, values: jax.Array | np.ndarray) -> dict[str, float]:
    """Returns mean and standard error over images, as ``name`` and ``name_se``."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else np.nan
    return {name: float(values.mean()), f"{name}_se": float(error)}
