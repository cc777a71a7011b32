"""Convolutions as matrix products, which XLA compiles well on a CPU.

There its own convolutions take 10 to 20 times as long, with their gradients and inside
of a loop such as a compiled epoch (docs/benchmarks.md).
"""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# How convolutions are computed: 'auto', as matrix products on a CPU and as 'grouped'
# elsewhere; or everywhere as XLA's own, those of members that are mapped together as
# one convolution with the members' features in groups ('grouped', as ``vmap`` has it),
# or one convolution for each member ('unrolled').
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
    """``jax.lax.conv_general_dilated`` of images; on a CPU, as matrix products.

    The platform is that for which a program is compiled. On a CPU, outputs are a sum
    over the kernel's weights of the images, shifted, times a matrix. With dilation (a
    transposed convolution) they fall into classes by row and column modulo the
    dilation, each of which meets its own part of the kernel: no product with the zeros
    in between is taken.

    Args:
        images: ``[batch, height, width, inputs]``.
        kernel: ``[rows, columns, inputs, outputs]``, no smaller than the dilation.
        strides: of the outputs, vertical and horizontal.
        padding: as there.
        form: one of ``FORMS``.
        lhs_dilation: distances of the images' pixels; height and width of the outputs
            are to be multiples of it.
        **options: the others of ``jax.lax.conv_general_dilated``, which are to be what
            Flax gives by default.

    Returns:
        ``[batch, height, width, outputs]``.

    Raises:
        ValueError: a dilated kernel, or features or batches in groups.
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
    """Returns a function in two forms, of which a program has the one of its platform.

    So have its gradients: differentiated as a whole, the choice would keep for the
    backward pass all that either form needs there.
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
    """Returns a convolution that is one for each member if kernels are mapped."""
    return _with_gradient(_one_by_one(convolution), _one_by_one(_gradient(convolution)))


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that is called for each of many mapped second arguments."""
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
    """Returns the gradients of a function: of its arguments and then a cotangent."""

    def gradient(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        *primals, cotangent = arguments
        gradients: tuple[jax.Array, ...] = jax.vjp(function, *primals)[1](cotangent)
        return gradients

    return gradient


def _with_gradient(
    function: Callable[..., jax.Array], gradient: Callable[..., tuple[jax.Array, ...]]
) -> Callable[..., jax.Array]:
    """Returns a function whose gradients are those of another, as in ``_gradient``."""

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
    """Returns what ``convolve`` does, as a sum of matrix products."""
    window = kernel.shape[:2]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], window, strides, padding)
    rows, columns = itertools.starmap(
        _Axis, zip(images.shape[1:3], window, strides, padding, dilation, strict=True)
    )
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    # Images are shifted, then multiplied; or if that leaves fewer numbers to shift,
    # the products are.
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
        """Those that a class of outputs meets: (index, first pixel of the images)."""
        low = self.padding[0]
        return [
            (i, low + (which + i - low) // self.dilation)
            for i in range(self.window)
            if (which + i - low) % self.dilation == 0
        ]


def _cut(
    images: jax.Array, rows: _Axis, top: int, columns: _Axis, left: int
) -> jax.Array:
    """The pixels from (top, left) on that one weight meets."""
    bottom = top + (rows.outputs_of_class - 1) * rows.stride + 1
    right = left + (columns.outputs_of_class - 1) * columns.stride + 1
    return images[:, top : bottom : rows.stride, left : right : columns.stride]


def _times(images: jax.Array, matrix: jax.Array) -> jax.Array:
    """Products over channels, of images as one long matrix; summed in float32."""
    flat = images.reshape(-1, images.shape[-1])
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    product = jnp.tensordot(flat, matrix, axes=1, preferred_element_type=dtype)
    return product.reshape(*images.shape[:-1], *matrix.shape[1:])
