"""A sweep of many members: where its time goes, and what it leaves on disk."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.tables import mebibytes, table

_LATENT_DIMS = (2, 4, 8, 16)
_EPOCHS = 30

DESCRIPTION = (
    "The digits and the network of the main job, Bernoulli, latents "
    f"{', '.join(map(str, _LATENT_DIMS))} in equal numbers, one program, {_EPOCHS} "
    "epochs. *Training* includes the start and compilation, *storing* the evaluation, "
    "pictures and one folder for each member."
)


def section(counts: Sequence[int], threads: int, platform: str) -> str:
    """Returns the section of the report: sweeps of so many members."""
    rows = [_measure(count, threads, platform) for count in counts]
    header = (
        "members",
        "total, s",
        "training",
        "storing",
        "report",
        "peak memory, GiB",
        "folder, MiB",
        "files",
        "report.html, MiB",
    )
    return f"{DESCRIPTION}\n\n{table(header, rows)}"


def _measure(count: int, threads: int, platform: str) -> list[str]:
    seeds = range(-(-count // len(_LATENT_DIMS)))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sweep"
        started = time.time()
        finished = machine.run(
            [
                *("-m", "experiments.sweep", f"--workdir={folder}"),
                "--config.sweep.likelihood=bernoulli",
                f"--config.sweep.latent_dim={_LATENT_DIMS}",
                f"--config.sweep.seed={tuple(seeds)}",
                f"--config.training.num_epochs={_EPOCHS}",
                "--config.training.kl_warmup_epochs=10",
            ],
            threads,
            platform,
        )
        # The last row of metrics ends the training; the table follows when all is
        # stored.
        rows = folder.glob("members/*/metrics.jsonl")
        trained = max(path.stat().st_mtime for path in rows)
        stored = (folder / "results.csv").stat().st_mtime
        files = [path for path in folder.rglob("*") if path.is_file()]
        seconds = (
            finished.seconds,
            trained - started,
            stored - trained,
            started + finished.seconds - stored,
        )
        return [
            f"{len(seeds) * len(_LATENT_DIMS):,}",
            *(f"{each:.0f}" for each in seconds),
            f"{finished.peak_bytes / 2**30:.2f}",
            mebibytes(sum(path.stat().st_size for path in files)),
            f"{len(files):,}",
            mebibytes((folder / "report.html").stat().st_size),
        ]
