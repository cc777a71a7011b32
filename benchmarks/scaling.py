"""Measures the cost of each further member in one compiled program."""

import dataclasses
from collections.abc import Sequence

from benchmarks.race import Contender, race
from benchmarks.tables import mebibytes, spread, table
from benchmarks.work import Work


def work(given: Work) -> Work:
    """Returns the work of each member: the given one, or on a CPU a small part of it.

    On a CPU, a step of the given work keeps the cores busy by itself.
    """
    if given.platform != "cpu":
        return given
    return dataclasses.replace(
        given, widths=(64,), num_images=min(2000, given.num_images)
    )


def section(work: Work, counts: Sequence[int], repeats: int) -> str:
    """Returns the section of the report: members mapped together against one alone."""
    contenders = [
        Contender(f"{count:,}", "ours", str(count)) for count in sorted({1, *counts})
    ]
    records = race(contenders, work, repeats)
    alone = records[0]
    if alone.failure:
        raise RuntimeError(f"one member: {alone.failure}")
    rows = []
    for record in records:
        if record.failure:
            rows.append([record.contender.title, f"not run: {record.failure}", *"––––"])
            continue
        ratios = record.ratios(alone)
        gains = [int(record.contender.variant) / ratio for ratio in ratios]
        rows.append(
            [
                record.contender.title,
                spread(record.timed, 3),
                spread(ratios),
                spread(gains, 1),
                f"{record.start:.1f}",
                mebibytes(record.peak_bytes),
            ]
        )
    header = (
        "members",
        "s per epoch of all",
        "times one alone",
        "members per time of one",
        "start, s",
        "process, MiB",
    )
    return table(header, rows)
