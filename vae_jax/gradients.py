"""Values with the gradient of another formula."""

from typing import Any

import jax


@jax.custom_jvp
def scale_gradient(values: Any, scale: jax.Array) -> Any:
    """Returns ``values``, with their derivatives multiplied by ``scale``.

    Args:
        values: a tree of arrays, each of shape ``[..., *rest]``.
        scale: a factor for the leading axes, ``[...]``; it has no derivative itself.
    """
    del scale
    return values


@scale_gradient.defjvp
def _scale_gradient_jvp(
    primals: tuple[Any, jax.Array], tangents: tuple[Any, Any]
) -> tuple[Any, Any]:
    values, scale = primals

    def scaled(tangent: jax.Array) -> jax.Array:
        return tangent * scale.reshape(scale.shape + (1,) * (tangent.ndim - scale.ndim))

    return values, jax.tree.map(scaled, tangents[0])


@jax.custom_jvp
def with_gradient_of(surrogate: jax.Array, value: jax.Array) -> jax.Array:
    """Returns ``value``, bit by bit, with the derivatives of ``surrogate``.

    Both have the same shape.
    """
    del surrogate
    return value


@with_gradient_of.defjvp
def _with_gradient_of_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[1], tangents[0]
