"""Maximum likelihood on a coin: what it finds, and how fast it stops being wrong."""

import math

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from experiments.report.style import COLORS, FAINT, MATPLOTLIB
from experiments.theory.claims import Claim, Story, below, equal
from vae_jax.likelihoods import make_likelihood

FLIPS = (1, 0, 1, 0, 1, 1)  # H-T-H-T-H-H
_STEPS = 200
_STEP_SIZE = 0.2

RARE = 0.1  # probability of heads of the second coin
_SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
_REPETITIONS = 1_000


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
    """The maximum-likelihood estimate, the share of heads, of ``count`` samples."""

    def one(key):
        return jax.random.bernoulli(key, probability, (size,)).mean()

    return jax.lax.map(one, jax.random.split(key, count), batch_size=50)


def relative_error_of_rms(probability: float, size: int, count: int) -> float:
    """Standard error of a root mean square error over itself, for ``count`` samples.

    Half of that of the mean square, whose variance follows from the kurtosis of the
    binomial distribution, 3 + (1 - 6 p (1 - p)) / (n p (1 - p)).
    """
    variance = probability * (1 - probability)
    kurtosis = 3 + (1 - 6 * variance) / (size * variance)
    return 0.5 * math.sqrt((kurtosis - 1) / count)


def run() -> Story:
    """Claims six things, of which four have an error bar: one in 90 runs fails."""
    # The closed form: heads over flips, and the likelihood at that probability.
    heads, count = sum(FLIPS), len(FLIPS)
    exact = heads / count
    flips = jnp.array(FLIPS, jnp.float32)
    climbed = jax.jit(climb)(flips)
    path = np.asarray(climbed, np.float64)

    # Minus the mean log-likelihood of a flip, on the way and by the definitions.
    logits = jax.scipy.special.logit(climbed)
    cross_entropy = -jax.vmap(log_mass, (0, None))(logits, flips) / count
    shares, models = np.array([exact, 1 - exact]), np.stack([path, 1 - path])
    entropy = scipy.stats.entropy(shares)
    divergence = scipy.stats.entropy(shares[:, None], models)

    # The law of large numbers, for a coin that seldom shows heads.
    draw = jax.jit(estimates, static_argnums=(1, 2, 3))
    key = jax.random.key(0)
    errors = np.stack(
        [
            np.asarray(draw(jax.random.fold_in(key, i), RARE, size, _REPETITIONS))
            - RARE
            for i, size in enumerate(_SIZES)
        ]
    )  # [sizes, repetitions]
    measured = np.sqrt((errors**2).mean(1))
    sizes = np.array(_SIZES, np.float64)
    predicted = np.sqrt(RARE * (1 - RARE) / sizes)

    # Least squares through the logarithms; its error follows from those of the points.
    centred = np.log(sizes) - np.log(sizes).mean()
    slope = centred @ np.log(measured) / (centred @ centred)
    relative = np.array(
        [relative_error_of_rms(RARE, size, _REPETITIONS) for size in _SIZES]
    )
    slope_error = np.sqrt(((centred * relative) ** 2).sum()) / (centred @ centred)

    # Rounding in float32 moves the top of so flat a curve by less than 1e-5.
    claims: list[Claim] = [
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
            float(np.abs(np.asarray(cross_entropy) - entropy - divergence).max()),
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
        "exact": exact,
        "estimate": path[-1],
        "entropy": entropy,
        "kl_fair": divergence[0],
        "log_likelihood": log_likelihood(exact),
        "log_likelihood_fair": log_likelihood(0.5),
        "rare": RARE,
        "repetitions": _REPETITIONS,
        "slope": slope,
        "error_100": measured[_SIZES.index(100)],
        "error_10000": measured[_SIZES.index(10_000)],
    }
    figures = {
        "likelihood": _likelihood_figure(path),
        "large_numbers": _large_numbers_figure(sizes, np.abs(errors), predicted),
    }
    return Story(tuple(claims), numbers, figures)


def log_likelihood(probability: float) -> float:
    """Log-probability of the six flips in closed form, nats."""
    heads = sum(FLIPS)
    tails = len(FLIPS) - heads
    return heads * math.log(probability) + tails * math.log(1 - probability)


@matplotlib.rc_context(MATPLOTLIB)
def _likelihood_figure(path: np.ndarray) -> Figure:
    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.subplots()
    grid = np.linspace(0.2, 0.95, 200)
    axes.plot(grid, [log_likelihood(p) for p in grid], color=COLORS[0])
    shown = path[:12]
    axes.plot(
        shown,
        [log_likelihood(p) for p in shown],
        ls="",
        marker="o",
        ms=5,
        color=COLORS[1],
        label="gradient ascent, from a fair coin",
    )
    axes.axvline(
        sum(FLIPS) / len(FLIPS), color=FAINT, ls="--", lw=1, label="share of heads, 4/6"
    )
    axes.set_xlabel("probability of heads")
    axes.set_ylabel("log-likelihood of H-T-H-T-H-H, nats")
    figure.legend(loc="outside upper left")
    return figure


@matplotlib.rc_context(MATPLOTLIB)
def _large_numbers_figure(
    sizes: np.ndarray, errors: np.ndarray, predicted: np.ndarray
) -> Figure:
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for quantile, ls in ((0.5, "-"), (0.95, ":")):
        axes.plot(
            sizes,
            np.quantile(errors, quantile, axis=1),
            color=COLORS[5],
            lw=1,
            ls=ls,
            label=f"{quantile:.0%} of the errors are below",
        )
    axes.plot(
        sizes,
        np.sqrt((errors**2).mean(1)),
        ls="",
        marker="o",
        ms=5,
        color=COLORS[1],
        label="root mean square error",
    )
    axes.plot(sizes, predicted, color=COLORS[0], label=r"$\sqrt{p(1-p)/n}$")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("flips n")
    axes.set_ylabel("|estimate − 1/10|")
    axes.legend(loc="lower left")
    return figure
