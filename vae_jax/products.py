"""The precision of matrix products in measurements."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

_Function = TypeVar("_Function", bound=Callable[..., Any])


def float32_products(function: _Function) -> _Function:
    """Decorates a measurement: its matrix products have the precision of float32.

    On GPUs and TPUs, JAX's default products of float32 round what they multiply (to
    TF32 and bfloat16), which training can afford. What is reported of a model is to be
    right to less than 0.1 nats of some thousands. Products of bfloat16, in networks
    that compute in it, stay what they are.
    """
    exact: _Function = jax.default_matmul_precision("float32")(function)
    return exact
