"""Refusals of values: one line that names the value and the remedy."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax


def is_keys(values: Any) -> bool:
    """Returns whether values are typed keys, one or an array of them."""
    return isinstance(values, jax.Array) and jax.dtypes.issubdtype(
        values.dtype, jax.dtypes.prng_key
    )


def require_count(name: str, value: Any, smallest: int = 1) -> None:
    """Refuses a value that is not a whole number, or too small.

    Raises:
        ValueError: naming it.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < smallest:
        raise ValueError(
            f"{name} is {value!r}: it must be a whole number of at least {smallest}."
        )


def require_counts(name: str, values: Any, length: int = -1) -> tuple[int, ...]:
    """Returns whole numbers as a tuple; refuses other values or another length.

    Args:
        name: of the values, for messages.
        values: a sequence of numbers of at least 1.
        length: how many there must be; -1: any number.

    Raises:
        ValueError: naming them.
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
        ValueError: naming it.
    """
    if not is_keys(value) or value.shape:
        raise ValueError(
            f"{name} is {' '.join(repr(value).split())}: it must be one typed key. "
            "Give one as jax.random.key(0) is."
        )


def require_type(name: str, value: Any, kind: Any, example: str) -> None:
    """Refuses a value that is not of a type.

    Raises:
        ValueError: naming it, and an example of what makes one.
    """
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} is {' '.join(repr(value).split())}: it must be of type "
            f"{kind.__name__}. Give {example}."
        )
