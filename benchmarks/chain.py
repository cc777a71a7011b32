"""Compares training a chain of latents with its denoiser alone."""

from benchmarks.race import Contender, race
from benchmarks.tables import mebibytes, spread, table
from benchmarks.work import Work

_CONTENDERS = (
    Contender("a training step of vae_jax", "chain", "training"),
    Contender("value and gradient of the denoiser alone", "chain", "denoiser"),
)


def section(work: Work, repeats: int) -> str:
    """Returns the section of the report.

    Raises:
        RuntimeError: one of the two failed.
    """
    records = race(_CONTENDERS, work, repeats)
    for record in records:
        if record.failure:
            raise RuntimeError(f"{record.contender.title}: {record.failure}")
    _, denoiser = records
    rows = [
        [
            record.contender.title,
            spread([1e3 * seconds / work.num_steps for seconds in record.timed], 1),
            spread(record.ratios(denoiser)),
            mebibytes(record.peak_bytes),
        ]
        for record in records
    ]
    return table(("", "ms per step", "times the denoiser", "process, MiB"), rows)
