"""Refusals of values: one line that names the value, and what to give in its place."""

import numbers
from typing import Any

import jax


def is_keys(values: Any) -> bool:
    """Returns whether values are typed keys, one or an array of them."""
    return isinstance(values, jax.Array) and jax.dtypes.issubdtype(
        values.dtype, jax.dtypes.prng_key
    )


def require_count(name: str, value: Any, smallest: int = 1) -> None:
    """Refuses what is no whole number, or too small.

    Raises:
        ValueError: naming it.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < smallest:
        raise ValueError(
            f"{name} is {value!r}: it must be a whole number of at least {smallest}."
        )


def require_key(name: str, value: Any) -> None:
    """Refuses what is not one typed key.

    Raises:
        ValueError: naming it.
    """
    if not is_keys(value) or value.shape:
        raise ValueError(
            f"{name} is {' '.join(repr(value).split())}: it must be one typed key. "
            "Give one as jax.random.key(0) is."
        )


def require_type(name: str, value: Any, kind: type, example: str) -> None:
    """Refuses what is not of a type.

    Raises:
        ValueError: naming it, and an example of what makes one.
    """
    if not isinstance(value, kind):
        raise ValueError(
            f"{name} is {' '.join(repr(value).split())}: it must be of type "
            f"{kind.__name__}. Give {example}."
        )
