"""Right before fast: closed forms, the CPU's numbers, and the same bits twice."""

import json
import os

import jax
import numpy as np

from benchmarks import machine
from benchmarks.accelerator.bits_process import Asked
from benchmarks.accelerator.programs import vae
from benchmarks.accelerator.records import Facts, Record
from benchmarks.accelerator.setting import Setting
from benchmarks.accelerator.text import not_measured, verdict
from benchmarks.tables import spread, table
from benchmarks.work import SIDE
from vae_jax import views
from vae_jax.evidence import (
    LinearGaussian,
    annealed_estimate,
    importance_estimate,
    sigmoid_schedule,
)
from vae_jax.fitting import fit
from vae_jax.per_image import map_images
from vae_jax.population import Layout, Population, member_keys
from vae_jax.training import TrainingConfig

TITLE = "Right before fast"
ABOUT = "closed forms, the CPU's numbers, and the same bits twice, before any time."

MOST_NATS = 0.01  # a tenth of the accuracy that two-sided bounds are reported with
MOST_RELATIVE = 1e-5
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"

_LIKELIHOODS = (
    "bernoulli",
    "continuous_bernoulli",
    "gaussian_fixed",
    "laplace",
    "discretized_logistic",
)


def measure(setting: Setting, record: Record) -> None:
    """Measures all pieces."""
    record.piece("closed form", _closed_form, setting)
    for name in setting.size(_LIKELIHOODS, _LIKELIHOODS[:1]):
        record.piece(f"one step, {name}", _one_step, setting, name)
    record.piece("trained bound", _trained, setting, minutes=2)
    for name, flag in (("bits", ""), ("bits, deterministic", DETERMINISTIC)):
        record.piece(name, _bits, setting, flag, minutes=2)


def _closed_form(setting: Setting) -> Facts:
    """Compares estimates of a linear-Gaussian model with its exact log p(x).

    Its encoder is the exact posterior, so every importance weight is p(x), and so is
    that of every chain: the estimates have no variance, and err by rounding alone.
    """
    count = setting.size(1000, 60)
    levels = 256
    train, x = (
        views.shared_draw("continuous", which, images[:count], levels)
        for which, images in ((views.TRAIN, setting.train), (views.TEST, setting.test))
    )
    exact = LinearGaussian.fit(np.asarray(train), setting.size(20, 4))
    expected = exact.log_prob(np.asarray(x))
    model, params = exact.to_vae((SIDE, SIDE, 1), levels)

    @jax.jit
    def estimates(x):
        def one_image(key, x):
            importance = importance_estimate(
                model, params, key, x, num_samples=64, chunk=64
            )
            annealed = annealed_estimate(
                model,
                params,
                key,
                x,
                schedule=sigmoid_schedule(setting.size(10, 2)),
                num_chains=4,
                initial="posterior",
            )
            return importance.log_px, annealed.log_px

        return map_images(one_image, jax.random.key(0), x, batch_size=100)

    importance, annealed = (np.asarray(each, np.float64) for each in estimates(x))
    return {
        "images": len(expected),
        "log p(x)": float(expected.mean()),
        "importance-weighted": float(np.abs(importance - expected).max()),
        "annealed": float(np.abs(annealed - expected).max()),
    }


def _one_step(setting: Setting, likelihood: str) -> Facts:
    """Takes the same step of the same members on the CPU and on the device."""
    images = setting.train[: setting.size(128, 16)]
    widths = setting.size((400,), (8,))
    latents = (2, 8, 20)
    statistics = views.pixel_statistics(images, 256)
    start, found = None, []
    for device in setting.both:
        population = Population(
            [vae(likelihood, latent_dim=size, widths=widths) for size in latents],
            TrainingConfig(batch_size=len(images), num_epochs=1),
            len(images),
            keys=member_keys(np.arange(len(latents), dtype=np.uint32)),
            beta=[0.5, 1.0, 2.0],
            learning_rate=[1e-3] * len(latents),
            layout=Layout.of(len(latents), [device]),
            execution="map",
        )
        place = population.placement
        if start is None:  # On the CPU, for both.
            program = population.compile_init(*statistics)
            start = place.fetch(population.init(program, *statistics))
        on_device = place.place_shared(images)
        with jax.default_matmul_precision("float32"):
            epoch = population.compile_epoch(on_device)
        state = place.place(place.pad(start))
        _, metrics = epoch(state, population.placed_members, on_device)
        found.append(jax.tree.leaves(place.fetch(metrics)))
    differences = [
        np.abs(ours - reference) / np.maximum(np.abs(reference), 1)
        for reference, ours in zip(found[0], found[-1], strict=True)
    ]
    return {"relative": float(np.max(differences))}


def _trained(setting: Setting) -> Facts:
    """Trains the same members on the CPU and on the device, TF32 off."""
    size = setting.size(10_000, 120)
    model = vae(latent_dim=8, widths=setting.size((128,), (8,)))
    config = TrainingConfig(batch_size=setting.size(100, 20), num_epochs=10)
    bounds = []
    for device in setting.both:
        with jax.default_matmul_precision("float32"):
            trained = fit(
                model, setting.train[:size], config, seeds=range(4), devices=[device]
            )
        test = setting.test[: setting.size(1000, 30)]
        bounds.append([float(each.elbo(test, 50).mean()) for each in trained])
    return {"cpu": bounds[0], "device": bounds[-1]}


def _bits(setting: Setting, flag: str) -> Facts:
    """Trains the same members in two processes, twice in each."""
    asked = Asked(
        members=setting.size(8, 2),
        widths=setting.size((400,), (8,)),
        num_images=setting.size(12_800, 256),
        epochs=setting.size(5, 1),
    )
    digests, seconds = [], []
    for _ in range(setting.size(2, 1)):
        finished = machine.run(
            ["-m", "benchmarks.accelerator.bits_process", json.dumps(asked)],
            setting.threads,
            setting.platform,
            {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}"},
        )
        answer = finished.answer()
        digests += answer["digests"]
        seconds += answer["seconds"]
    return {"runs": len(digests), "distinct": len(set(digests)), "seconds": seconds}


def section(pieces: dict[str, Facts]) -> str:
    """Returns the section of the page."""
    texts = []
    if facts := pieces.get("closed form"):
        texts.append(_closed_form_text(facts))
    steps = {name: each for name, each in pieces.items() if name.startswith("one step")}
    if steps:
        rows = [
            [name, not_measured(facts) or f"{facts['relative']:.1e}"]
            for name, facts in steps.items()
        ]
        largest = max(each.get("relative", np.inf) for each in steps.values())
        texts += [
            "The same step of the same members on the CPU and on the device, TF32 off: "
            "the largest difference of a term in nats, or of the gradient's norm, "
            "relative to its size where that is above 1.",
            table(("", "relative difference"), rows),
            verdict(f"at most {MOST_RELATIVE:g}", largest <= MOST_RELATIVE),
        ]
    if facts := pieces.get("trained bound"):
        texts.append(_trained_text(facts))
    if "bits" in pieces:
        texts.append(_bits_text(pieces))
    return "\n\n".join(texts)


def _closed_form_text(facts: Facts) -> str:
    if failure := not_measured(facts):
        return f"Closed form: {failure}."
    largest = max(facts["importance-weighted"], facts["annealed"])
    return (
        f"A linear-Gaussian model, for which log p(x) is exact (mean "
        f"{facts['log p(x)']:.1f} nats over {facts['images']:,} images): the "
        f"importance-weighted estimate is off by at most "
        f"{facts['importance-weighted']:.1e} nats, the annealed one by at most "
        f"{facts['annealed']:.1e}. "
        + verdict(f"at most {MOST_NATS:g} nats", largest <= MOST_NATS)
    )


def _trained_text(facts: Facts) -> str:
    if failure := not_measured(facts):
        return f"A trained model: {failure}."
    cpu, device = np.array(facts["cpu"]), np.array(facts["device"])
    difference, seeds = abs(device.mean() - cpu.mean()), cpu.std(ddof=1)
    return (
        f"ELBO on test images after the same training of {len(cpu)} seeds: "
        f"{cpu.mean():.3f} nats on the CPU, {device.mean():.3f} on the device, TF32 "
        f"off; standard deviation over seeds {seeds:.3f}. "
        + verdict("a difference within the seeds' spread", difference <= seeds)
    )


def _bits_text(pieces: dict[str, Facts]) -> str:
    rows, medians = [], []
    for name, flag in (
        ("bits", "no flag"),
        ("bits, deterministic", f"`{DETERMINISTIC}`"),
    ):
        facts = pieces.get(name)
        if facts is None:
            continue
        if failure := not_measured(facts):
            rows.append([flag, failure, "–"])
            continue
        same = facts["distinct"] == 1
        outcome = "the same" if same else f"{facts['distinct']} different"
        rows.append([flag, outcome, spread(facts["seconds"], 4)])
        medians.append(float(np.median(facts["seconds"])))
    text = "The same training, repeated within a process and in another one:\n\n"
    text += table(("", "bits", "s per epoch"), rows)
    if len(medians) == 2:
        text += f"\n\nThe flag multiplies the time by {medians[1] / medians[0]:.2f}."
    return text
