"""Compares members mapped together with one after another, by network width."""

from benchmarks.contenders.members import EPOCHS_PER_CALL, LATENT_DIMS, SEEDS
from benchmarks.race import Contender, Record, race
from benchmarks.tables import spread, table
from benchmarks.work import Work

WIDTHS = ("64", "128x128", "256", "512")


def section(work: Work, repeats: int) -> str:
    """Returns the section of the report."""
    rows = []
    for widths in WIDTHS:
        contenders = [
            Contender(f"{widths}, {execution}", "members", f"{widths} {execution}")
            for execution in ("map", "loop")
        ]
        mapped, looped = race(contenders, work, repeats)
        for record in (mapped, looped):
            if record.failure:
                raise RuntimeError(f"{record.contender.title}: {record.failure}")
        rows.append(
            [
                widths,
                *(spread(_milliseconds(record), 1) for record in (mapped, looped)),
                spread(looped.ratios(mapped)),
                *(f"{record.setup:.1f}" for record in (mapped, looped)),
            ]
        )
    members = len(LATENT_DIMS) * SEEDS
    header = (
        f"{members} members, widths",
        "map, ms per epoch",
        "loop, ms per epoch",
        "loop / map",
        "start map, s",
        "start loop, s",
    )
    return table(header, rows)


def _milliseconds(record: Record) -> list[float]:
    """Returns the milliseconds of an epoch of all members."""
    return [1e3 * seconds / EPOCHS_PER_CALL for seconds in record.timed]
