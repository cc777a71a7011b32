"""Tables and numbers in Markdown."""

from collections.abc import Sequence
from statistics import median


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table whose first column is text and whose others are numbers."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Returns ``median (min–max)``."""
    return (
        f"{median(values):.{digits}f}"
        f" ({min(values):.{digits}f}–{max(values):.{digits}f})"
    )


def mebibytes(count: float) -> str:
    """Returns bytes as whole MiB."""
    return f"{count / 2**20:,.0f}"
