"""The precision of matrix products in measurements."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

_Function = TypeVar("_Function", bound=Callable[..., Any])


def float32_products(function: _Function) -> _Function:
    """Decorates a measurement: its matrix products have the precision of float32.

    On GPUs and TPUs, JAX's default products of float32 round their factors (to TF32 and
    bfloat16). This is good enough for training, but reported values of some thousand
    nats must be right to less than 0.1 nats. Products of bfloat16, in networks that
    compute in it, do not change.
    """
    exact: _Function = jax.default_matmul_precision("float32")(function)
    return exact
