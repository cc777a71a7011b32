"""Claims of the theory, each predicted, measured and judged."""

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
        statement: in plain words, with its unit if it has one.
        predicted: the value by theory or by an exact computation, as shown.
        measured: the program's value, as shown.
        holds: the verdict.
    """

    statement: str
    predicted: str
    measured: str
    holds: bool


@dataclasses.dataclass(frozen=True)
class Story:
    """The results of a program.

    Attributes:
        claims: with their verdicts.
        numbers: what the page's text quotes, by name: numbers, text, or tables as
            lists of rows.
        figures: by name.
    """

    claims: tuple[Claim, ...]
    numbers: dict[str, Any]
    figures: dict[str, Figure]


def equal(
    statement: str, predicted: float, measured: float, *, within: float, digits: int = 3
) -> Claim:
    """Claims that two numbers agree.

    Args:
        statement: names the number.
        predicted: the exact or theoretical value.
        measured: the program's value.
        within: the largest absolute difference that holds, such as three standard
            errors.
        digits: shown after the point.
    """
    return Claim(
        statement,
        f"{predicted:.{digits}f}",
        f"{measured:.{digits}f} (within {within:.1g})",
        math.isfinite(measured) and abs(predicted - measured) <= within,
    )


def equal_mean(
    statement: str, predicted: float, values: ArrayLike, *, digits: int = 3
) -> Claim:
    """Claims that independent values ``[N]`` have a mean, within 3 standard errors."""
    mean, error = mean_and_error(values)
    return equal(statement, predicted, mean, within=3 * error, digits=digits)


def same(statement: str, predicted: str | int, measured: str | int) -> Claim:
    """Claims that two counts or words are the same."""
    return Claim(statement, str(predicted), str(measured), predicted == measured)


def below(statement: str, bound: float, measured: ArrayLike) -> Claim:
    """Claims that a number, or the largest of several, is at most the bound."""
    largest = float(np.max(measured))
    holds = math.isfinite(largest) and bool(largest <= bound)
    return Claim(statement, f"<= {bound:.3g}", f"{largest:.3g}", holds)


def above(statement: str, bound: float, measured: float) -> Claim:
    """Claims that a number is larger than the bound."""
    holds = math.isfinite(measured) and bool(measured > bound)
    return Claim(statement, f"> {bound:.3g}", f"{measured:.3g}", holds)


def mean_and_error(values: ArrayLike) -> tuple[float, float]:
    """Returns the mean of independent values ``[N]`` and its standard error."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))
