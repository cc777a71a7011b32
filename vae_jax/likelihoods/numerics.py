"""Elementary functions that are accurate and differentiable in float32.

Each function here exists because the textbook expression fails for values that a
decoder can reach: it overflows, it subtracts two nearly equal numbers, or its gradient
is 0 * inf in the branch of a ``where`` that was not chosen. Factors of moderate size
are multiplied first, and one logarithm is taken of the product. The absolute error is
then a few units of 1e-7, which is enough for a log-likelihood, and one logarithm is
cheaper than several.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Scales are in units of the [0, 1] intensity: the smallest is far below one of 256
# levels (4e-3), and the largest is far above the whole range.
SCALE_BOUNDS = (1e-5, 1e5)

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

# log(Q(t) e^(t^2/2) / s) as a polynomial in 2 s - 1, lowest power first, where Q is the
# upper tail of the standard normal and s = 1 / (1 + 0.3 t): a Chebyshev fit of degree
# 10 to 40-digit values on all t >= 0, with error below 3e-8.
TAIL_RATE = 0.3
TAIL_COEFFICIENTS = (
    -1.50521026,
    0.741447228,
    0.115041423,
    -0.0281704235,
    -0.0217417912,
    0.00161408777,
    0.00478686848,
    1.1916785e-05,
    -0.001062122,
    -2.07361319e-05,
    0.000156636512,
)

# B_2j / (2j (2j - 1)), the coefficients of z^(1 - 2j) in Stirling's series. Five terms
# have an error of 1e-8 at z = 3; for smaller z, a recurrence is used.
_STIRLING_COEFFICIENTS = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)
_STIRLING_SHIFT = 3


def align(*arrays: jax.Array) -> list[jax.Array]:
    """Returns the arrays with leading axes of length one added, so that ranks agree.

    Args:
        *arrays: each ``[..., D]``.

    Raises:
        ValueError: the last axes, the pixels, have different lengths.
    """
    if len({array.shape[-1] for array in arrays}) > 1:
        shapes = " and ".join(str(list(array.shape)) for array in arrays)
        raise ValueError(
            f"parameters and images differ in their number of pixels: {shapes}; decode "
            "images of the size that x has."
        )
    rank = max(array.ndim for array in arrays)
    return [array.reshape((1,) * (rank - array.ndim) + array.shape) for array in arrays]


def sum_pixels(log_prob: jax.Array, in_support: jax.Array) -> jax.Array:
    """Returns the sum of log p(x_i) over pixels; NaN for images outside the support.

    Outside the support, the formulas would give plausible but wrong numbers.

    Args:
        log_prob: log p(x_i) of each pixel, ``[..., D]``, nats.
        in_support: whether the pixel of x is in the support, ``[..., D]``.

    Returns:
        ``[...]``.
    """
    inside = jax.lax.broadcast_to_rank(in_support.all(axis=-1), log_prob.ndim - 1)
    return jnp.where(inside, log_prob.sum(axis=-1), jnp.nan)


def polynomial(x: jax.Array, coefficients: tuple[float, ...]) -> jax.Array:
    """Returns sum_i coefficients[i] x^i, elementwise, by Horner's rule."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def magnitude(x: jax.Array) -> jax.Array:
    """Returns |x| with gradient 0 at 0; the gradient of ``jnp.abs`` may be 1 there."""
    return jnp.maximum(x, -x)


def softplus(x: jax.Array) -> jax.Array:
    """Returns log(1 + e^x), elementwise.

    On a CPU, this and its gradient take half the time of ``jax.nn.softplus``, which
    calls ``logaddexp`` and its treatment of infinities.
    """
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-magnitude(x)))


def bounded_exp(
    log_value: jax.Array, bounds: tuple[float, float] = SCALE_BOUNDS
) -> jax.Array:
    """Returns e^log_value, smoothly limited to stay between two positive bounds.

    The formula is low + 1 / (1 / high + e^-log_value). It equals e^y, where y is
    log_value after a softplus bounds it by log(high) from above and then by log(low)
    from below; it costs one exponential. The relative difference from e^log_value is
    low / e^log_value + e^log_value / high. It is below 1 % if e^log_value is inside
    both bounds by a factor of 200.

    Args:
        log_value: any shape, any finite value.
        bounds: (low, high), where 0 < low << high.
    """
    low, high = bounds
    # The exponential may stop growing where the result rounds to ``high``. The sigmoid
    # of log_value - log(high) is the same function, but the subtraction loses digits.
    value = jnp.exp(jnp.minimum(log_value, math.log(high) + 17.0))
    return low + value / (1.0 + value / high)


def bounded_log(
    value: jax.Array, bounds: tuple[float, float] = SCALE_BOUNDS
) -> jax.Array:
    """Returns the inverse of ``bounded_exp``; values are clipped to inside the bounds.

    Args:
        value: any shape, positive.
        bounds: (low, high), as for ``bounded_exp``.
    """
    low, high = bounds
    excess = jnp.clip(value - low, 1e-3 * low, (1.0 - 1e-3) * high)
    return jnp.log(excess) - jnp.log1p(-excess / high)


def log_ratio(value: jax.Array, reference: jax.Array, excess: jax.Array) -> jax.Array:
    """Returns log(value / reference), given excess = value - reference.

    The excess is an argument because the caller can often compute it without
    subtracting nearly equal numbers.

    Args:
        value: positive, of any shape.
        reference: positive, of the same shape.
        excess: value - reference, of the same shape.
    """
    relative = excess / reference
    near = jnp.abs(relative) < 0.5
    return jnp.where(
        near,
        jnp.log1p(jnp.where(near, relative, 0.0)),
        jnp.log(value / reference),
    )


def log_logistic_mass(
    k: jax.Array, levels: int, loc: jax.Array, scale: jax.Array
) -> jax.Array:
    """Returns the log-probability that a logistic variable falls into bin k.

    The bin is [k, k+1) / levels, with standardised edges a < b; the first bin reaches
    to -inf and the last to +inf. Between the edges

        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)),

    a product in which nothing cancels, even in a narrow bin or far in a tail. In the
    first bin only the first factor remains, in the last bin only the second.

    Args:
        k: bin index as a float, broadcast with loc.
        levels: number of bins.
        loc: centre of the distribution, in units of the [0, 1] intensity.
        scale: its scale, in the same units, positive.

    Returns:
        Log-masses, in nats, of the broadcast shape of the arguments.
    """
    inverse_scale = 1.0 / scale
    a = (k / levels - loc) * inverse_scale
    b = ((k + 1.0) / levels - loc) * inverse_scale
    above_first = k > 0
    below_last = k < levels - 1
    # sigmoid(x) = e^min(x, 0) / (1 + e^-|x|): the exponents need no logarithm.
    exponent = jnp.where(below_last, jnp.minimum(b, 0.0), 0.0) + jnp.where(
        above_first, jnp.minimum(-a, 0.0), 0.0
    )
    denominator = (1.0 + jnp.where(below_last, jnp.exp(-magnitude(b)), 0.0)) * (
        1.0 + jnp.where(above_first, jnp.exp(-magnitude(a)), 0.0)
    )
    numerator = jnp.where(
        above_first & below_last, -jnp.expm1(-inverse_scale / levels), 1.0
    )
    return exponent + jnp.log(numerator / denominator)


def with_forward_partials(
    function: Callable[..., jax.Array],
) -> Callable[..., jax.Array]:
    """Returns the same elementwise function, with derivatives by forward mode.

    A long formula stores all its intermediate arrays for the backward pass, whose speed
    is then limited by memory. Each element depends on few numbers only. So forward mode
    computes its partial derivatives in the same loop as the value, and the backward
    pass only multiplies. For ``log_normal_mass`` on a CPU, value and gradient together
    are ten times faster.

    Args:
        function: elementwise in arrays that broadcast against each other.
    """
    wrapped = jax.custom_jvp(function)

    def jvp(
        primals: tuple[jax.Array, ...], tangents: tuple[Any, ...]
    ) -> tuple[jax.Array, jax.Array]:
        value = function(*primals)
        total = jnp.zeros_like(value)
        for position, tangent in enumerate(tangents):
            if isinstance(tangent, jax.custom_derivatives.SymbolicZero):
                continue
            directions = [jnp.zeros_like(primal) for primal in primals]
            directions[position] = jnp.ones_like(primals[position])
            _, partial = jax.jvp(function, primals, tuple(directions))
            total = total + partial * tangent
        return value, total

    wrapped.defjvp(jvp, symbolic_zeros=True)
    return wrapped


def log_normal_mass(
    k: jax.Array, levels: int, loc: jax.Array, scale: jax.Array
) -> jax.Array:
    """Returns the log-probability that a normal variable falls into bin k.

    The bins are those of ``log_logistic_mass``. A bin in the lower tail is mirrored
    into the upper tail. It is then [low, high] with low >= 0 or low <= 0 <= high. If Q
    is the upper tail probability, the mass is

    - Q(low) (1 - Q(high) / Q(low)) if low >= 0, and
    - 1 - Q(-low) (1 + Q(high) / Q(-low)) otherwise.

    The ratio of two tails needs one exponential and no logarithm. In a narrow bin both
    forms subtract nearly equal numbers. There the mass is the integral of the density's
    Taylor series about the middle of the bin (Hermite polynomials).

    Args:
        k: bin index as a float, broadcast with loc.
        levels: number of bins.
        loc: mean of the distribution, in units of the [0, 1] intensity.
        scale: its standard deviation, in the same units, positive.

    Returns:
        Log-masses, in nats, of the broadcast shape of the arguments.
    """
    mass = with_forward_partials(functools.partial(_log_normal_mass, levels))
    return mass(k, loc, scale)


def _log_normal_mass(
    levels: int, k: jax.Array, loc: jax.Array, scale: jax.Array
) -> jax.Array:
    """Returns the result of ``log_normal_mass``, without its rule for derivatives."""
    inverse_scale = 1.0 / scale
    a = (k / levels - loc) * inverse_scale
    b = ((k + 1.0) / levels - loc) * inverse_scale
    middle = ((k + 0.5) / levels - loc) * inverse_scale
    width = inverse_scale / levels

    first, last = k == 0, k == levels - 1
    edge = first | last
    mirrored = first | ((middle < 0) & ~last)
    low = jnp.where(mirrored, -b, a)
    high = jnp.where(mirrored, -a, b)
    in_tail = low >= 0
    # ``where`` has a one-sided derivative at 0, unlike ``magnitude``: a bin can begin
    # exactly at the mean.
    near = jnp.where(in_tail, low, -low)
    distance = jnp.where(middle < 0, -middle, middle)
    narrow = (width * jnp.maximum(distance, 1.0) < 0.5) & ~edge

    near_factor, near_exponent = _normal_tail(near)
    far_factor, far_exponent = _normal_tail(jnp.where(edge, near, high))
    tail_exponent = near_exponent - 0.5 * near * near
    tail = near_factor * jnp.exp(tail_exponent)
    ratio = jnp.where(
        edge | narrow,
        0.0,
        (far_factor / near_factor)
        * jnp.exp(far_exponent - near_exponent - width * distance),
    )

    # Zero in wide bins, where the series is not used and its powers would overflow.
    half = jnp.where(narrow, 0.5 * width, 0.0)
    q = half * half
    u = jnp.square(jnp.where(narrow, middle, 0.0)) * q
    series = (
        1.0
        + (u - q) / 6
        + (u * u - 6 * u * q + 3 * q * q) / 120
        + (u**3 - 15 * u * u * q + 45 * u * q * q - 15 * q**3) / 5040
    )

    factor = jnp.where(
        narrow,
        width * series,
        jnp.where(in_tail, near_factor * (1.0 - ratio), 1.0 - tail * (1.0 + ratio)),
    )
    exponent = jnp.where(
        narrow,
        -0.5 * middle * middle - LOG_SQRT_2PI,
        jnp.where(in_tail, tail_exponent, 0.0),
    )
    return exponent + jnp.log(factor)


def _normal_tail(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns s, p with Q(t) = s e^(p - t^2/2), the normal upper tail at t >= 0."""
    s = 1.0 / (1.0 + TAIL_RATE * t)
    return s, polynomial(2.0 * s - 1.0, TAIL_COEFFICIENTS)


def stirling_correction(z: jax.Array) -> jax.Array:
    """Returns lgamma(z) - [(z - 1/2) log z - z + log(2 pi) / 2] for z > 0.

    Beta functions that are written with it need no difference of large lgammas. The
    series is evaluated at z + 3. The recurrence
    c(z) - c(z + 1) = (z + 1/2) log(1 + 1/z) - 1 leads from there to z.

    Args:
        z: any shape, positive.
    """
    steps = jnp.zeros_like(z)
    for shift in range(_STIRLING_SHIFT):
        start = z + shift
        steps = steps + ((start + 0.5) * jnp.log1p(1.0 / start) - 1.0)
    inverse = 1.0 / (z + _STIRLING_SHIFT)
    return steps + inverse * polynomial(inverse * inverse, _STIRLING_COEFFICIENTS)


def solve_increasing(
    function: Callable[[jax.Array], jax.Array],
    target: jax.Array,
    low: float,
    high: float,
) -> jax.Array:
    """Returns t with function(t) = target, elementwise, by bisection on [low, high].

    Args:
        function: increasing; maps an array to one of the same shape.
        target: the wanted value of each element, of any shape.
        low: left end of the bracket, the same for all elements.
        high: right end of the bracket.
    """

    def halve(
        _: int, bracket: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        left, right = bracket
        middle = 0.5 * (left + right)
        too_low = function(middle) < target
        return jnp.where(too_low, middle, left), jnp.where(too_low, right, middle)

    bracket = jnp.full_like(target, low), jnp.full_like(target, high)
    left, right = jax.lax.fori_loop(0, 40, halve, bracket)
    middle: jax.Array = 0.5 * (left + right)
    return middle
