"""The explorer: milliseconds of an image in a page's engine, and bytes of a page."""

import json
import shutil
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.tables import table
from benchmarks.work import LEVELS, PIXELS, SIDE
from experiments.explorer import models, page, programs
from vae_jax.likelihoods import make_likelihood
from vae_jax.model import make_vae
from vae_jax.trained import TrainedModel

# Likelihood and parts of each model.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "784-400-20, Bernoulli": ("bernoulli", {"widths": (400,)}),
    "784-400-20, discretized logistic": ("discretized_logistic", {"widths": (400,)}),
    "convolutions 32-64, Bernoulli": (
        "bernoulli",
        {"network": "conv", "widths": (32, 64)},
    ),
    "residual blocks 32-64, Bernoulli": (
        "bernoulli",
        {"network": "resnet", "widths": (32, 64)},
    ),
    "diffusion by a U-Net 32-64": (
        "bernoulli",
        {
            "network": "identity",
            "posterior": "noise",
            "prior": "diffusion",
            "latent_dim": PIXELS,
            "prior_options": {"denoiser": "unet", "denoiser_widths": (32, 64)},
        },
    ),
}
PROGRAMS = ("decode", "encode", "bound", "denoise")

_SCRIPT = Path(__file__).with_suffix(".js")
_SECONDS = 2.0


def section(seconds: float = _SECONDS) -> str:
    """Returns the section of the report.

    Args:
        seconds: for each program of each model.
    """
    node, rows = shutil.which("node"), []
    for name, (likelihood, parts) in MODELS.items():
        trained = _model(likelihood, parts)
        described = models.describe(trained, title=name)
        size = len(json.dumps(described, separators=(",", ":")))
        taken = _taken(node, trained, described, seconds) if node else {}
        times = [_shown(taken[p]) if p in taken else "–" for p in PROGRAMS]
        rows.append([name, *times, f"{size / 1000:,.0f}"])
    header = ("images of 28x28, 20 latents", *PROGRAMS, "kB in a page")
    scripts = len(programs.engine().encode())
    files = [*page.FOLDER.glob("*.js"), *page.FOLDER.glob("*.css")]
    others = sum(f.stat().st_size for f in files if f.name != "engine.js")
    text = (
        "Milliseconds of one image, with the least in brackets, in node, whose engine "
        "is that of Chromium: the mean image of a z, q(z|x) of an image, its ELBO from "
        f"{models.BOUND_SAMPLES} samples, and one step from noise to an image. A page "
        f"also has the engine, {scripts / 1000:.0f} kB, its other scripts and styles, "
        f"{others / 1000:.0f} kB, and test images."
    )
    if not node:
        text += " Not measured: there is no `node` on PATH."
    return f"{text}\n\n{table(header, rows)}"


def _shown(taken: list[float]) -> str:
    return f"{median(taken):.2f} ({min(taken):.2f})"


def _model(likelihood: str, parts: dict[str, Any]) -> TrainedModel:
    """Returns a model with its first parameters."""
    options: dict[str, Any] = {"latent_dim": 20} | parts
    model = make_vae(
        make_likelihood(likelihood, LEVELS), image_shape=(SIDE, SIDE, 1), **options
    )
    half = jnp.full(PIXELS, 0.5)
    params = model.init(jax.random.key(0), half, half / 2)
    return TrainedModel(model, params, jax.random.key(1))


def _taken(
    node: str, trained: TrainedModel, described: dict[str, Any], seconds: float
) -> dict[str, list[float]]:
    """Returns milliseconds of each run, by program."""
    rng, calls = np.random.default_rng(0), {}
    for name, function in models.functions(trained)[0].items():
        if name in PROGRAMS:
            calls[name] = {
                each: rng.random(like.shape).ravel().tolist()
                for each, like in function.inputs.items()
                if each not in function.defaults
            }
    asked = {
        "engine": programs.engine(),
        "model": described,
        "calls": calls,
        "seconds": seconds,
    }
    command = [node, str(_SCRIPT)]
    run = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, check=True
    )
    taken: dict[str, list[float]] = json.loads(run.stdout)
    return taken
