"""Lists of operations, and the table of weights that the programs of a model share."""

import base64
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

# Arrays of fewer numbers keep float32: together they are small, and some are scales.
_FEWEST_HALVES = 1024
# An array that depends on no input is stored if it is not larger than this, or than the
# inputs of its operation. Else the page makes it, once.
_MOST_STORED = 1024


def encoded(array: Any, dtype: type[np.generic] = np.float32) -> str:
    """Returns the numbers of an array in base64, little-endian as all of a page."""
    numbers = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
    return base64.b64encode(numbers.tobytes()).decode()


class MissingError(ValueError):
    """The page cannot compute a function; the message is why, a clause."""


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of a program.

    Attributes:
        shape: its shape; the page only knows its size.
        dtype: its type in JAX; the page computes in float32.
        known: the array, if it depends on no input of the program; else None.
        place: its index among the values of the program, if an operation or an input
            gives it; else -1.
    """

    shape: tuple[int, ...]
    dtype: Any
    known: Any = None
    place: int = -1

    @property
    def size(self) -> int:
        """The number of numbers."""
        return math.prod(self.shape)

    @property
    def strides(self) -> list[int]:
        """The distance between neighbours along each axis, in numbers."""
        return [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]

    def renamed(self, like: Any) -> "Value":
        """Returns the same numbers, in the same order, with another shape and type."""
        known = None if self.known is None else np.reshape(self.known, like.shape)
        return Value(tuple(like.shape), like.dtype, known, self.place)


class Weights:
    """The numbers that the programs of a model share, each array once.

    Large arrays of weights are stored in half precision, which keeps 11 bits.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[int, bytes], int] = {}
        self._sizes: list[list[int]] = []  # numbers, and bytes of each
        self._content = bytearray()

    def place(self, array: Any) -> int:
        """Returns the index of an array in the table, which it is added to."""
        array = np.asarray(array)
        numbers = array.astype("<f4").ravel()
        content, width = numbers.tobytes(), 4
        is_whole = np.issubdtype(array.dtype, np.integer)  # and must stay exact
        if numbers.size >= _FEWEST_HALVES and not is_whole and _fits_halves(numbers):
            content, width = numbers.astype("<f2").tobytes(), 2
        key = width, content
        if key not in self._places:
            self._places[key] = len(self._sizes)
            self._sizes.append([numbers.size, width])
            self._content += content
        return self._places[key]

    def described(self) -> dict[str, Any]:
        """Returns the table as the page reads it."""
        text = base64.b64encode(self._content).decode()
        return {"sizes": self._sizes, "content": text}


def _fits_halves(numbers: np.ndarray) -> bool:
    largest = np.abs(numbers).max()
    return bool(largest <= np.finfo(np.float16).max)


# Makes the operations of an equation: of its parameters, of the values of its inputs,
# and of the shapes and types of its outputs, it returns the values of the outputs.
Lowering = Callable[
    ["Writer", Mapping[str, Any], Sequence[Value], Sequence[Any]], list[Value]
]


class Writer:
    """Lists the operations of one program.

    Args:
        weights: gets the numbers that the program needs.
        lowerings: makes operations of equations, by the name of the primitive.
    """

    def __init__(self, weights: Weights, lowerings: Mapping[str, Lowering]) -> None:
        self._weights, self._lowerings = weights, lowerings
        self._sizes: list[int] = []
        # Places and values of those that are known, by identity.
        self._constants: dict[int, tuple[int, Value]] = {}
        self._operations: list[tuple[str, list[int], list[int], dict[str, Any]]] = []

    # --- values and operations ---

    def add(self, like: Any) -> Value:
        """Returns a new value with the shape and type of something."""
        self._sizes.append(math.prod(like.shape))
        return Value(tuple(like.shape), like.dtype, place=len(self._sizes) - 1)

    def emit(
        self, kind: str, inputs: Sequence[Value], like: Any, **options: Any
    ) -> Value:
        """Appends an operation with one output, which it returns.

        Args:
            kind: name of the kernel.
            inputs: of the operation.
            like: something with the shape and type of the output.
            **options: of the kernel.
        """
        return self.emit_all(kind, inputs, [like], **options)[0]

    def emit_all(
        self, kind: str, inputs: Sequence[Value], like: Sequence[Any], **options: Any
    ) -> list[Value]:
        """Appends an operation with several outputs; see ``emit``."""
        outputs = [self.add(each) for each in like]
        places = [self._place(value) for value in inputs]
        made = [value.place for value in outputs]
        self._operations.append((kind, places, made, options))
        return outputs

    def missing(self, name: str, like: Sequence[Any]) -> list[Value]:
        """Returns outputs of an operation that the page does not have, by its name.

        The program is refused if it needs one of them; see ``program``.
        """
        return self.emit_all(f"missing {name}", [], like)

    def _place(self, value: Value) -> int:
        """Returns the index of a value; a known one becomes a constant."""
        if value.place >= 0:
            return value.place
        if id(value) not in self._constants:
            self._constants[id(value)] = self.add(value).place, value
        return self._constants[id(value)][0]

    # --- jaxprs ---

    def call(self, jaxpr: Any, inputs: Sequence[Value]) -> list[Value]:
        """Appends the operations of a closed jaxpr; returns the values of its outputs.

        Calls within it become a part of it. What depends on no input is computed here.
        """
        inner = jaxpr.jaxpr
        values = dict(zip(inner.invars, inputs, strict=True))
        for variable, array in zip(inner.constvars, jaxpr.consts, strict=True):
            values[variable] = known(array)

        def read(atom: Any) -> Value:
            is_literal = hasattr(atom, "val")
            return known(atom.val, atom.aval.dtype) if is_literal else values[atom]

        for equation in inner.eqns:
            found = self._equation(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in inner.outvars]

    def _equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        like = [variable.aval for variable in equation.outvars]
        # Arrays without numbers are known.
        inputs = [value if value.size else _empty(value) for value in inputs]
        if not any(math.prod(each.shape) for each in like):
            return [_empty(each) for each in like]
        if name == "platform_index":
            # The form that is compact: matrix products on a CPU are many small ones.
            platforms = list(params["platforms"])
            return [known(np.int32(platforms.index(None) if None in platforms else 0))]
        if name == "cond" and inputs[0].known is not None:
            return self.call(params["branches"][int(inputs[0].known)], inputs[1:])
        if name in _CALLS:
            called = next(params[key] for key in _CALLED if key in params)
            return self.call(_closed(called), inputs)
        if name in self._lowerings:  # For some types alone.
            types = (each.dtype for each in (*inputs, *like))
            name += next((f" of {own}" for own in types if not _has_numbers(own)), "")
        arrays = None
        if all(value.known is not None for value in inputs):
            arrays = _computed(equation, [value.known for value in inputs])
            if name not in self._lowerings or not self._grows(inputs, like):
                return [known(array) for array in arrays]
        if name not in self._lowerings:
            return self.missing(name, like)
        found = self._lowerings[name](self, params, inputs, like)
        if arrays is None:
            return found
        return [
            dataclasses.replace(value, known=array)
            for value, array in zip(found, arrays, strict=True)
        ]

    def _grows(self, inputs: Sequence[Value], like: Sequence[Any]) -> bool:
        """Returns whether the page makes known outputs; else they are stored."""
        size = sum(math.prod(each.shape) for each in like)
        stored = sum(value.size for value in inputs if value.place < 0)
        return bool(inputs) and size > max(stored, _MOST_STORED)

    def inner(
        self, jaxpr: Any, inputs: Sequence[Any]
    ) -> tuple[dict[str, Any], list[Value]]:
        """Returns the program of a loop's body.

        Args:
            jaxpr: of the body, closed.
            inputs: of the body: values that do not change, and the shapes and types of
                others. A value that is known is a part of the program.

        Returns:
            The program, and the values that are not.
        """
        writer = Writer(self._weights, self._lowerings)
        own, held = [], []
        for each in inputs:
            if isinstance(each, Value) and each.known is not None:
                # Its place, if it has one, is in the outer program.
                own.append(dataclasses.replace(each, place=-1))
                continue
            own.append(writer.add(each))
            if isinstance(each, Value):
                held.append(each)
        outputs = writer.call(jaxpr, own)
        return writer.program([v for v in own if v.place >= 0], outputs), held

    def program(
        self, inputs: Sequence[Value], outputs: Sequence[Value]
    ) -> dict[str, Any]:
        """Returns the program for the page, without operations that no output needs.

        Args:
            inputs: made by ``add``.
            outputs: values of the program.

        Raises:
            MissingError: an output needs an operation that the page does not have.
        """
        ends = [self._place(value) for value in outputs]
        needed, operations = set(ends), []
        for kind, places, made, options in reversed(self._operations):
            if needed.isdisjoint(made):
                continue
            if kind.startswith("missing "):
                name = kind.removeprefix("missing ")
                raise MissingError(f"it needs {name}, which this page does not compute")
            needed.update(places)
            operations.append([kind, places, made, options])
        kept = [value.place for value in inputs]
        made_too = {place for operation in operations for place in operation[2]}
        used = sorted(needed | made_too | set(kept))
        names = {place: name for name, place in enumerate(used)}

        def renamed(places: Sequence[int]) -> list[int]:
            return [names[place] for place in places]

        return {
            "sizes": [self._sizes[place] for place in used],
            "constants": [
                [names[place], self._weights.place(value.known)]
                for place, value in self._constants.values()
                if place in names
            ],
            "operations": [
                [kind, renamed(places), renamed(made), options]
                for kind, places, made, options in reversed(operations)
            ],
            "inputs": renamed(kept),
            "outputs": renamed(ends),
        }


# Primitives that call a jaxpr with all of their inputs, and names of its parameter.
_CALLS = {"jit", "pjit", "closed_call", "checkpoint", "remat2"}
_CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vmap_call"}
_CALLED = ("jaxpr", "call_jaxpr", "call", "fun_jaxpr")


def known(array: Any, dtype: Any = None) -> Value:
    """Returns the value of an array, of a number with a type, or of a random key."""
    if not jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
        array = np.asarray(array, dtype)
    return Value(array.shape, array.dtype, array)


def _empty(like: Any) -> Value:
    return known(np.zeros(like.shape, like.dtype))


def _has_numbers(dtype: Any) -> bool:
    """Returns whether float32 can stand for a type; it cannot for complex numbers."""
    return dtype == jnp.bfloat16 or getattr(dtype, "kind", "") in tuple("biuf")


def _closed(jaxpr: Any) -> Any:
    """Returns a jaxpr with its constants; some primitives have an open one."""
    if hasattr(jaxpr, "jaxpr"):
        return jaxpr
    return ClosedJaxpr(jaxpr, ())


def _computed(equation: Any, arrays: Sequence[Any]) -> list[Any]:
    """Returns the outputs of an equation whose inputs are known."""
    name, params = equation.primitive.name, equation.params
    if name in _IN_NUMPY and isinstance(arrays[0], np.ndarray):
        return [_IN_NUMPY[name](arrays[0], params)]
    found = equation.primitive.bind(*arrays, **params)
    return list(found) if equation.primitive.multiple_results else [found]


def _broadcast(array: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for size, axis in zip(array.shape, params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return np.broadcast_to(array.reshape(shape), params["shape"])


# Primitives of most constants, for which JAX would compile a program for each shape.
_IN_NUMPY: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "broadcast_in_dim": _broadcast,
    "convert_element_type": lambda array, params: array.astype(params["new_dtype"]),
    "reshape": lambda array, params: array.reshape(params["new_sizes"]),
}
