"""Measures one member of a group on the test images: functions that are compiled."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.evaluation.stored_arrays import (
    CLASSES,
    GUIDANCE_WEIGHTS,
    MANIFOLD_SIDE,
    SAMPLER_STEPS,
    SAMPLERS_SHOWN,
    SHOWN,
    STEPS,
    WALKS,
)
from experiments.runner.images import Images
from experiments.settings.schema import EvaluationSettings, Settings
from vae_jax import views
from vae_jax.diagnostics import LatentUse, likelihood_floor, measure_latent_use
from vae_jax.likelihoods import Likelihood
from vae_jax.measure import Evaluation, Pictures, Sampling, draw, evaluate
from vae_jax.model import VAE, Params
from vae_jax.samplers import SAMPLERS
from vae_jax.training import Member, MemberKeys


class Measured(NamedTuple):
    """The measurements of a trained model."""

    evaluation: Evaluation
    pictures: Pictures
    latent_use: LatentUse


def evaluate_member(
    model: VAE, options: EvaluationSettings, params: Params, member: Member, *test: Any
) -> Evaluation:
    """Evaluates a member on test images.

    Args:
        model: the VAE.
        options: how it is evaluated.
        params: its parameters.
        member: its key and latent mask.
        *test: the images in the likelihood's view, and the integers that they were
            drawn from, ``[M, D]`` each.
    """
    key, (x, images) = MemberKeys.of(member.key).evaluate, test
    return evaluate(
        model,
        params,
        key,
        x,
        images,
        member.latent_mask,
        num_samples=options.num_samples,
        chunk=options.chunk,
        batch_size=options.batch_size,
        class_samples=options.class_samples,
    )


def sampling_of(model: VAE, options: EvaluationSettings) -> Sampling:
    """Returns how a model is sampled in its pictures; only chains have a choice."""
    if model.has_density:
        return Sampling()
    is_guided = model.can_be_guided and options.guidance != 1
    return Sampling(
        options.build_sampler(),
        options.guidance if is_guided else None,
        tuple(SAMPLERS.make(name) for name in SAMPLERS_SHOWN),
        SAMPLER_STEPS,
        GUIDANCE_WEIGHTS * model.can_be_guided,
    )


def measure_member(
    model: VAE, settings: Settings, params: Params, member: Member, *test: Any
) -> Measured:
    """Evaluates a member as ``evaluate_member`` does, and draws and diagnoses it."""
    keys, (x, _) = MemberKeys.of(member.key), test
    sizes = {
        "num_images": SHOWN,
        "manifold_side": MANIFOLD_SIDE,
        "num_walks": WALKS,
        "num_steps": STEPS,
        "num_classes": CLASSES,
    }
    asked: dict[str, Any] = {
        "decompose": settings.diagnostics.latents,
        "num_permutations": settings.diagnostics.permutations,
    }
    sampling = sampling_of(model, settings.evaluation)
    return Measured(
        evaluate_member(model, settings.evaluation, params, member, *test),
        draw(
            model,
            params,
            keys.pictures,
            x,
            member.latent_mask,
            sampling=sampling,
            **sizes,
        ),
        measure_latent_use(
            model, params, keys.diagnose, x, member.latent_mask, **asked
        ),
    )


def constant_output_baseline(
    settings: Settings, likelihood: Likelihood, images: Images
) -> np.ndarray:
    """Returns -log p(x) of the test images under the best output without latents.

    In nats in the likelihood's view, ``[M]``; NaN if ``diagnostics.floor`` is off. With
    many pixels the search takes longer than an epoch.

    NaN also for a model with classes: its decoder knows the class, so that it improves
    on an output without one even if it makes no use of its latents.
    """
    if not settings.diagnostics.floor or settings.model.condition_on:
        return np.full(len(images.test), np.nan)
    train_x = (
        images.pixel_mean[None]
        if likelihood.view == "binary"
        else images.view(likelihood.view, views.TRAIN)
    )
    test_x = images.view(likelihood.view, views.TEST)
    fit = jax.jit(functools.partial(likelihood_floor, likelihood))
    return np.asarray(fit(images.pixel_mean, images.pixel_std, train_x, test_x))
