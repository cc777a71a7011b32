"""The operations that the page executes, and JAX's primitives in terms of them.

An operation is the name of a kernel in `engine.js`, the places of its inputs, and
options as numbers. The kernels are few:

===========  =======================================================================
elementwise  one loop for each formula in ``FORMULAS``; an input of one number counts
             for all
move         copies numbers to places that are an affine map of the output's place
matmul       products of matrices, ``[batch, m, k]`` times ``[batch, k, n]``
reduce       a sum, a maximum, ... over the last axis
cumulate     the sum, ... of all numbers up to each, over a middle axis
concatenate  arrays side by side
take         slices at places that are numbers of another array; outside, a third input
             fills them, or else places are clipped
scan         a program that is executed several times
===========  =======================================================================

All numbers are float32, so whole numbers are exact up to 2^24, and do not wrap around.
A conversion to bfloat16 rounds, and what is computed with its numbers is not rounded
again.

A convolution is a move, of the pixels below each place of the kernel side by side, and
a product with the kernel; the product skips zeros, those of a dilation too.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.explorer.writer import Lowering, Value, Writer, known

# JavaScript of each elementwise primitive, of inputs x, y, z; bool is 0 or 1.
FORMULAS = {
    "abs": "Math.abs(x)",
    "acos": "Math.acos(x)",
    "acosh": "Math.acosh(x)",
    "add": "x + y",
    "and": "x && y",
    "asin": "Math.asin(x)",
    "asinh": "Math.asinh(x)",
    "atan": "Math.atan(x)",
    "atan2": "Math.atan2(x, y)",
    "atanh": "Math.atanh(x)",
    "bfloat16": "bfloat16(x)",
    "cbrt": "Math.cbrt(x)",
    "ceil": "Math.ceil(x)",
    "clamp": "Math.min(Math.max(y, x), z)",
    "cos": "Math.cos(x)",
    "cosh": "Math.cosh(x)",
    "div": "x / y",
    "eq": "x === y",
    "erf": "1 - erfc(x)",
    "erfc": "erfc(x)",
    "exp": "Math.exp(x)",
    "exp2": "Math.pow(2, x)",
    "expm1": "Math.expm1(x)",
    "floor": "Math.floor(x)",
    "ge": "x >= y",
    "gt": "x > y",
    "is_finite": "Number.isFinite(x)",
    "le": "x <= y",
    "lgamma": "lgamma(x)",
    "log": "Math.log(x)",
    "log1p": "Math.log1p(x)",
    "logistic": "1 / (1 + Math.exp(-x))",
    "lt": "x < y",
    "max": "Math.max(x, y)",
    "min": "Math.min(x, y)",
    "mul": "x * y",
    "ne": "x !== y",
    "neg": "-x",
    "not": "!x",
    "or": "x || y",
    "pow": "Math.pow(x, y)",
    "rem": "x % y",
    "round": "roundToEven(x)",
    "rsqrt": "1 / Math.sqrt(x)",
    "select_n": "x ? z : y",
    "sign": "Math.sign(x)",
    "sin": "Math.sin(x)",
    "sinh": "Math.sinh(x)",
    "sqrt": "Math.sqrt(x)",
    "square": "x * x",
    "sub": "x - y",
    "tan": "Math.tan(x)",
    "tanh": "Math.tanh(x)",
    "trunc": "Math.trunc(x)",
    "xor": "x !== y",
}

_REDUCTIONS = {
    "reduce_sum": "sum",
    "reduce_prod": "product",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_and": "min",
    "reduce_or": "max",
    "argmax": "argmax",
    "argmin": "argmin",
}
_CUMULATIONS = {"cumsum": "sum", "cumprod": "product", "cummax": "max", "cummin": "min"}

# Primitives that change no number and no order.
_UNCHANGED = (
    "copy",
    "copy_p",
    "device_put",
    "name",
    "optimization_barrier",
    "reshape",
    "sharding_constraint",
    "squeeze",
    "stop_gradient",
)


def _like(shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(shape), dtype)


# --- moves ---


@dataclasses.dataclass(frozen=True)
class _Axis:
    """The coordinate of an input along one of its axes, for each place of the output.

    It is (base + the sum of step i times coordinate i of the output) / dilation. If it
    is no whole number, or outside the input, the output is filled.
    """

    base: int = 0
    steps: Mapping[int, int] = dataclasses.field(default_factory=dict)
    dilation: int = 1


def _places(
    sizes: Sequence[int], strides: Sequence[int], shape: Sequence[int], axes: Any
) -> dict[str, Any]:
    """Returns an affine map of places as the page reads it."""
    rows = []
    for size, stride, axis in zip(sizes, strides, axes, strict=True):
        steps = [int(axis.steps.get(i, 0)) for i in range(len(shape))]
        rows.append([size, stride, int(axis.base), int(axis.dilation), steps])
    return {"shape": list(shape), "axes": rows}


# Place 0 alone.
_ONE_PLACE = _places([], [], [1], [])


def _move(
    writer: Writer,
    value: Value,
    shape: Sequence[int],
    axes: Sequence[_Axis],
    *fill: Value,
) -> Value:
    """Returns the value moved; ``fill`` is one number, 0 if it is not given."""
    where = _places(value.shape, value.strides, shape, axes)
    return writer.emit("move", [value, *fill], _like(shape, value.dtype), **where)


def _transposed(writer: Writer, value: Value, order: Sequence[int]) -> Value:
    """Returns the value with its axes in another order."""
    shape = [value.shape[axis] for axis in order]
    if value.known is not None and value.place < 0:
        return known(np.transpose(value.known, order))
    moved = [axis for axis in order if value.shape[axis] > 1]
    if moved == sorted(moved):
        return value.renamed(_like(shape, value.dtype))
    axes = [_Axis(steps={order.index(axis): 1}) for axis in range(len(order))]
    return _move(writer, value, shape, axes)


def _transpose(writer: Writer, params: Any, values: Any, _: Any) -> list[Value]:
    return [_transposed(writer, values[0], list(params["permutation"]))]


def _broadcast(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    return [_widened(writer, values[0], params["broadcast_dimensions"], like[0].shape)]


def _widened(
    writer: Writer, value: Value, places: Sequence[int], shape: Sequence[int]
) -> Value:
    """Returns the value repeated along axes that it has not, or that have one number.

    Args:
        writer: of the program.
        value: to repeat.
        places: of its axes among those of the shape.
        shape: of the output.
    """
    if value.size == math.prod(shape):
        return value.renamed(_like(shape, value.dtype))
    axes = [
        _Axis(steps={place: 1} if size > 1 else {})
        for size, place in zip(value.shape, places, strict=True)
    ]
    return _move(writer, value, shape, axes)


def _slice(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (value,), (out,) = values, like
    strides = params["strides"] or [1] * len(out.shape)
    return [_cut(writer, value, params["start_indices"], strides, out.shape)]


def _cut(
    writer: Writer,
    value: Value,
    starts: Sequence[int],
    strides: Sequence[int],
    shape: Sequence[int],
) -> Value:
    if value.size == math.prod(shape):
        return value.renamed(_like(shape, value.dtype))
    axes = [
        _Axis(start, {axis: stride})
        for axis, (start, stride) in enumerate(zip(starts, strides, strict=True))
    ]
    return _move(writer, value, shape, axes)


def _split(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (value,), axis, found = values, params["axis"], []
    shape, starts = list(value.shape), [0] * len(value.shape)
    for out, size in zip(like, params.get("sizes", [1] * len(like)), strict=True):
        shape[axis] = int(size)
        cut = _cut(writer, value, starts, [1] * len(shape), shape)
        found.append(cut.renamed(out))
        starts[axis] += size
    return found


def _reverse(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (value,), (out,) = values, like
    axes = [_Axis(steps={axis: 1}) for axis in range(len(out.shape))]
    for axis in params["dimensions"]:
        axes[axis] = _Axis(out.shape[axis] - 1, {axis: -1})
    return [_move(writer, value, out.shape, axes)]


def _pad(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (value, fill), (out,) = values, like
    axes = [
        _Axis(-low, {axis: 1}, interior + 1)
        for axis, (low, _, interior) in enumerate(params["padding_config"])
    ]
    return [_move(writer, value, out.shape, axes, fill)]


def _tile(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (value,), (out,) = values, like
    for axis, count in enumerate(params["reps"]):
        shape = list(value.shape)
        shape[axis] *= count
        value = _joined(writer, [value] * count, axis, _like(shape, value.dtype))
    return [value.renamed(out)]


def _joined(writer: Writer, values: Sequence[Value], axis: int, like: Any) -> Value:
    """Returns values side by side along an axis."""
    if len(values) == 1:
        return values[0].renamed(like)
    rows = math.prod(values[0].shape[:axis])
    return writer.emit("concatenate", values, like, rows=rows)


def _concatenate(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    return [_joined(writer, values, params["dimension"], like[0])]


def _stack(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    return [_joined(writer, values, params["axis"], like[0])]


def _take(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (value, indices), (out,), numbers = values, like, params["dimension_numbers"]
    batch = indices.shape[:-1]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(value.shape)) if axis not in gone]
    window = [params["slice_sizes"][axis] for axis in kept]
    pairs = dict(
        zip(
            numbers.operand_batching_dims,
            numbers.start_indices_batching_dims,
            strict=True,
        )
    )
    sizes, strides = value.shape, value.strides

    def places(axes: Mapping[int, int], shape: Sequence[int]) -> dict[str, Any]:
        return _places(
            [sizes[axis] for axis in axes],
            [strides[axis] for axis in axes],
            shape,
            [_Axis(steps={place: 1}) for place in axes.values()],
        )

    mapped = numbers.start_index_map
    fill = []
    if params["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP:
        fill = [known(params["fill_value"], value.dtype)]
    found = writer.emit(
        "take",
        [value, indices, *fill],
        _like((*batch, *window), value.dtype),
        batch=places(pairs, batch),
        window=places({axis: i for i, axis in enumerate(kept)}, window),
        last=[sizes[axis] - params["slice_sizes"][axis] for axis in mapped],
        strides=[strides[axis] for axis in mapped],
    )
    places_of = list(numbers.offset_dims)
    order, of_batch, of_window = [], iter(range(len(batch))), iter(range(len(kept)))
    for axis in range(len(out.shape)):
        inside = axis in places_of
        order.append(len(batch) + next(of_window) if inside else next(of_batch))
    return [_transposed(writer, found, order)]


def _dynamic_slice(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (value, *starts), (out,) = values, like
    rank = len(value.shape)
    starts = [writer.emit("concatenate", starts, _like((rank,), np.int32), rows=1)]
    window = [_Axis(steps={axis: 1}) for axis in range(rank)]
    options = {
        "batch": _ONE_PLACE,
        "window": _places(value.shape, value.strides, out.shape, window),
        "last": [a - b for a, b in zip(value.shape, out.shape, strict=True)],
        "strides": value.strides,
    }
    return [writer.emit("take", [value, *starts], out, **options)]


def _scatter(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    """Writes updates at places that are known: it is done once with the places."""
    (value, indices, updates), (out,) = values, like
    if indices.known is None:
        return writer.missing("scatter at places that depend on inputs", like)
    both = value.size + updates.size
    own, new = jnp.split(jnp.arange(both), [value.size])
    inputs = own.reshape(value.shape), indices.known, new.reshape(updates.shape)
    places = jax.lax.scatter_p.bind(*inputs, **params)
    flat = [each.renamed(_like((each.size,), out.dtype)) for each in (value, updates)]
    found = writer.emit("concatenate", flat, _like((both,), out.dtype), rows=1)
    batch = {"shape": [out.size], "axes": []}
    options = {"batch": batch, "window": _ONE_PLACE, "last": [both - 1], "strides": [1]}
    return [writer.emit("take", [found, known(places)], out, **options)]


# --- products ---


def _matmul(writer: Writer, left: Value, right: Value, shape: Sequence[int]) -> Value:
    """Returns ``[batch, m, k]`` times ``[batch, k, n]``, of a shape for the same."""
    batch, k, n = right.shape
    sizes = {"batch": batch, "m": left.size // (batch * k), "k": k, "n": n}
    return writer.emit("matmul", [left, right], _like(shape, left.dtype), **sizes)


def _dot(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (left, right), (out,) = values, like
    (sums_left, sums_right), (batch_left, batch_right) = params["dimension_numbers"]
    free_left, free_right = (
        [axis for axis in range(len(each.shape)) if axis not in (*sums, *batch)]
        for each, sums, batch in (
            (left, sums_left, batch_left),
            (right, sums_right, batch_right),
        )
    )
    left = _transposed(writer, left, [*batch_left, *free_left, *sums_left])
    n = math.prod(right.shape[axis] for axis in free_right)
    k = math.prod(right.shape[axis] for axis in sums_right)
    right = _transposed(writer, right, [*batch_right, *sums_right, *free_right])
    batch = right.size // (k * n)
    right = right.renamed(_like((batch, k, n), right.dtype))
    return [_matmul(writer, left, right, out.shape)]


def _convolution(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (image, kernel), (out,) = values, like
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if params["batch_group_count"] != 1:
        return writer.missing("conv_general_dilated in batch groups", like)
    batch_axis, feature_axis, *rows = numbers.lhs_spec
    out_channels, in_channels, *window_axes = numbers.rhs_spec
    channels = kernel.shape[in_channels]  # of one group
    spatial = [out.shape[axis] for axis in numbers.out_spec[2:]]
    window = [kernel.shape[axis] for axis in window_axes]
    # The pixels below each place of the kernel: [groups, N, *spatial, *window, C].
    shape = [groups, image.shape[batch_axis], *spatial, *window, channels]
    first, last = 2 + len(spatial), len(shape) - 1
    axes = [_Axis()] * len(image.shape)
    axes[batch_axis] = _Axis(steps={1: 1})
    axes[feature_axis] = _Axis(steps={0: channels, last: 1})
    strides, spread = params["window_strides"], params["rhs_dilation"]
    for i, axis in enumerate(rows):
        steps = {2 + i: strides[i], first + i: spread[i]}
        axes[axis] = _Axis(-params["padding"][i][0], steps, params["lhs_dilation"][i])
    patches = _move(writer, image, shape, axes)
    kernel = _transposed(writer, kernel, [*window_axes, in_channels, out_channels])
    k, n = math.prod(kernel.shape[:-1]), kernel.shape[-1] // groups
    kernel = kernel.renamed(_like((k, groups, n), kernel.dtype))
    kernel = _transposed(writer, kernel, [1, 0, 2])
    shape = [groups, *shape[1:first], n]
    found = _matmul(writer, patches, kernel, shape)
    # [groups, N, *spatial, n] -> [N, *spatial, groups, n] -> as the output is.
    found = _transposed(writer, found, [*range(1, first), 0, first])
    found = found.renamed(_like((*shape[1:first], groups * n), found.dtype))
    places = [0, first - 1, *range(1, first - 1)]  # of the axes of out_spec
    order = [places[numbers.out_spec.index(axis)] for axis in range(len(places))]
    return [_transposed(writer, found, order).renamed(out)]


# --- the rest ---


def _reduce(name: str) -> Lowering:
    def lowered(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
        (value,), (out,), axes = values, like, params["axes"]
        if name in ("reduce_and", "reduce_or") and value.dtype != bool:
            return writer.missing(f"{name} of integers", like)
        kept = [axis for axis in range(len(value.shape)) if axis not in axes]
        value = _transposed(writer, value, [*kept, *axes])
        return [writer.emit("reduce", [value], out, by=_REDUCTIONS[name])]

    return lowered


def _cumulate(name: str) -> Lowering:
    def lowered(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
        (value,), axis = values, params["axis"]
        options = {
            "by": _CUMULATIONS[name],
            "count": value.shape[axis],
            "stride": value.strides[axis],
            "reverse": params["reverse"],
        }
        return [writer.emit("cumulate", [value], like[0], **options)]

    return lowered


def _elementwise(name: str) -> Lowering:
    def lowered(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
        whole = jnp.issubdtype(values[0].dtype, jnp.integer)
        if name in ("and", "or", "xor", "not") and whole:
            return writer.missing(f"{name} of integers", like)
        if name == "select_n" and len(values) != 3:
            return writer.missing("select_n of several cases", like)
        if name == "round" and int(params["rounding_method"]) != 1:
            return writer.missing("round away from zero", like)
        shape = like[0].shape
        wide = [
            v if v.size == 1 else _widened(writer, v, range(len(shape)), shape)
            for v in values
        ]
        found = writer.emit(name, wide, like[0])
        if name == "div" and whole:
            found = writer.emit("trunc", [found], like[0])
        return [found]

    return lowered


def _integer_power(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    if params["y"] == 2:
        return [writer.emit("square", values, like[0])]
    return [writer.emit("pow", [*values, known(params["y"], np.float32)], like[0])]


def _convert(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    (value,), (out,) = values, like
    is_float = jnp.issubdtype(value.dtype, jnp.floating)
    if out.dtype == jnp.bfloat16:
        return [writer.emit("bfloat16", [value], out)]
    if out.dtype == bool and value.dtype != bool:
        return [writer.emit("ne", [value, known(0, np.float32)], out)]
    if is_float and jnp.issubdtype(out.dtype, jnp.integer):
        return [writer.emit("trunc", [value], out)]
    return [value.renamed(out)]


def _unchanged(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    return [value.renamed(out) for value, out in zip(values, like, strict=True)]


def _scan(writer: Writer, params: Any, values: Any, like: Any) -> list[Value]:
    fixed, carried = params["num_consts"], params["num_carry"]
    consts, carry, xs = (
        values[:fixed],
        values[fixed : fixed + carried],
        values[fixed + carried :],
    )
    rows = [_like(each.shape[1:], each.dtype) for each in xs]
    inputs = [*consts, *(_like(each.shape, each.dtype) for each in carry), *rows]
    body, held = writer.inner(params["jaxpr"], inputs)
    return writer.emit_all(
        "scan",
        [*held, *carry, *xs],
        like,
        length=params["length"],
        reverse=params["reverse"],
        fixed=len(held),
        carried=carried,
        body=body,
    )


LOWERINGS: dict[str, Lowering] = {
    **{name: _elementwise(name) for name in FORMULAS},
    "add_any": _elementwise("add"),  # of gradients
    **{name: _reduce(name) for name in _REDUCTIONS},
    **{name: _cumulate(name) for name in _CUMULATIONS},
    **dict.fromkeys(_UNCHANGED, _unchanged),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "gather": _take,
    "integer_pow": _integer_power,
    "pad": _pad,
    "rev": _reverse,
    "scan": _scan,
    "scatter": _scatter,
    "slice": _slice,
    "split": _split,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
    "unstack": _split,
}
