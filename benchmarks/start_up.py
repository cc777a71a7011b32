"""Measures the time to the first finished epoch, with compiled programs kept."""

import tempfile
import time
from collections.abc import Sequence

from benchmarks import machine
from benchmarks.start_process import Moments
from benchmarks.tables import mebibytes, spread, table

# The main job's network, one model of it.
ONE_MODEL = (
    "--config.sweep.likelihood=bernoulli",
    "--config.sweep.latent_dim=8",
    "--config.sweep.seed=0",
    "--config.training.num_epochs=1",
    "--config.training.kl_warmup_epochs=0",
    "--config.training.validate_every=1",
)
STARTS = ("first start", "second start")


def measure(
    folder: str, cache: str, threads: int, platform: str, arguments: Sequence[str]
) -> Moments:
    """Runs ``experiments.sweep`` once, with compiled programs kept in ``cache``."""
    variables = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = ["-m", "benchmarks.start_process", str(time.time()), folder]
    finished = machine.run([*command, *arguments], threads, platform, variables)
    return Moments(**finished.answer())


def section(
    threads: int, platform: str, repeats: int, arguments: Sequence[str] = ONE_MODEL
) -> str:
    """Returns the section of the report."""
    taken: dict[str, list[Moments]] = {start: [] for start in STARTS}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for i, start in enumerate(STARTS):
                taken[start].append(
                    measure(
                        f"{folder}/run{i}",
                        f"{folder}/programs",
                        threads,
                        platform,
                        arguments,
                    )
                )
    rows = []
    for start, moments in taken.items():
        times = zip(*(each[:4] for each in moments), strict=True)
        peak = max(each.peak_bytes for each in moments)
        rows.append([start, *(spread(each) for each in times), mebibytes(peak)])
    header = (
        "seconds",
        "importing",
        "loading data",
        "compiling",
        "to the first epoch's end",
        "peak memory, MiB",
    )
    return (
        "`python -m experiments.sweep` on one model of the main job, on a fresh run "
        "folder, with a persistent compilation cache that is empty at the first start. "
        "*Compiling* is the time to compile all programs before the first epoch ends, "
        "evaluation included, or to read them.\n\n" + table(header, rows)
    )
