"""Image, noise and score: three views of one denoiser, and how scores are used.

All claims are about mixtures of two normals of one number, where every density, score
and integral is exact. Everything is in float64.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from matplotlib.figure import Figure

from experiments.report.style import COLORS, INK
from experiments.theory.claims import Claim, Story, below, equal
from experiments.theory.figures import drawing
from vae_jax.diffusion import Process, read_output
from vae_jax.trees import tree_dataclass

PROCESS = Process()
_CHAINS = 20_000


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """A mixture of normals of one number: weights, means and variances, ``[K]``."""

    weights: jax.Array
    means: jax.Array
    variances: jax.Array

    def log_parts(self, z: jax.Array) -> jax.Array:
        """Returns the log-densities of parts and numbers z ``[...]``, ``[..., K]``."""
        own = (None,) * z.ndim
        means, variances = self.means[own], self.variances[own]
        square = (z[..., None] - means) ** 2 / variances + jnp.log(
            2 * np.pi * variances
        )
        return jnp.log(self.weights)[own] - 0.5 * square

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns log q(z), elementwise, nats."""
        return jax.nn.logsumexp(self.log_parts(z), axis=-1)

    def score(self, z: jax.Array) -> jax.Array:
        """Returns the derivative of log q(z), elementwise."""
        return jax.grad(lambda z: self.log_prob(z).sum())(z)

    def noised(self, gamma: Any) -> "Mixture":
        """Returns q(z) of z = alpha x + sigma noise."""
        alpha2 = PROCESS.alpha(jnp.asarray(gamma)) ** 2
        variances = alpha2 * self.variances + 1 - alpha2
        return Mixture(self.weights, jnp.sqrt(alpha2) * self.means, variances)


def mixture(weights: Any, means: Any, variance: float) -> Mixture:
    """Returns a mixture whose parts have one variance."""
    means = jnp.asarray(means, float)
    return Mixture(jnp.asarray(weights), means, jnp.full(means.shape, variance))


def run() -> Story:
    """Makes 11 claims.

    Four have an error bar: by chance alone, one of them fails in 1 % of runs. The
    seeds are fixed.
    """
    with jax.enable_x64(True):
        own = mixture([0.3, 0.7], [-1.0, 1.5], 0.1)
        langevin_claims, shares, samples = _langevin()
        claims = (
            *_views(own),
            *_score_matching(own),
            *_fokker_planck(own),
            *langevin_claims,
        )
        figures = {"langevin": _draw_langevin(samples)}
    return Story(claims, {"shares": shares, "walkers": _CHAINS}, figures)


def line(count: int = 4001, half_width: float = 12.0) -> tuple[jax.Array, float]:
    """Returns nodes of the trapezoidal rule, ``[count]``, and their weight."""
    nodes = jnp.linspace(-half_width, half_width, count)
    return nodes, float(nodes[1] - nodes[0])


# --- three views ---


def _views(own: Mixture) -> list[Claim]:
    """E[x|z] by an integral over x, and by Tweedie's formula from the score of z."""
    x, _ = line()
    z, gammas = jnp.linspace(-3, 3, 61), (-3.0, 0.0, 2.0)
    integrals, tweedie, said = [], [], []
    for level in gammas:
        gamma = jnp.full(z.shape, level)
        alpha, sigma = PROCESS.alpha(gamma), PROCESS.sigma(gamma)
        noise = (z[:, None] - alpha[:, None] * x[None]) / sigma[:, None]
        joint = jnp.exp(own.log_prob(x)[None] - 0.5 * noise**2)
        integrals.append((joint * x[None]).sum(1) / joint.sum(1))
        score = own.noised(level).score(z)
        tweedie.append((z + sigma**2 * score) / alpha)
        noise = -sigma * score
        outputs = {
            "data": tweedie[-1],
            "noise": noise,
            "velocity": alpha * noise - sigma * tweedie[-1],
        }
        said += [
            jnp.stack(read_output(PROCESS, name, out[:, None, None], z[:, None], gamma))
            for name, out in outputs.items()
        ]
    views = np.stack(said).reshape(len(gammas), len(outputs), -1)
    return [
        below(
            "E[x|z] by an integral, and (z + σ² score) / α by Tweedie: largest"
            " difference",
            1e-9,
            np.abs(np.subtract(integrals, tweedie)),
        ),
        below(
            "a denoiser read as image, as noise and as velocity says one thing: largest"
            " difference",
            1e-9,
            np.abs(views - views[:, :1]),
        ),
    ]


def _score_matching(own: Mixture) -> list[Claim]:
    """Both losses of wrong models, by quadrature."""
    gamma = 0.0
    noised = own.noised(gamma)
    alpha, sigma = (
        float(part(jnp.asarray(gamma))) for part in (PROCESS.alpha, PROCESS.sigma)
    )
    z, weight = line()
    density, score = jnp.exp(noised.log_prob(z)), noised.score(z)
    # E|score of q(z|x)|^2 is 1 / sigma^2.
    constant = 1 / sigma**2 - float((density * score**2).sum() * weight)
    x, x_weight = line(1201, 6.0)
    noise, noise_weight = line(801, 9.0)
    pairs = alpha * x[:, None] + sigma * noise[None]
    log_chance = own.log_prob(x)[:, None] - 0.5 * (noise**2 + np.log(2 * np.pi))[None]
    chance = jnp.exp(log_chance) * x_weight * noise_weight
    models: dict[str, Callable] = {
        "−z": lambda z: -z,
        "sin 3z": lambda z: jnp.sin(3 * z),
    }
    claims = []
    for name, model in models.items():
        explicit = (density * (model(z) - score) ** 2).sum() * weight
        denoising = (chance * (model(pairs) + noise[None] / sigma) ** 2).sum()
        claims.append(
            equal(
                f"score {name}: denoising less explicit score matching",
                constant,
                float(denoising - explicit),
                within=1e-8,
                digits=6,
            )
        )
    return claims


def _fokker_planck(own: Mixture) -> list[Claim]:
    """dz = -z/2 dt + dW: alpha is exp(-t/2), and gamma is log(exp(t) - 1)."""

    def density(t, z):
        return jnp.exp(own.noised(jnp.log(jnp.expm1(t))).log_prob(z))

    def residual(t, z):
        drift = jax.grad(lambda z: z * density(t, z))
        second = jax.grad(jax.grad(density, 1), 1)(t, z)
        return jax.grad(density)(t, z) - 0.5 * drift(z) - 0.5 * second

    t, z = jnp.meshgrid(jnp.array([0.05, 0.3, 1.0, 3.0]), jnp.linspace(-3, 3, 61))
    found = jax.vmap(residual)(t.ravel(), z.ravel())

    # The equation of motion itself, in small steps that are not exact.
    rng, h, steps = np.random.default_rng(3), 0.01, 100
    part = rng.random(_CHAINS) < float(own.weights[0])
    means, spread = np.asarray(own.means), np.sqrt(float(own.variances[0]))
    walkers = np.where(part, *means) + spread * rng.standard_normal(_CHAINS)
    for _ in range(steps):
        walkers += -0.5 * h * walkers + np.sqrt(h) * rng.standard_normal(_CHAINS)
    z, weight = line()
    density_after = np.asarray(density(steps * h, z))
    predicted = float((density_after * (z > 0)).sum() * weight)
    share = float((walkers > 0).mean())
    return [
        below(
            "Fokker-Planck, ∂q/∂t = ½ ∂(zq)/∂z + ½ ∂²q/∂z²: largest residual",
            1e-10,
            jnp.abs(found),
        ),
        equal(
            f"share of z > 0 at t = {steps * h:g}: q(z), and {_CHAINS:,} walkers",
            predicted,
            share,
            within=3 * np.sqrt(predicted * (1 - predicted) / _CHAINS),
        ),
    ]


# --- Langevin ---


def langevin(
    score: Callable, key: jax.Array, z: jax.Array, h: Any, steps: int
) -> jax.Array:
    """Returns z after steps z <- z + h score(z) + sqrt(2 h) noise."""

    def step(i, z):
        noise = jax.random.normal(jax.random.fold_in(key, i), z.shape)
        return z + h * score(z) + jnp.sqrt(2 * h) * noise

    return jax.lax.fori_loop(0, steps, step, z)


def share_by_start(own: Mixture, starts: jax.Array) -> float:
    """Returns the share of walkers that reach the first mean before the second.

    With small steps, a walker between them does so with the chance that the integral
    of 1/q to the second mean has of the whole integral.
    """
    nodes = jnp.linspace(own.means[0], own.means[1], 20_001)
    inverse = np.exp(-np.asarray(own.log_prob(nodes)))
    way = scipy.integrate.cumulative_trapezoid(inverse, nodes, initial=0)
    return float(np.interp(starts, nodes, 1 - way / way[-1]).mean())


def _langevin() -> tuple[list[Claim], dict[str, float], dict[str, np.ndarray]]:
    claims = []
    for h in (0.1, 0.5, 1.5):
        z = langevin(lambda z: -z, jax.random.key(7), jnp.zeros(_CHAINS), h, 100)
        predicted = 1 / (1 - h / 2)
        claims.append(
            equal(
                f"N(0, 1) by Langevin with step h = {h:g}: variance of the samples",
                predicted,
                float(z.var()),
                within=3 * predicted * np.sqrt(2 / _CHAINS),
            )
        )
    own = mixture([0.2, 0.8], [-5.0, 5.0], 1.0)
    starts = jnp.linspace(-8, 8, _CHAINS)
    plain = langevin(own.score, jax.random.key(8), starts, 0.02, 500)
    # From much noise to none. Each level's steps fit its width.
    gammas = jnp.linspace(4.0, -4.0, 40)

    def level(z, inputs):
        i, gamma = inputs
        noised = own.noised(gamma)
        key = jax.random.fold_in(jax.random.key(9), i)
        z = langevin(noised.score, key, z, 0.05 * noised.variances[0], 100)
        # To the scale of the next level.
        following = jnp.minimum(i + 1, len(gammas) - 1)
        return z * PROCESS.alpha(gammas[following]) / PROCESS.alpha(gamma), None

    first = jax.random.normal(jax.random.key(10), (_CHAINS,))
    annealed, _ = jax.lax.scan(level, first, (jnp.arange(len(gammas)), gammas))
    shares = {
        "start": share_by_start(own, starts),
        "plain": float((plain < 0).mean()),
        "annealed": float((annealed < 0).mean()),
    }
    claims += [
        equal(
            "weights 0.2 and 0.8, plain Langevin: share of the first, by its start",
            shares["start"],
            shares["plain"],
            within=0.01,
        ),
        equal(
            "weights 0.2 and 0.8, annealed Langevin: share of the first",
            0.2,
            shares["annealed"],
            within=0.02,
        ),
    ]
    return claims, shares, {"plain": np.array(plain), "annealed": np.array(annealed)}


@drawing(6.8, 2.8)
def _draw_langevin(figure: Figure, ends: dict[str, np.ndarray]) -> None:
    """Samples of both ways on the density of the mixture."""
    own, z = mixture([0.2, 0.8], [-5.0, 5.0], 1.0), jnp.linspace(-9, 9, 400)
    for axes, (name, samples) in zip(
        figure.subplots(1, 2, sharey=True), ends.items(), strict=True
    ):
        look = {"color": COLORS[5], "label": "samples"}
        axes.hist(samples, bins=90, range=(-9, 9), density=True, **look)
        axes.plot(z, np.exp(own.log_prob(z)), color=INK, lw=1, label="density")
        axes.set_title(f"{name} Langevin")
        axes.set_yticks([])
    axes.legend(loc="upper left")
