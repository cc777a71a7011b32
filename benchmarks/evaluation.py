"""Evaluation by importance sampling: time and memory by the number of samples."""

import dataclasses
import json
from collections.abc import Sequence

from benchmarks import machine
from benchmarks.evaluation_process import Asked, Taken
from benchmarks.tables import mebibytes, spread, table
from benchmarks.work import Work

# As in configs/mnist.py.
BATCH_SIZE, CHUNK = 50, 100


def measure(work: Work, num_samples: int, repeats: int) -> Taken:
    """Evaluates one batch of images, in a process of its own."""
    batch = dataclasses.replace(work, num_images=BATCH_SIZE)
    asked = Asked(batch.to_json(), num_samples, CHUNK, repeats)
    finished = machine.run(
        ["-m", "benchmarks.evaluation_process", json.dumps(asked)],
        work.threads,
        work.platform,
    )
    return Taken(**finished.answer())


def section(work: Work, counts: Sequence[int], repeats: int) -> str:
    """Returns the section of the report."""
    rows = []
    for count in counts:
        taken = measure(work, count, repeats)
        rows.append(
            [
                f"{count:,}",
                spread(taken.seconds, 3),
                f"{taken.compiling:.1f}",
                mebibytes(taken.program_bytes),
                mebibytes(taken.peak_bytes),
            ]
        )
    header = (
        "importance samples",
        f"s per {BATCH_SIZE} images",
        "compiling, s",
        "program, MiB",
        "process, MiB",
    )
    return (
        f"{BATCH_SIZE} images at a time, {CHUNK} samples of each decoded together. "
        "*Program* is the memory that the compiled program needs for arguments, "
        "results and temporary arrays; *process* is the largest resident set.\n\n"
        + table(header, rows)
    )
