"""Measures starts: whole commands, and the time to the first finished epoch."""

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

_TINY = ("--config=configs/digits.py:tiny",)
# The arguments of each command, and its run folder. They share one cache.
COMMANDS = {
    "`--help`": (("--help",), "run"),
    "`--list`, the main job": (("--list",), "run"),
    "the tiny sweep, first start": (_TINY, "run"),
    "the same, second start": (_TINY, "another"),
    "the same, finished before": (_TINY, "another"),
}


def _kept_in(folder: str) -> dict[str, str]:
    """Returns the variables by which compiled programs are kept in a folder."""
    return {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def whole_commands(threads: int, platform: str, repeats: int) -> str:
    """Returns a table of the seconds of ``experiments.sweep``, start to end."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            variables = _kept_in(f"{folder}/programs")
            variables["VAE_JAX_CACHE"] = f"{folder}/images"
            for name, (arguments, run) in COMMANDS.items():
                command = ["-m", "experiments.sweep", f"--workdir={folder}/{run}"]
                finished = machine.run(
                    [*command, *arguments], threads, platform, variables
                )
                taken[name].append(finished.seconds)
    rows = [[name, spread(seconds)] for name, seconds in taken.items()]
    return table(("`python -m experiments.sweep`", "seconds"), rows)


def measure(
    folder: str, cache: str, threads: int, platform: str, arguments: Sequence[str]
) -> Moments:
    """Runs ``experiments.sweep`` once, with compiled programs kept in ``cache``."""
    command = ["-m", "benchmarks.start_process", str(time.time()), folder]
    variables = _kept_in(cache)
    finished = machine.run([*command, *arguments], threads, platform, variables)
    return Moments(**finished.answer())


def section(
    threads: int, platform: str, repeats: int, arguments: Sequence[str] = ONE_MODEL
) -> str:
    """Returns the section of the report: whole commands, then the first epoch's end."""
    commands = whole_commands(threads, platform, repeats)
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
        "Commands from process start to process end; at the first start the caches of "
        f"images and programs are empty.\n\n{commands}\n\n"
        "`python -m experiments.sweep` on one model of the main job, on a fresh run "
        "folder, with a persistent compilation cache that is empty at the first start. "
        "*Compiling* is the time to compile all programs before the first epoch ends, "
        "evaluation included, or to read them.\n\n" + table(header, rows)
    )
