"""A flow without noise: exact likelihoods, and guidance.

Likelihoods are those of images with a normal distribution, fitted to digits. Guidance
is shown on two classes of one number, whose flow is followed quantile by quantile.
Everything is in float64.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from matplotlib.figure import Figure

from experiments.report.style import COLORS, INK
from experiments.theory.claims import Claim, Story, above, below, equal
from experiments.theory.figures import drawing
from experiments.theory.models import GAMMA, exact_chain, fitted
from experiments.theory.scores import PROCESS, line, mixture
from vae_jax.diffusion import GaussianImages

_STEPS = (128, 256)


def run() -> Story:
    """Makes eight claims, none of which rests on chance."""
    with jax.enable_x64(True):
        flow_claims, likelihood = _flow(*fitted(31))
        guidance_claims, table = _guidance()
    numbers = {"likelihood": likelihood, "guided": table, "steps": _STEPS}
    claims = (*flow_claims, *guidance_claims)
    return Story(claims, numbers, {"guidance": _draw_guidance(table)})


# --- the probability-flow equation ---

# Of Euler, Heun, and Runge and Kutta: where a step looks, with the stage before, and
# the weights of what it sees.
_SOLVERS = {
    1: ((0.0,), (1.0,)),
    2: ((0.0, 1.0), (1 / 2, 1 / 2)),
    4: ((0.0, 1 / 2, 1 / 2, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def solve(
    velocity: Callable, y: jax.Array, ends: tuple[float, float], steps: int, order: int
) -> jax.Array:
    """Returns y at the second end of gamma of dy/dgamma = velocity(gamma, y)."""
    h = (ends[1] - ends[0]) / steps

    def step(i, y):
        k, total = jnp.zeros_like(y), jnp.zeros_like(y)
        for place, weight in zip(*_SOLVERS[order], strict=True):
            k = velocity(ends[0] + (i + place) * h, y + place * h * k)
            total = total + weight * k
        return y + h * total

    return jax.lax.fori_loop(0, steps, step, y)


def flow(x: jax.Array, noise: jax.Array, gamma: jax.Array) -> jax.Array:
    """Returns dz/dgamma of z = alpha x + sigma noise, for what a denoiser says of z."""
    alpha, sigma = PROCESS.alpha(gamma), PROCESS.sigma(gamma)
    return 0.5 * alpha * sigma * (alpha * noise - sigma * x)


def _flow(images: GaussianImages, x: np.ndarray) -> tuple[list[Claim], dict]:
    chain, size = exact_chain(images), len(x)

    def log_density(gamma, z):  # log q(z)
        alpha2 = float(PROCESS.alpha(jnp.asarray(gamma)) ** 2)
        covariance = alpha2 * images.covariance + (1 - alpha2) * np.eye(size)
        return float(GaussianImages(alpha2**0.5 * images.mean, covariance).log_prob(z))

    def velocity(gamma, y):  # of z and of the integral of the divergence
        def of_latents(z):
            found = chain.denoised(z[None], jnp.reshape(gamma, 1))
            return flow(found.x[0], found.noise[0], gamma)

        divergence = jnp.trace(jax.jacfwd(of_latents)(y[:-1]))
        return jnp.append(of_latents(y[:-1]), divergence)

    gamma, noise = (
        jnp.full(1, GAMMA[0]),
        np.random.default_rng(11).standard_normal(size),
    )
    z = PROCESS.noised(jnp.asarray(x)[None], gamma, jnp.asarray(noise)[None])[0]
    exact, found = log_density(GAMMA[0], z), {}
    for order in _SOLVERS:
        for steps in _STEPS:
            run_steps = jax.jit(
                lambda y, n=steps, o=order: solve(velocity, y, GAMMA, n, o)
            )
            y = np.asarray(run_steps(jnp.append(z, 0.0)))
            found[order, steps] = log_density(GAMMA[1], y[:-1]) + y[-1] - exact
    prior = -0.5 * float((y[:-1] ** 2 + np.log(2 * np.pi)).sum())
    model = exact + prior - log_density(GAMMA[1], y[:-1])
    claims = [
        below(
            "log q(z_0) of a digit by Runge-Kutta, less the exact one, nats",
            1e-5,
            abs(found[4, _STEPS[1]]),
        ),
        *(
            equal(
                f"{name}: order of the error of log q(z_0)",
                order,
                float(np.log2(abs(found[order, _STEPS[0]] / found[order, _STEPS[1]]))),
                within=0.1 * order,
                digits=2,
            )
            for name, order in (("Euler", 1), ("Heun", 2), ("Runge-Kutta", 4))
        ),
    ]
    return claims, {"exact": exact, "model": model, "errors": found}


# --- guidance ---


def _guidance() -> tuple[list[Claim], list[dict[str, Any]]]:
    """Two classes of one mixture. A flow on a line keeps order, so quantiles follow."""
    every, own = mixture([0.5, 0.5], [-1.0, 1.0], 1.0), mixture([1.0], [1.0], 1.0)
    u = (np.arange(1000) + 0.5) / 1000
    nodes, _ = line()
    log_class = own.log_prob(nodes) - every.log_prob(nodes)
    table: list[dict[str, Any]] = []
    for strength in (0, 1, 2, 4):

        def velocity(gamma, z, strength=strength):
            free, given = (each.noised(gamma).score(z) for each in (every, own))
            score = free + strength * (given - free)
            alpha, sigma = PROCESS.alpha(gamma), PROCESS.sigma(gamma)
            return flow((z + sigma**2 * score) / alpha, -sigma * score, gamma)

        start = jax.scipy.special.ndtri(jnp.asarray(u))
        z = jax.jit(lambda y, f=velocity: solve(f, y, (16.0, -12.0), 400, 4))(start)
        density = np.exp(every.log_prob(nodes) + strength * log_class)
        total = scipy.integrate.cumulative_trapezoid(density, nodes, initial=0)
        target = np.interp(u, total / total[-1], nodes)
        z = np.asarray(z)
        table.append(
            {
                "weight": strength,
                "mean": z.mean(),
                "std": z.std(),
                "target_mean": round(float(target.mean()), 9) + 0.0,
                "target_std": target.std(),
                "distance": np.abs(z - target).mean(),
                "quantiles": (u, z, target),
            }
        )
    claims = [
        below(
            f"guidance of weight {row['weight']}: mean distance of quantiles from those"
            " of p(x) p(c|x)^weight",
            1e-3,
            row["distance"],
        )
        for row in table[:2]
    ]
    claims += [
        above(
            f"guidance of weight {row['weight']}: the same distance",
            0.05,
            row["distance"],
        )
        for row in table[2:]
    ]
    return claims, table


@drawing(6.8, 2.6)
def _draw_guidance(figure: Figure, table: list[dict[str, Any]]) -> None:
    """Densities: the slope of u by its quantile."""
    panels = figure.subplots(1, len(table), sharex=True, sharey=True)
    for axes, row in zip(panels, table, strict=True):
        u, guided, target = row["quantiles"]
        axes.plot(guided, np.gradient(u, guided), color=COLORS[0], label="guided")
        slope = np.gradient(u, target)
        axes.plot(target, slope, color=INK, ls="--", lw=1, label="p(x) p(c|x)ʷ")
        axes.set_title(f"w = {row['weight']}")
        axes.set_yticks([])
    panels[0].legend(loc="upper left", fontsize=7)
