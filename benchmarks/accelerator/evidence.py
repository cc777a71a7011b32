"""Annealed and two-sided bounds on log p(x), on the whole test set."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator.programs import vae
from benchmarks.accelerator.records import Facts, Record, timed
from benchmarks.accelerator.setting import Setting
from benchmarks.accelerator.text import not_measured
from vae_jax import views
from vae_jax.evidence import (
    annealed_estimate,
    bidirectional_estimate,
    importance_estimate,
    sigmoid_schedule,
)
from vae_jax.fitting import fit
from vae_jax.model import VAE
from vae_jax.per_image import map_images
from vae_jax.population import param_shapes
from vae_jax.training import TrainingConfig

TITLE = "log p(x) from both sides"
ABOUT = "annealed and two-sided bounds on the whole test set."

_MODEL = "model"
_NUM_PIECES = 10
_BATCH = 500  # images together; it bounds the memory
_PROGRAMS = ("importance", "annealing", "simulating")
_ESTIMATES = ("importance-weighted", "annealed", "simulated, lower", "simulated, upper")


def measure(setting: Setting, record: Record) -> None:
    """Measures all pieces: a model, then the test images in parts."""
    record.piece(_MODEL, _trained, setting, record, minutes=3)
    count = setting.size(_NUM_PIECES, 1)
    for i in range(count):
        record.piece(
            f"test images, part {i + 1} of {count}",
            _bounds,
            setting,
            record,
            i,
            count,
            minutes=2,
        )


def _trained(setting: Setting, record: Record) -> Facts:
    model = _vae(setting)
    config = TrainingConfig(
        batch_size=setting.size(128, 20), num_epochs=setting.size(50, 1)
    )
    facts: Facts = {"epochs": config.num_epochs}
    with timed(facts, "training"):
        (trained,) = fit(model, setting.train, config, devices=[setting.device])
    record.keep_arrays(_MODEL, trained.params)
    return facts


def _vae(setting: Setting) -> VAE:
    return vae(widths=setting.size((400,), (8,)), latent_dim=setting.size(20, 2))


@functools.lru_cache(maxsize=2)  # Parts differ by at most one image.
def _programs(setting: Setting, num_images: int) -> dict[str, jax.stages.Compiled]:
    """Compiles the estimates as functions of parameters, a key and images."""
    model = _vae(setting)
    samples: dict[str, Any] = setting.size(
        {"num_samples": 5000, "chunk": 100}, {"num_samples": 20, "chunk": 20}
    )
    annealing: dict[str, Any] = {
        "schedule": sigmoid_schedule(setting.size(500, 2)),
        "num_chains": setting.size(16, 2),
        "initial": "posterior",
    }

    def importance(params: Any, key: jax.Array, x: jax.Array) -> Any:
        return (importance_estimate(model, params, key, x, **samples).log_px,)

    def annealed(params: Any, key: jax.Array, x: jax.Array) -> Any:
        return (annealed_estimate(model, params, key, x, **annealing).log_px,)

    def simulated(params: Any, key: jax.Array, x: jax.Array) -> Any:
        del x  # The model draws the image.
        found = bidirectional_estimate(model, params, key, **annealing)
        return found.lower.log_px, found.upper.log_px

    def compiled(one_image: Callable[..., Any]) -> jax.stages.Compiled:
        def of_images(params: Any, key: jax.Array, x: jax.Array) -> Any:
            one = functools.partial(one_image, params)
            return map_images(one, key, x, batch_size=_BATCH)

        key = jax.eval_shape(lambda: jax.random.key(0))
        x = jax.ShapeDtypeStruct((num_images, model.num_pixels), np.float32)
        return jax.jit(of_images).lower(param_shapes(model), key, x).compile()

    estimates = (importance, annealed, simulated)
    return {name: compiled(one) for name, one in zip(_PROGRAMS, estimates, strict=True)}


def _bounds(setting: Setting, record: Record, part: int, count: int) -> Facts:
    """Returns the means of the estimates over a part of the test images, nats."""
    params = record.arrays(_MODEL, param_shapes(_vae(setting)))
    if params is None:
        raise ValueError("the trained model is missing: use --again")
    drawn = views.shared_draw("binary", views.TEST, setting.test, 256)
    x = np.array_split(np.asarray(drawn), count)[part]
    facts: Facts = {"images": len(x)}
    values: list[np.ndarray] = []
    for i, (name, compiled) in enumerate(_programs(setting, len(x)).items()):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(2), part), i)
        with timed(facts, name):
            values += map(np.asarray, compiled(params, key, x))
    lower, upper = values[2:]
    return {
        **facts,
        **{
            name: float(each.mean())
            for name, each in zip(_ESTIMATES, values, strict=True)
        },
        "squared gap": float(((upper - lower).astype(np.float64) ** 2).mean()),
    }


def section(pieces: dict[str, Facts]) -> str:
    """Returns the section of the page."""
    texts = []
    for name, facts in pieces.items():
        if failure := not_measured(facts):
            texts.append(f"{name}: {failure}.")
    if (facts := pieces.get(_MODEL, {})) and "training" in facts:
        texts.append(
            f"784-400-20, trained for {facts['epochs']} epochs in "
            f"{facts['training']:.0f} s with compilation."
        )
    parts = [facts for name, facts in pieces.items() if "images" in facts]
    if parts:
        texts.append(_bounds_text(parts))
    return "\n\n".join(texts)


def _bounds_text(parts: list[Facts]) -> str:
    counts = np.array([facts["images"] for facts in parts])

    def mean(name: str) -> float:
        return float(np.average([facts[name] for facts in parts], weights=counts))

    importance, annealed, lower, upper = map(mean, _ESTIMATES)
    gap, num_images = upper - lower, int(counts.sum())
    error = math.sqrt(max(mean("squared gap") - gap**2, 0) / num_images)
    seconds = {name: sum(facts[name] for facts in parts) for name in _PROGRAMS}
    return (
        f"{num_images:,} test images, mean of log p(x) in nats: {importance:.3f} "
        f"importance-weighted ({seconds['importance']:.0f} s), {annealed:.3f} annealed "
        f"({seconds['annealing']:.0f} s). On as many images of the model itself, the "
        f"annealed bounds from above and below differ by {gap:.3f} ± {error:.3f} "
        f"({seconds['simulating']:.0f} s)."
    )
