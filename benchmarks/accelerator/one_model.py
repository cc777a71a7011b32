"""One model beside torch, torch.compile and plain JAX, in three precisions."""

import dataclasses
import itertools
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks import cost_process, roofline
from benchmarks.accelerator.programs import timed_epochs
from benchmarks.accelerator.records import Facts, Record
from benchmarks.accelerator.setting import Setting
from benchmarks.accelerator.text import not_measured
from benchmarks.contenders.ours import compile_one
from benchmarks.race import Contender, race
from benchmarks.tables import spread, table
from benchmarks.work import PRECISIONS, Work

TITLE = "One model"
ABOUT = (
    "a step beside torch, torch.compile and plain JAX, in three precisions; a profile."
)

_OURS = Contender("vae_jax: one compiled program per epoch", "ours")
_SCAN = Contender("plain JAX: the Flax step in one scan per epoch", "plain_scan")
_FLAX = Contender("Flax, a jitted step per batch", "flax_steps")
_TORCH = Contender("torch, tuned: one tensor, fused Adam", "torch_loops", "tuned fused")
_COMPILED = Contender("torch, tuned, torch.compile", "torch_loops", "compiled fused")

_NETWORKS: dict[str, dict[str, Any]] = {
    "784-400-20": {},
    "the IWAE paper's network": {
        "widths": (200, 200),
        "activation": "tanh",
        "latent_dim": 50,
        "batch_size": 20,
    },
}


def measure(setting: Setting, record: Record) -> None:
    """Measures all pieces; in each of them, contenders take turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, setting.train)
        for network in setting.size(list(_NETWORKS), list(_NETWORKS)[:1]):
            work = _work(setting, str(path), network)
            for precision in setting.size(_precisions(setting), PRECISIONS[:1]):
                record.piece(
                    f"{network}, {precision}",
                    _race,
                    setting,
                    dataclasses.replace(work, precision=precision),
                    minutes=3,
                )
            record.piece(f"{network}, profile", _profile, setting, work)


def _precisions(setting: Setting) -> list[str]:
    """Returns the precisions that the device distinguishes."""
    return [name for name in PRECISIONS if name != "tf32" or setting.platform != "cpu"]


def _work(setting: Setting, path: str, network: str) -> Work:
    work = Work(
        path,
        num_images=len(setting.train),
        threads=setting.threads,
        platform=setting.platform,
        **_NETWORKS[network],
    )
    small = dataclasses.replace(work, widths=(8,), batch_size=20)
    return setting.size(work, small)


def _race(setting: Setting, work: Work) -> Facts:
    contenders = [_OURS, *setting.size([_TORCH, _COMPILED, _SCAN], []), _FLAX]
    records = race(contenders, work, setting.repeats)
    counted = cost_process.count(work)
    return {
        "steps": work.num_steps,
        "flop": counted.flop,
        "bytes": counted.bytes_accessed,
        "contenders": {
            each.contender.title: {"failure": each.failure}
            if each.failure
            else {
                "seconds": each.timed,
                "start": each.start,
                "elbo": each.laps[-1].elbo,
            }
            for each in records
        },
        "peak": setting.peaks.get(work.precision),
    }


def _profile(setting: Setting, work: Work) -> Facts:
    """Profiles an epoch: the time of kernels, and the time between them."""
    program = compile_one(work, work.images(), devices=[setting.device])
    state, _ = timed_epochs(program, 2)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            timed_epochs(program._replace(state=state), 1)
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
        kernels = [
            (event.start_ns, event.start_ns + event.duration_ns)
            for plane in profile.planes
            if plane.name.startswith("/device:")
            for line in plane.lines
            if line.name.startswith("Stream")
            for event in line.events
        ]
    if not kernels:
        return {"steps": work.num_steps, "kernels": 0}
    return {
        "steps": work.num_steps,
        "kernels": len(kernels),
        "busy": 1e-9 * busy(kernels),
        "span": 1e-9 * (max(end for _, end in kernels) - min(kernels)[0]),
    }


def busy(intervals: list[tuple[float, float]]) -> float:
    """Returns the length of a union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def section(pieces: dict[str, Facts]) -> str:
    """Returns the section of the page."""
    texts = []
    for network, precision in itertools.product(_NETWORKS, PRECISIONS):
        if facts := pieces.get(f"{network}, {precision}"):
            texts.append(f"**{network}, {precision}**")
            texts.append(not_measured(facts) or _race_text(facts))
    texts += [
        f"{name}: {_profile_text(facts)}"
        for name, facts in pieces.items()
        if name.endswith(", profile")
    ]
    return "\n\n".join(texts)


def _race_text(facts: Facts) -> str:
    contenders, steps = facts["contenders"], facts["steps"]
    ours = contenders[_OURS.title].get("seconds")
    rows = []
    for title, own in contenders.items():
        if "failure" in own:
            rows.append([title, not_measured(own), *"–––"])
            continue
        microseconds = [1e6 * each / steps for each in own["seconds"]]
        ratios = [
            a / b for a, b in zip(own["seconds"], ours or own["seconds"], strict=True)
        ]
        rows.append(
            [
                title,
                spread(microseconds, 0),
                spread(ratios) if ours else "–",
                f"{own['start']:.1f}",
                f"{own['elbo']:.2f}",
            ]
        )
    header = ("", "µs per step", "times ours", "start, s", "ELBO")
    text = table(header, rows)
    if ours:
        seconds = median(ours)
        text += (
            f"\n\nXLA counts {facts['flop'] / steps / 1e6:.0f} MFLOP and "
            f"{facts['bytes'] / steps / 1e6:.1f} MB in a step of ours: "
            f"{facts['flop'] / 1e12 / seconds:.2f} TFLOP/s and "
            f"{facts['bytes'] / 1e9 / seconds:.0f} GB/s."
        )
        if facts["peak"]:
            peak = roofline.Peak(*facts["peak"])
            counted = roofline.Counted(facts["flop"], facts["bytes"])
            share = peak.least_seconds(counted) / seconds
            text += (
                f" That is {100 * share:.0f} % of the roofline, which "
                f"{peak.bound_by(counted)} bounds."
            )
    return text


def _profile_text(facts: Facts) -> str:
    if failure := not_measured(facts):
        return failure
    if not facts["kernels"]:
        return "this platform reports no kernels."
    steps, between = facts["steps"], facts["span"] - facts["busy"]
    return (
        f"{facts['kernels'] / steps:.0f} kernels a step take "
        f"{1e6 * facts['busy'] / steps:.0f} µs; between them "
        f"{1e6 * between / steps:.0f} µs pass ({100 * between / facts['span']:.0f} %)."
    )
