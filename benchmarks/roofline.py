"""How near an epoch comes to what the machine could do at most.

A program of F operations on B bytes takes at least max(F / peak rate, B / bandwidth):
which of the two it is, the arithmetic intensity F / B says (Williams, Waterman &
Patterson 2009, "Roofline: an insightful visual performance model").
"""

from typing import NamedTuple

from benchmarks import machine
from benchmarks.work import Work


class Counted(NamedTuple):
    """What a compiled program does, by XLA's own count."""

    flop: float
    bytes_accessed: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flop / self.bytes_accessed


class Peak(NamedTuple):
    """What a machine does at most."""

    flop_per_second: float
    bytes_per_second: float

    def least_seconds(self, counted: Counted) -> float:
        """The time below which a program cannot fall."""
        return max(
            counted.flop / self.flop_per_second,
            counted.bytes_accessed / self.bytes_per_second,
        )

    def bound_by(self, counted: Counted) -> str:
        """'arithmetic' or 'memory'."""
        balance = self.flop_per_second / self.bytes_per_second
        return "arithmetic" if counted.intensity >= balance else "memory"


def count(work: Work) -> Counted:
    """Counts an epoch of ours, in a process of its own."""
    finished = machine.run(
        ["-m", "benchmarks.cost_process", work.to_json()], work.threads, work.platform
    )
    return Counted(**finished.answer())


def describe(
    counted: Counted, hand_flop: float, seconds: float, peak: Peak | None
) -> str:
    """An epoch's operations, bytes and rates, and its share of the peak if known.

    Args:
        counted: by XLA, of the epoch.
        hand_flop: of its matrix products alone, by hand.
        seconds: that the epoch took.
        peak: of the machine.
    """
    text = (
        f"Counted by hand, the matrix products of our epoch are "
        f"{hand_flop / 1e9:.0f} GFLOP. "
        f"XLA counts {counted.flop / 1e9:.0f} GFLOP in all, and "
        f"{counted.bytes_accessed / 1e9:.0f} GB read and written, "
        f"{counted.intensity:.1f} FLOP per byte: "
        f"{counted.flop / 1e9 / seconds:.0f} GFLOP/s and "
        f"{counted.bytes_accessed / 1e9 / seconds:.0f} GB/s."
    )
    if peak:
        share = peak.least_seconds(counted) / seconds
        text += (
            f" At {peak.flop_per_second / 1e12:g} TFLOP/s and "
            f"{peak.bytes_per_second / 1e9:g} GB/s it would be bound by "
            f"{peak.bound_by(counted)}; it runs at {100 * share:.0f} % of that bound."
        )
    return text
