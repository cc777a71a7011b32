"""Refusals of values, by a message of one line with the value and the remedy.

The type of a field declares once which values are allowed::

    num_groups: Annotated[int, Range(at_least=1)] = 1
    schedule: Annotated[str, ("constant", "cosine")] = "constant"

``require_fields`` refuses all others. docs/configuration.md is printed from the same
declarations.
"""

import dataclasses
import difflib
import math
import numbers
import operator
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any

import jax


def is_keys(values: Any) -> bool:
    """Returns whether values are one typed key, or an array of them."""
    return isinstance(values, jax.Array) and jax.dtypes.issubdtype(
        values.dtype, jax.dtypes.prng_key
    )


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers within bounds, and optionally one number outside them.

    Its text is a part of a sentence, such as 'at least 0 and below 1'.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    other: float | None = None  # allowed, although it is outside the bounds

    def __contains__(self, value: Any) -> bool:
        return value == self.other or (
            -math.inf < value < math.inf
            and all(_COMPARE[name](value, bound) for name, bound in self._bounds)
        )

    def __str__(self) -> str:
        words = [f"{name.replace('_', ' ')} {bound}" for name, bound in self._bounds]
        return " and ".join(words or ["finite"]) + (
            "" if self.other is None else f", or {self.other}"
        )

    @property
    def _bounds(self) -> list[tuple[str, float]]:
        bounds = [(name, getattr(self, name)) for name in _COMPARE]
        return [(name, bound) for name, bound in bounds if bound is not None]


_COMPARE = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


# A larger number is a mistake, and would need too much memory.
_MOST = 1_000_000
Count = Annotated[int, Range(at_least=1, at_most=_MOST)]
CountOrZero = Annotated[int, Range(at_least=0, at_most=_MOST)]


def require_fields(owner: Any) -> None:
    """Refuses a dataclass with a value that the type of its field does not allow.

    Raises:
        ValueError: a value is not allowed; the message names the first one.
    """
    for field in dataclasses.fields(owner):
        require_declared(field.name, getattr(owner, field.name), field.type)


def require_declared(name: str, value: Any, hint: Any) -> None:
    """Refuses a value that a type does not allow.

    Args:
        name: the name of the value, for messages.
        value: the value.
        hint: ``Annotated`` with a ``Range`` or with names; other types allow all.

    Raises:
        ValueError: the value is not allowed.
    """
    for allowed in getattr(hint, "__metadata__", ()):
        if isinstance(allowed, Range):
            whole = hint.__origin__ is int
            kind = numbers.Integral if whole else numbers.Real
            is_kind = isinstance(value, kind) and not isinstance(value, bool)
            if not is_kind or value not in allowed:
                words = f"a whole number of {allowed}" if whole else str(allowed)
                if isinstance(value, float) and not math.isfinite(value):
                    words = "finite"
                raise ValueError(f"{name} is {value!r}: it must be {words}.")
        elif isinstance(allowed, Collection):
            require_known(name, value, allowed)


def require_known(field: str, name: object, known: Collection[str]) -> None:
    """Refuses a name that is not among the known names.

    Raises:
        ValueError: the name is unknown; the message gives the nearest known name.
    """
    if name not in known:
        raise ValueError(
            f"{field} is {name!r}: it is unknown{nearest(name, known)}. Choose one of "
            f"{', '.join(name or repr(name) for name in known)}."
        )


def nearest(name: object, known: Iterable[str]) -> str:
    """Returns ' (did you mean ...?)' for the known name nearest to a name, or ''."""
    # The comparison of a long text, which is no name, would take minutes.
    close = difflib.get_close_matches(str(name)[:100], list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def require_count(name: str, value: Any, smallest: int = 1) -> None:
    """Refuses a value that is not a whole number, too small, or above a million.

    Raises:
        ValueError: the value is not allowed.
    """
    require_declared(
        name, value, Annotated[int, Range(at_least=smallest, at_most=_MOST)]
    )


def require_counts(name: str, values: Any, length: int = -1) -> tuple[int, ...]:
    """Returns whole numbers as a tuple; refuses other values or another length.

    Args:
        name: the name of the values, for messages.
        values: a sequence of whole numbers of at least 1.
        length: the required number of values; -1 allows any.

    Raises:
        ValueError: the values are not allowed.
    """
    if not isinstance(values, Sequence) or length not in (-1, len(values)):
        example = ", ".join(map(str, range(8, 8 + abs(length))))
        raise ValueError(
            f"{name} is {values!r}: it must be a tuple of whole numbers. Give it as in "
            f"({example}{',' * (length < 2)})."
        )
    for value in values:
        require_count(name, value)
    return tuple(values)


def require_key(name: str, value: Any) -> None:
    """Refuses a value that is not one typed key.

    Raises:
        ValueError: the value is not one.
    """
    if not is_keys(value) or value.shape:
        raise ValueError(
            f"{name} is {' '.join(repr(value).split())}: it must be one typed key. "
            "Give one as jax.random.key(0) is."
        )


def require_type(name: str, value: Any, kind: Any, example: str) -> None:
    """Refuses a value that is not of a type.

    Raises:
        ValueError: the value is of another type; the message gives the example.
    """
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} is {' '.join(repr(value).split())}: it must be of type "
            f"{kind.__name__}. Give {example}."
        )
