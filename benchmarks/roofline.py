"""Compares an epoch with the least time that the machine could take.

A program of F operations on B bytes takes at least max(F / peak rate, B / bandwidth).
The arithmetic intensity F / B decides which of the two is larger (Williams, Waterman &
Patterson 2009, "Roofline: an insightful visual performance model").
"""

from typing import NamedTuple

from benchmarks import machine
from benchmarks.work import Work


class Counted(NamedTuple):
    """The operations and bytes of a compiled program, as XLA counts them."""

    flop: float
    bytes_accessed: float

    @property
    def intensity(self) -> float:
        """Returns the operations per byte."""
        return self.flop / self.bytes_accessed


class Peak(NamedTuple):
    """The peak rates of a machine."""

    flop_per_second: float
    bytes_per_second: float

    def least_seconds(self, counted: Counted) -> float:
        """Returns the least time that a program can take, in seconds."""
        return max(
            counted.flop / self.flop_per_second,
            counted.bytes_accessed / self.bytes_per_second,
        )

    def bound_by(self, counted: Counted) -> str:
        """Returns 'arithmetic' or 'memory'."""
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
    """Describes an epoch: operations, bytes, rates, and share of the peak if known.

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
