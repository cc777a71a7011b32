"""JAX functions as programs of the page.

    weights = Weights()
    decode = program(lambda z: {"image": ...}, {"z": z}, {}, weights)

A program is the list of operations that the function's own jaxpr holds, so that
networks, likelihoods and priors of any kind need no second form in JavaScript. A
function with a primitive that the page does not have is refused by the name of it.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.explorer.operations import FORMULAS, LOWERINGS
from experiments.explorer.writer import MissingError, Weights, Writer, encoded
from vae_jax.likelihoods.numerics import TAIL_COEFFICIENTS, TAIL_RATE

__all__ = ["MissingError", "Weights", "encoded", "engine", "program"]

_ENGINE = Path(__file__).with_name("engine.js")
# Texts of the script that ``engine`` replaces.
_LOOPS = "/* One loop for each formula, by ``programs.engine``. */"
_TAIL = "{rate: 0, coefficients: []}"


def program(
    function: Callable[..., Mapping[str, jax.Array]],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    defaults: Mapping[str, Any],
    weights: Weights,
) -> dict[str, Any]:
    """Returns a function as the page reads it.

    Args:
        function: of the inputs, in their order; returns arrays by name.
        inputs: shape and type of each input, by name.
        defaults: arrays for inputs that need not be given.
        weights: gets the numbers that the program needs.

    Raises:
        MissingError: the function needs an operation that the page does not have.
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*inputs.values())
    writer = Writer(weights, LOWERINGS)
    own = [writer.add(like) for like in inputs.values()]
    found = writer.program(own, writer.call(traced, own))
    given = {name: weights.place(array) for name, array in defaults.items()}
    arguments = [[name, given.get(name)] for name in inputs]
    # The order of a dictionary's leaves in JAX is that of its names.
    return found | {"arguments": arguments, "results": sorted(shapes)}


def engine() -> str:
    """Returns the script that executes programs, with a loop for each formula.

    A loop of its own for each formula is several times as fast as one loop that calls
    functions, and the page may not make functions of text.
    """
    loops = "\n".join(f"    {name}: {_loop(text)}," for name, text in FORMULAS.items())
    tail = {"rate": TAIL_RATE, "coefficients": TAIL_COEFFICIENTS}
    script = _ENGINE.read_text("utf-8")
    for place, text in (_LOOPS, loops.lstrip()), (_TAIL, json.dumps(tail)):
        script = script.replace(place, text)
    return script


def _loop(formula: str) -> str:
    """Returns the loop of a formula over x, y, z; their masks are -1, or 0 for one."""
    read = re.sub(r"\b([xyz])\b", r"\1[i & \1Mask]", formula)
    arguments = "out, x, xMask, y, yMask, z, zMask"
    body = f"for (let i = 0; i < out.length; i++) out[i] = {read};"
    return f"({arguments}) => {{ {body} }}"
