"""Measures whole sweeps: several ways to train one, and the main job."""

import json
import tempfile
from collections.abc import Sequence

from benchmarks import machine
from benchmarks.sweep_process import Asked, Timings
from benchmarks.tables import spread, table
from benchmarks.work import Work

MEMBERS = tuple((latent, beta) for latent in (2, 8, 16, 32) for beta in (1.0, 4.0))
OURS = "one group: compiled once"

# How each way splits the members: into processes, and each process into programs.
_ONE_BY_ONE = tuple((member,) for member in MEMBERS)
WAYS: dict[str, Sequence[Sequence[Sequence[tuple[int, float]]]]] = {
    OURS: [[MEMBERS]],
    "one process, each member compiled": [_ONE_BY_ONE],
    "one process per member": [[group] for group in _ONE_BY_ONE],
}


def section(
    work: Work, epochs: int, repeats: int
) -> tuple[str, dict[str, list[float]]]:
    """Compares ways to train eight members; returns the report and times over ours."""
    taken: dict[str, list[Timings]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, processes in WAYS.items():
            taken[way].append(_run(work, epochs, processes))
    rows, all_ratios = [], {}
    for way, timings in taken.items():
        total = [each.total for each in timings]
        ratios = [a / b.total for a, b in zip(total, taken[OURS], strict=True)]
        all_ratios[way] = ratios
        rows.append(
            [
                way,
                spread(total, 1),
                spread([each.compiling for each in timings], 1),
                spread([each.training for each in timings], 1),
                spread(ratios, 1),
            ]
        )
    header = ("8 members", "total, s", "compiling", "training", "times ours")
    del all_ratios[OURS]
    return table(header, rows), all_ratios


def _run(
    work: Work,
    epochs: int,
    processes: Sequence[Sequence[Sequence[tuple[int, float]]]],
) -> Timings:
    total = compiling = training = 0.0
    for groups in processes:
        asked = Asked(work.to_json(), epochs, groups)
        finished = machine.run(
            ["-m", "benchmarks.sweep_process", json.dumps(asked)],
            work.threads,
            work.platform,
        )
        answer = finished.answer()
        total += finished.seconds
        compiling += answer["compiling"]
        training += answer["training"]
    return Timings(total, compiling, training)


def main_job(threads: int, platform: str) -> str:
    """Measures time and memory of ``python -m experiments.sweep`` in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "experiments.sweep", f"--workdir={folder}/sweep"]
        finished = machine.run(command, threads, platform)
    return table(
        ("the main job", "total, s", "peak memory, GiB"),
        [
            [
                "`python -m experiments.sweep`",
                f"{finished.seconds:.0f}",
                f"{finished.peak_bytes / 2**30:.2f}",
            ]
        ],
    )
