"""What a program of the theory returns: claims, each predicted, measured and judged."""

import dataclasses
import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement that can be wrong.

    Attributes:
        statement: in plain words, with unit where there is one.
        predicted: by theory or an exact computation; as shown.
        measured: by the program; as shown.
        holds: the verdict.
    """

    statement: str
    predicted: str
    measured: str
    holds: bool


def equal(
    statement: str, predicted: float, measured: float, *, within: float, digits: int = 3
) -> Claim:
    """A claim that two numbers agree.

    Args:
        statement: what they are.
        predicted: the exact or theoretical value.
        measured: what the program found.
        within: largest absolute difference that still holds, such as three standard
            errors.
        digits: shown behind the point.
    """
    return Claim(
        statement,
        f"{predicted:.{digits}f}",
        f"{measured:.{digits}f} (within {within:.1g})",
        math.isfinite(measured) and abs(predicted - measured) <= within,
    )


def below(statement: str, bound: float, measured: float) -> Claim:
    """A claim that a number stays at or below a bound, such as a residual."""
    return Claim(
        statement,
        f"<= {bound:.3g}",
        f"{measured:.3g}",
        math.isfinite(measured) and measured <= bound,
    )


def mean_and_error(values: ArrayLike) -> tuple[float, float]:
    """The mean of independent values ``[N]`` and its standard error."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


@dataclasses.dataclass(frozen=True)
class Story:
    """What a program found.

    Attributes:
        claims: with their verdicts.
        numbers: what its page shows besides, by name: floats, text or tables as lists
            of rows.
        figures: by name.
    """

    claims: tuple[Claim, ...]
    numbers: dict[str, Any]
    figures: dict[str, Figure]
