"""A chain of latents with a fixed encoder: steps, layers, and two forms of the ELBO.

The images have a normal distribution, fitted to digits. So the best denoiser is linear,
and both forms are polynomials of degree two in the noise: their mean and variance are
known. Everything is in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.report.style import COLORS
from experiments.theory.claims import Claim, Story, above, below, equal, mean_and_error
from experiments.theory.figures import drawing
from experiments.theory.models import GAMMA, exact_chain, fitted
from vae_jax.diffusion import GaussianImages, Process
from vae_jax.distributions import DiagonalGaussian
from vae_jax.priors.diffusion import DiffusionPrior

# Denoisers, and T. The wrong one takes pixels to be independent, of one variance.
_CASES = (("exact", 4), ("exact", 16), ("wrong", 16))
_FORMS = ("consistency", "denoising")
_DRAWS = 5_000


class Quadratic(NamedTuple):
    """Mean and variance of a function of standard normals, of degree at most two."""

    mean: float
    variance: float


def forward(
    process: Process, z: jax.Array, gamma_before: jax.Array, gamma: jax.Array
) -> DiagonalGaussian:
    """Returns q(z_t|z_s) of z_s ``[..., D]``, for gammas ``[...]`` of s and t."""
    ratio = process.alpha(gamma) / process.alpha(gamma_before)
    added = process.sigma(gamma) ** 2 - (ratio * process.sigma(gamma_before)) ** 2
    log_scale = 0.5 * jnp.log(added)[..., None]
    mean = ratio[..., None] * z
    return DiagonalGaussian(mean, jnp.broadcast_to(log_scale, mean.shape))


def kl(q: DiagonalGaussian, p: DiagonalGaussian) -> jax.Array:
    """Returns KL(q || p) in nats, ``[...]``."""
    return q.relative_to(p.mean, p.log_scale).kl_to_standard_normal().sum(-1)


def run() -> Story:
    """Makes 18 claims.

    Nine have an error bar: by chance alone, one of them fails in 2 % of runs. The seeds
    are fixed. The others are exact but for rounding.
    """
    with jax.enable_x64(True):
        images, x = fitted(31)
        table, form_claims = _two_forms(images, x)
        claims = (*_composition(), *_layers(images, x), *form_claims)
    return Story(
        claims, {"forms": table, "pixels": len(x)}, {"forms": _draw_forms(table)}
    )


# --- steps ---


def _composition() -> list[Claim]:
    """Steps z <- factor z + sqrt(b) noise, of images of variance 1."""
    alpha, variance = 1.0, 0.0
    for added in np.linspace(1e-4, 0.02, 1000):  # of Ho, Jain and Abbeel 2020
        alpha *= float(np.sqrt(1 - added))
        variance = float((1 - added) * variance + added)
    process, gamma = Process(), jnp.log(variance) - 2 * jnp.log(alpha)
    found = np.array([process.alpha(gamma), process.sigma(gamma) ** 2])
    claims = [
        below(
            "1,000 steps composed, one by one, and q(z_t|x) in one: largest relative"
            " difference of factor and variance",
            1e-10,
            np.abs(found / [alpha, variance] - 1),
        )
    ]
    rng, b, steps = np.random.default_rng(0), 0.02, 500
    factors: dict[str, tuple[float, float]] = {
        "√(1 − b)": (float(np.sqrt(1 - b)), 1.0),
        "1 − b": (1 - b, 1 / (2 - b)),
        "1": (1.0, 1 + steps * b),
    }
    for name, (factor, predicted) in factors.items():
        z = rng.standard_normal(_DRAWS)
        for _ in range(steps):
            z = factor * z + np.sqrt(b) * rng.standard_normal(_DRAWS)
        error = predicted * np.sqrt(2 / _DRAWS)
        claims.append(
            equal(
                f"variance after {steps} steps with b = {b:g} and the factor {name}",
                predicted,
                float(z.var()),
                within=3 * error,
            )
        )
    return claims


def _layers(images: GaussianImages, x: np.ndarray) -> list[Claim]:
    """Bayes' rule at random points, and the KL of layers of random times."""
    rng, num = np.random.default_rng(1), 200
    gamma_before, gamma = jnp.asarray(np.sort(rng.uniform(*GAMMA, (2, num)), axis=0))
    noise, other = jnp.asarray(rng.standard_normal((2, num, len(x))))
    chain, process, image = exact_chain(images), Process(), jnp.asarray(x)[None]
    z = process.noised(image, gamma, noise)
    zs = process.noised(image, gamma_before, other)
    posterior = process.step(z, noise, gamma, gamma_before)
    backwards = _log(posterior, zs) + _log(process.layer(image, gamma), z)
    forwards = _log(forward(process, zs, gamma_before, gamma), z)
    forwards += _log(process.layer(image, gamma_before), zs)
    found = chain.denoised(z, gamma)
    measured = kl(posterior, process.step(z, found.noise, gamma, gamma_before))
    errors = ((image - found.x) ** 2).sum(-1)
    predicted = 0.5 * (jnp.exp(-gamma_before) - jnp.exp(-gamma)) * errors
    return [
        below(
            "q(z_s|z_t, x) q(z_t|x) and q(z_t|z_s) q(z_s|x): largest difference of"
            f" logarithms at {num} points, nats",
            1e-8,
            np.abs(backwards - forwards),
        ),
        below(
            "KL of a layer, and ½ (SNR_s − SNR_t) ‖x − x̂‖²: largest relative"
            f" difference in {num} layers",
            1e-8,
            np.abs(measured / predicted - 1),
        ),
    ]


def _log(gaussian: DiagonalGaussian, z: jax.Array) -> jax.Array:
    """Returns the log-density of one value of each, nats."""
    return gaussian.log_prob(z[None])[0]


# --- two forms ---


def two_forms(chain: DiffusionPrior, x: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns minus the ELBO as two sums over one walk z_0 ... z_T, and a mistake.

    Args:
        chain: a diffusion model; its readout is N(z_0 / alpha_0, e^gamma_0 I).
        x: ``[D]``.
        noise: standard normal, ``[T + 1, D]``, of q(z_0|x) and of each q(z_t|z_s).

    Returns:
        The consistency form, which compares q(z_t|z_{t-1}) with p(z_t|z_{t+1}) at z_t,
        the denoising form, a KL(q(z_{t-1}|z_t, x) || p(z_{t-1}|z_t)) a layer, and the
        mistake, a KL(q(z_t|z_{t-1}) || p(z_t|z_{t+1})) a layer. The terms in nats,
        those of the layers 0 to T and of the readout, ``[3, T + 2]``.
    """
    process = chain.family.process
    gammas = chain.gamma(jnp.linspace(0.0, 1.0, len(noise)))
    before, gamma = gammas[:-1], gammas[1:]
    encoder = [process.layer(x, gammas[0])]  # q(z_0|x), q(z_1|z_0), ...
    z = encoder[0].sample(noise[:1])
    for t in range(1, len(noise)):
        encoder.append(forward(process, z[-1], gammas[t - 1], gammas[t]))
        z = jnp.concatenate([z, encoder[t].sample(noise[t : t + 1])])

    std = jnp.broadcast_to(gammas[0] / 2, x.shape)  # its logarithm
    readout = -_log(DiagonalGaussian(z[0] / process.alpha(gammas[0]), std), x)
    predicted = chain.denoised(z[1:], gamma).noise
    generative = process.step(z[1:], predicted, gamma, before)
    signal = process.alpha(gamma)[:, None] * x[None]
    true = (z[1:] - signal) / process.sigma(gamma)[:, None]
    posterior = process.step(z[1:], true, gamma, before)
    steps = jax.tree.map(lambda *leaves: jnp.stack(leaves), *encoder[:-1])

    rows = (
        (_log(steps, z[:-1]) - _log(generative, z[:-1]), encoder[-1]),
        (kl(posterior, generative), process.layer(x, gammas[-1])),
        (kl(steps, generative), encoder[-1]),
    )
    return jnp.stack(
        [
            jnp.array([*layers, last.kl_to_standard_normal().sum(), readout])
            for layers, last in rows
        ]
    )


def moments(function: Callable[[jax.Array], jax.Array], size: int) -> list[Quadratic]:
    """Returns the moments of each value of a function of ``size`` standard normals.

    For f = c + g'e + e'He/2 they are c + tr(H)/2 and g'g + tr(HH)/2.
    """
    zero = jnp.zeros(size)
    value, slope = function(zero), jax.jacrev(function)(zero)
    curvature = jax.jacfwd(jax.jacrev(function))(zero)
    means = value + jnp.trace(curvature, axis1=1, axis2=2) / 2
    variances = (slope**2).sum(1) + (curvature**2).sum((1, 2)) / 2
    return [Quadratic(*map(float, own)) for own in zip(means, variances, strict=True)]


def _two_forms(images: GaussianImages, x: np.ndarray) -> tuple[list, list[Claim]]:
    pixels = len(x)
    variance = images.eigenvalues.mean() * np.eye(pixels)
    chosen = {"exact": images, "wrong": GaussianImages(images.mean, variance)}
    table, differences, claims = [], [], []
    for name, steps in _CASES:
        chain, size = exact_chain(chosen[name], noise_steps=steps), (steps + 1) * pixels

        @jax.jit
        def terms(noise, chain=chain):
            return -two_forms(chain, jnp.asarray(x), noise.reshape(-1, pixels))

        def elbos(noise, terms=terms):
            return terms(noise).sum(1)

        noise = jax.random.normal(jax.random.key(steps), (_DRAWS, size))
        draws = np.asarray(jax.lax.map(terms, noise, batch_size=500))
        own = moments(elbos, size)
        row: dict = {"denoiser": name, "steps": steps, "elbo": own[1].mean}
        row["draws"] = draws.sum(2)
        differences.append(abs(own[0].mean - own[1].mean))
        for i, form in enumerate(_FORMS):
            squares = (row["draws"][:, i] - own[i].mean) ** 2
            row[form], error = mean_and_error(squares)
            row[f"{form} alone"] = draws[:, i, :-1].var(0).sum()
            claims.append(
                equal(
                    f"{name} denoiser, T = {steps}: variance of the {form} form, nats²",
                    own[i].variance,
                    row[form],
                    within=3 * error,
                    digits=1,
                )
            )
        if name == "exact":
            differences.append(abs(own[1].mean - elbo(images, x, steps)))
            row["mistake"] = own[1].mean - own[2].mean
            claims.append(
                equal(
                    f"T = {steps}: KLs of q(z_t|z_{{t−1}}) to p(z_t|z_{{t+1}}) are too"
                    " large by, nats",
                    cost_of_mistake(images, steps),
                    row["mistake"],
                    within=1e-8,
                )
            )
        claims.append(
            above(
                f"{name} denoiser, T = {steps}: variances of the single layers, summed,"
                " of the consistency form over those of the denoising form",
                1.0,
                row["consistency alone"] / row["denoising alone"],
            )
        )
        table.append(row)
    return table, [
        below(
            "means of both forms of the ELBO, and its exact value: largest difference,"
            " nats",
            1e-8,
            differences,
        ),
        *claims,
    ]


def cost_of_mistake(images: GaussianImages, steps: int) -> float:
    """Returns what a KL adds that draws z_t without its z_{t+1}, in all layers, nats.

    It is the covariance of z_t and of the mean of p(z_t|z_{t+1}), given z_{t-1}, over
    the variance of p(z_t|z_{t+1}).
    """
    gammas = np.linspace(*GAMMA, steps + 1)[1:, None]
    share = -np.expm1(-(GAMMA[1] - GAMMA[0]) / steps)  # of new noise in each z_t
    # sigma^2 / (alpha^2 lambda + sigma^2), of z_{t+1}
    noise = 1 / (1 + np.exp(-gammas) * images.eigenvalues)
    layers = (1 - share * noise).sum(1)
    return float(layers.sum() + (1 / share - 1) * layers[0])


def elbo(images: GaussianImages, x: np.ndarray, steps: int) -> float:
    """Returns the ELBO of one image with T steps in closed form, nats."""
    snr = np.exp(-np.linspace(*GAMMA, steps + 1))
    readout = len(x) / 2 * (1 + GAMMA[0] + np.log(2 * np.pi))
    last = Process().kl_to_prior(jnp.asarray(x), jnp.asarray(GAMMA[1]))
    return -float(readout + images.diffusion_term(x, snr) + last)


@drawing(6.8, 2.6)
def _draw_forms(figure: Figure, table: list) -> None:
    """Single draws of either form, less their mean."""
    panels = figure.subplots(1, len(table), sharey=True)
    for axes, row in zip(panels, table, strict=True):
        values = row["draws"][:, :2] - row["elbo"]
        bins = np.histogram_bin_edges(values, 60, np.quantile(values, [0.002, 0.998]))
        for form, name in enumerate(_FORMS):
            look = {"color": COLORS[1 - form], "label": name, "histtype": "step"}
            axes.hist(values[:, form], bins, lw=1.5, **look)
        axes.set_title(f"{row['denoiser']} denoiser, T = {row['steps']}")
        axes.set_yticks([])
    figure.supxlabel("one draw less the mean (nats)")
    panels[0].legend(loc="upper left")
