"""Maximum likelihood on a coin: its result, and how fast its error falls."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from experiments.report.style import COLORS, FAINT
from experiments.theory.claims import Story, below, equal
from experiments.theory.figures import drawing
from vae_jax.likelihoods import make_likelihood

FLIPS = (1, 0, 1, 0, 1, 1)  # H-T-H-T-H-H
_STEPS = 200
_STEP_SIZE = 0.2

RARE = 0.1  # probability of heads of the second coin
_SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
_REPETITIONS = 1_000

_POINTS: dict[str, Any] = {"ls": "", "marker": "o", "ms": 5, "color": COLORS[1]}


def log_mass(logit: jax.Array, flips: jax.Array) -> jax.Array:
    """Returns the library's log-likelihood of a coin's logit, ``[]``, nats.

    The flips ``[N]`` are N pixels with one parameter.
    """
    coin = make_likelihood("bernoulli", 2)
    return coin.log_prob(jnp.broadcast_to(logit, (1, flips.size)), flips)


def climb(flips: jax.Array) -> jax.Array:
    """Returns the probability of heads after each step of gradient ascent.

    Ascends ``log_mass`` of flips ``[N]`` from a fair coin: ``[steps + 1]``.
    """

    def step(logit, _):
        return logit + _STEP_SIZE * jax.grad(log_mass)(logit, flips), logit

    last, before = jax.lax.scan(step, jnp.float32(0.0), length=_STEPS)
    return jax.nn.sigmoid(jnp.append(before, last))


def estimates(key: jax.Array, probability: float, size: int, count: int) -> jax.Array:
    """Returns the shares of heads in ``count`` samples of ``size`` flips, ``[count]``.

    A share of heads is the maximum-likelihood estimate of the probability.
    """

    def one(key):
        return jax.random.bernoulli(key, probability, (size,)).mean()

    return jax.lax.map(one, jax.random.split(key, count), batch_size=50)


def relative_error_of_rms(probability: float, size: int, count: int) -> float:
    """Returns the standard error of a root mean square error, relative to it.

    It is half of the mean square's, whose variance follows from the kurtosis of the
    binomial distribution, 3 + (1 - 6 p (1 - p)) / (n p (1 - p)).

    Args:
        probability: p, of heads.
        size: n, the number of flips in a sample.
        count: number of samples.
    """
    variance = probability * (1 - probability)
    kurtosis = 3 + (1 - 6 * variance) / (size * variance)
    return 0.5 * math.sqrt((kurtosis - 1) / count)


def run() -> Story:
    """Makes six claims; four have an error bar, and one of 90 runs fails by chance."""
    # The closed form: heads over flips, and the likelihood at that probability.
    heads, count = sum(FLIPS), len(FLIPS)
    exact = heads / count
    flips = jnp.array(FLIPS, jnp.float32)
    climbed = jax.jit(climb)(flips)
    path = np.asarray(climbed, np.float64)

    # Minus the mean log-likelihood of a flip: by the library, and by the definitions.
    logits = jax.scipy.special.logit(climbed)
    cross_entropy = -jax.vmap(log_mass, (0, None))(logits, flips) / count
    shares, models = np.array([exact, 1 - exact]), np.stack([path, 1 - path])
    entropy = scipy.stats.entropy(shares)
    divergence = scipy.stats.entropy(shares[:, None], models)

    # The law of large numbers, for a coin that seldom shows heads.
    draw = jax.jit(estimates, static_argnums=(1, 2, 3))
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(len(_SIZES))]
    found = [
        np.asarray(draw(key, RARE, size, _REPETITIONS))
        for key, size in zip(keys, _SIZES, strict=True)
    ]
    errors = np.stack(found) - RARE  # [sizes, repetitions]
    measured = np.sqrt((errors**2).mean(1))
    sizes = np.array(_SIZES, np.float64)
    predicted = np.sqrt(RARE * (1 - RARE) / sizes)

    # Least squares through the logarithms; its error follows from those of the points.
    centred = np.log(sizes) - np.log(sizes).mean()
    slope = centred @ np.log(measured) / (centred @ centred)
    relative = np.array([relative_error_of_rms(RARE, n, _REPETITIONS) for n in _SIZES])
    slope_error = np.sqrt(((centred * relative) ** 2).sum()) / (centred @ centred)

    claims = [
        # Rounding in float32 moves the top of so flat a curve by less than 1e-5.
        equal(
            "gradient ascent on H-T-H-T-H-H ends at the share of heads",
            exact,
            path[-1],
            within=1e-5,
            digits=5,
        ),
        below(
            "mean log-likelihood of a flip + H(flips) + KL(flips ‖ model) = 0: largest"
            " difference during the ascent, nats",
            1e-6,
            np.abs(np.asarray(cross_entropy) - entropy - divergence),
        ),
        equal(
            "a coin of 1/10: log-log slope of the error against sample size",
            -0.5,
            slope,
            within=3 * slope_error,
            digits=4,
        ),
    ]
    claims += [
        equal(
            f"its root mean square error with {_SIZES[place]:,} flips",
            predicted[place],
            measured[place],
            within=3 * relative[place] * predicted[place],
            digits=5,
        )
        for place in (0, 4, 8)
    ]
    numbers = {
        "heads": heads,
        "flips": count,
        "estimate": path[-1],
        "entropy": entropy,
        "kl_fair": divergence[0],
        "log_likelihood": log_likelihood(exact),
        "log_likelihood_fair": log_likelihood(0.5),
        "repetitions": _REPETITIONS,
        "slope": slope,
        "error_100": measured[_SIZES.index(100)],
        "error_10000": measured[_SIZES.index(10_000)],
    }
    figures = {
        "likelihood": _draw_likelihood(path),
        "large_numbers": _draw_large_numbers(sizes, np.abs(errors), predicted),
    }
    return Story(tuple(claims), numbers, figures)


def log_likelihood(probability: float) -> float:
    """Returns the log-probability of the six flips in closed form, nats."""
    heads = sum(FLIPS)
    tails = len(FLIPS) - heads
    return heads * math.log(probability) + tails * math.log(1 - probability)


@drawing(5.6, 3.4)
def _draw_likelihood(figure: Figure, path: np.ndarray) -> None:
    """The log-likelihood, and the first steps of the ascent."""
    axes = figure.add_subplot(
        xlabel="probability of heads", ylabel="log-likelihood of H-T-H-T-H-H, nats"
    )
    grid, shown = np.linspace(0.2, 0.95, 200), path[:12]
    axes.plot(grid, [log_likelihood(p) for p in grid], color=COLORS[0])
    heights = [log_likelihood(p) for p in shown]
    axes.plot(shown, heights, **_POINTS, label="gradient ascent, from a fair coin")
    share = sum(FLIPS) / len(FLIPS)
    axes.axvline(share, color=FAINT, ls="--", lw=1, label="share of heads, 4/6")
    figure.legend(loc="outside upper left")


@drawing(5.6, 3.6)
def _draw_large_numbers(
    figure: Figure, sizes: np.ndarray, errors: np.ndarray, predicted: np.ndarray
) -> None:
    """The errors of the estimates against the number of flips."""
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="flips n", ylabel="|estimate − 1/10|"
    )
    for quantile, ls in ((0.5, "-"), (0.95, ":")):
        bounds = np.quantile(errors, quantile, axis=1)
        label = f"{quantile:.0%} of the errors are below"
        axes.plot(sizes, bounds, color=COLORS[5], lw=1, ls=ls, label=label)
    measured = np.sqrt((errors**2).mean(1))
    axes.plot(sizes, measured, **_POINTS, label="root mean square error")
    axes.plot(sizes, predicted, color=COLORS[0], label=r"$\sqrt{p(1-p)/n}$")
    axes.legend(loc="lower left")
