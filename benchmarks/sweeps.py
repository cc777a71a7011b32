"""Measures whole sweeps: several ways to train one, and the main job."""

import json
import tempfile
from collections.abc import Mapping, Sequence

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
    """Measures ``python -m experiments.sweep``, and where its CPU time goes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        kept = {
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/programs",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        ways = {
            "first start": ("first", 0),
            "programs kept": ("second", 0),
            "programs kept, one lane": ("third", 1),
            "everything finished before": ("second", 0),
        }
        for way, (place, lanes) in ways.items():
            command = ["-m", "experiments.sweep", f"--workdir={folder}/{place}"]
            command += [f"--config.parallel.lanes={lanes}"]
            finished = machine.run(command, threads, platform, kept)
            numbers = finished.seconds, finished.cpu_seconds
            memory = f"{finished.peak_bytes / 2**30:.2f}"
            rows.append([way, *(f"{number:.0f}" for number in numbers), memory])
        header = ("`python -m experiments.sweep`", "total, s", "CPU, s", "memory, GiB")
        process = machine.run(["-m", "benchmarks.stages_process"], 1, platform, kept)
    return f"{table(header, rows)}\n\n{_stages(process.answer())}"


def _stages(taken: Mapping[str, Mapping[str, float]]) -> str:
    """Returns a table of the CPU time of each stage, by likelihood."""
    stages = list(next(iter(taken.values())))
    rows = [
        [likelihood, *(f"{seconds[stage]:.1f}" for stage in stages)]
        for likelihood, seconds in taken.items()
    ]
    sums = [sum(seconds[stage] for seconds in taken.values()) for stage in stages]
    rows.append(["**all**", *(f"**{total:.0f}**" for total in sums)])
    header = ("CPU seconds of a group", *stages)
    return (
        "By stage, with the programs kept, on one core: *compiling* is tracing, "
        "lowering and reading the programs. Training is measured on a tenth of the "
        f"epochs.\n\n{table(header, rows)}"
    )
