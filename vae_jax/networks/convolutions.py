"""Convolutions as matrix products, which XLA compiles well on a CPU.

On a CPU, XLA's own convolutions with their gradients take 10 to 20 times as long inside
a loop such as a compiled epoch (docs/benchmarks.md).
"""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# How convolutions are computed:
# - 'grouped': as XLA's own; members that are mapped together share one convolution,
#   with the features of each member as a group, as ``vmap`` does it;
# - 'unrolled': as XLA's own, with one convolution for each member;
# - 'auto': as matrix products on a CPU, and as 'grouped' on other platforms.
FORMS = ("auto", "grouped", "unrolled")


def convolve(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    form: str = "auto",
    lhs_dilation: Sequence[int] = (1, 1),
    **options: Any,
) -> jax.Array:
    """Returns ``jax.lax.conv_general_dilated``; on a CPU, by matrix products.

    The platform is the one for which a program is compiled. On a CPU, the output is a
    sum over the places of the kernel: the images, shifted, times a matrix. With
    dilation (a transposed convolution), the outputs fall into classes by row and column
    modulo the dilation. Each class uses its own part of the kernel, so no product with
    the zeros between pixels is computed.

    Args:
        images: ``[batch, height, width, inputs]``.
        kernel: ``[rows, columns, inputs, outputs]``, no smaller than the dilation.
        strides: of the outputs, vertical and horizontal, in pixels.
        padding: as in ``jax.lax.conv_general_dilated``.
        form: one of ``FORMS``.
        lhs_dilation: distances between the images' pixels; height and width of the
            outputs must be multiples of it.
        **options: the other options of ``jax.lax.conv_general_dilated``, which must
            have the values that Flax gives by default.

    Returns:
        ``[batch, height, width, outputs]``.

    Raises:
        ValueError: the kernel is dilated, or features or batches are in groups.
    """
    for name in ("rhs_dilation", "feature_group_count", "batch_group_count"):
        if not np.all(np.equal(options.get(name) or 1, 1)):
            raise ValueError(
                f"{name} is {options[name]}: there are no such convolutions here; use "
                "jax.lax.conv_general_dilated."
            )
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    product = functools.partial(
        _as_products, strides=strides, padding=padding, dilation=lhs_dilation
    )
    convolution: Callable[..., jax.Array] = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        **options,
    )
    if form == "auto":
        return _by_platform(product, convolution)(images, kernel)
    if form == "unrolled":
        return _unrolled(convolution)(images, kernel)
    return convolution(images, kernel)


def _by_platform(
    cpu: Callable[..., jax.Array], default: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
    """Returns a function with two forms; a program contains the one for its platform.

    The gradient makes the same choice by a rule of its own. If JAX differentiated the
    choice instead, both forms would store their arrays for the backward pass.
    """

    def choose(*arguments: jax.Array) -> jax.Array:
        chosen: jax.Array = jax.lax.platform_dependent(
            *arguments, cpu=cpu, default=default
        )
        return chosen

    def choose_gradient(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        gradients: tuple[jax.Array, ...] = jax.lax.platform_dependent(
            *arguments, cpu=_gradient(cpu), default=_gradient(default)
        )
        return gradients

    return _with_gradient(choose, choose_gradient)


def _unrolled(convolution: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Returns a function with one convolution for each member if kernels are mapped."""
    return _with_gradient(_one_by_one(convolution), _one_by_one(_gradient(convolution)))


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function whose ``vmap`` over the second argument is a Python loop."""
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def _(size: int, is_mapped: Sequence[bool], *arguments: jax.Array) -> Any:
        if is_mapped[1]:
            each = [
                mapped(
                    *(
                        argument[i] if has_axis else argument
                        for argument, has_axis in zip(arguments, is_mapped, strict=True)
                    )
                )
                for i in range(size)
            ]
            results = jax.tree.map(lambda *own: jnp.stack(own), *each)
        else:
            axes = tuple(0 if has_axis else None for has_axis in is_mapped)
            results = jax.vmap(function, axes)(*arguments)
        return results, jax.tree.map(lambda _: True, results)

    return mapped


def _gradient(
    function: Callable[..., jax.Array],
) -> Callable[..., tuple[jax.Array, ...]]:
    """Returns the gradients of a function, given its arguments and a cotangent."""

    def gradient(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        *primals, cotangent = arguments
        gradients: tuple[jax.Array, ...] = jax.vjp(function, *primals)[1](cotangent)
        return gradients

    return gradient


def _with_gradient(
    function: Callable[..., jax.Array], gradient: Callable[..., tuple[jax.Array, ...]]
) -> Callable[..., jax.Array]:
    """Returns a function with the given gradients, in the form of ``_gradient``."""

    @jax.custom_vjp
    def apply(*arguments: jax.Array) -> jax.Array:
        return function(*arguments)

    apply.defvjp(
        lambda *arguments: (function(*arguments), arguments),
        lambda arguments, cotangent: gradient(*arguments, cotangent),
    )
    return apply


def _as_products(
    images: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> jax.Array:
    """Returns the result of ``convolve``, as a sum of matrix products."""
    window = kernel.shape[:2]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], window, strides, padding)
    rows, columns = itertools.starmap(
        _Axis, zip(images.shape[1:3], window, strides, padding, dilation, strict=True)
    )
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    # Images are shifted and then multiplied. If the products are fewer numbers than the
    # images, they are multiplied first and then shifted.
    products = None
    if kernel.shape[3] < kernel.shape[2] and {*strides, *dilation} == {1}:
        products = _times(images, jnp.moveaxis(kernel, 2, 0))  # [..., *window, outputs]

    def term(row: tuple[int, int], column: tuple[int, int]) -> jax.Array:
        (i, top), (j, left) = row, column
        if products is not None:
            return _cut(products[..., i, j, :], rows, top, columns, left)
        return _times(_cut(images, rows, top, columns, left), kernel[i, j])

    def one_class(a: int, b: int) -> jax.Array:
        pairs = itertools.product(rows.weights(a), columns.weights(b))
        return functools.reduce(operator.add, itertools.starmap(term, pairs))

    classes = [
        jnp.stack([one_class(a, b) for b in range(columns.dilation)], axis=3)
        for a in range(rows.dilation)
    ]
    outputs = jnp.stack(classes, axis=2)  # [batch, rows, classes, columns, classes, F]
    outputs = outputs.reshape(len(images), rows.outputs, columns.outputs, -1)
    return outputs.astype(images.dtype)


class _Axis(NamedTuple):
    """Rows or columns of a convolution."""

    size: int  # of the images
    window: int
    stride: int
    padding: tuple[int, int]
    dilation: int

    @property
    def outputs(self) -> int:
        dilated = self.dilation * (self.size - 1) + 1 + sum(self.padding)
        return (dilated - self.window) // self.stride + 1

    @property
    def outputs_of_class(self) -> int:
        return self.outputs // self.dilation

    def weights(self, which: int) -> list[tuple[int, int]]:
        """Returns the weights that a class uses: (index, first pixel of the images)."""
        low = self.padding[0]
        return [
            (i, low + (which + i - low) // self.dilation)
            for i in range(self.window)
            if (which + i - low) % self.dilation == 0
        ]


def _cut(
    images: jax.Array, rows: _Axis, top: int, columns: _Axis, left: int
) -> jax.Array:
    """Returns the pixels that one weight multiplies; the first is at (top, left)."""
    bottom = top + (rows.outputs_of_class - 1) * rows.stride + 1
    right = left + (columns.outputs_of_class - 1) * columns.stride + 1
    return images[:, top : bottom : rows.stride, left : right : columns.stride]


def _times(images: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns products over channels, of images as one matrix; sums are in float32."""
    flat = images.reshape(-1, images.shape[-1])
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    product = jnp.tensordot(flat, matrix, axes=1, preferred_element_type=dtype)
    return product.reshape(*images.shape[:-1], *matrix.shape[1:])
