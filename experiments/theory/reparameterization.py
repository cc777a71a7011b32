"""The gradient of an expectation from samples: three unbiased ways, unequal in noise.

The model is probabilistic PCA of the digits. There the ELBO of any Gaussian q is known,
and so are its gradient and the variance of each estimator. Computed in float64, which
tells a variance of zero from rounding.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.report.style import COLORS
from experiments.theory.claims import Story, below, equal
from experiments.theory.figures import drawing
from experiments.theory.models import load
from vae_jax.distributions import DiagonalGaussian, latent_noise
from vae_jax.evidence import LinearGaussian
from vae_jax.model import VAE, Params
from vae_jax.objectives import ElboLogWeight

_LATENTS = 5
_SAMPLES = 100_000
# How far q is from the true posterior towards the prior: all the way, ..., there.
_PATH = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.0)

# log p(x, z) - log q(z) of one z [L] under a q, nats, up to a constant.
LogWeight = Callable[[DiagonalGaussian, jax.Array], jax.Array]
# An estimate of the gradient by q, from a log-weight, q and standard normal noise [L].
Estimator = Callable[[LogWeight, DiagonalGaussian, jax.Array], DiagonalGaussian]


def log_weight(
    model: VAE, params: Params, x: jax.Array, q: DiagonalGaussian, z: jax.Array
) -> jax.Array:
    """Returns log p(x, z) - log q(z) of one z ``[L]``, nats: the ELBO on average."""
    z = z[None, None]
    log_joint = model.log_likelihood(params, x[None], z)
    log_joint += model.prior(params).log_prob(z)
    return (log_joint - log_density(q, z))[0, 0]


def log_density(q: DiagonalGaussian, z: jax.Array) -> jax.Array:
    """Returns log q(z) of z ``[1, 1, L]``, nats, ``[1, 1]``."""
    return DiagonalGaussian(q.mean[None], q.log_scale[None]).log_prob(z)


def pathwise(log_weight: LogWeight, q: DiagonalGaussian, noise) -> DiagonalGaussian:
    """Returns the gradient through the sample, z = mean + scale * noise.

    The sample moves with q: Kingma & Welling 2014, section 2.4.
    """
    return jax.grad(lambda q: log_weight(q, q.sample(noise[None])[0]))(q)


def sticking_the_landing(log_weight: LogWeight, q, noise) -> DiagonalGaussian:
    """Returns the pathwise gradient without the part that is zero on average.

    q is held fixed in its log-density: Roeder et al. 2017, "Sticking the landing".
    """
    fixed = jax.lax.stop_gradient(q)
    return jax.grad(lambda q: log_weight(fixed, q.sample(noise[None])[0]))(q)


def score_function(log_weight: LogWeight, q, noise) -> DiagonalGaussian:
    """Returns the log-weight times the gradient of log q(z).

    The sample stays where it is, and becomes likelier the better it was. Needs no
    derivative of the decoder. Williams 1992, REINFORCE. A constant that is subtracted
    from the log-weight, the baseline, changes the variance and not the mean.
    """
    z = q.sample(noise[None])[0]
    reward = log_weight(q, z)
    slopes = jax.grad(lambda q: log_density(q, z[None, None])[0, 0])(q)
    return jax.tree.map(lambda slope: reward * slope, slopes)


def exact_gradient(
    precision: np.ndarray, distance: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Returns the ELBO's gradient by q's means and log-scales, ``[2 L]``, nats.

    The ELBO is log p(x) - KL(q || p(z|x)), quadratic in the means and scales.

    Args:
        precision: of p(z|x), diagonal, ``[L]``.
        distance: q's means minus those of p(z|x), ``[L]``.
        scale: of q, ``[L]``.
    """
    return np.concatenate([-precision * distance, 1 - precision * scale**2])


def score_variance_of_means(
    precision: np.ndarray, distance: np.ndarray, scale: np.ndarray, bound: float
) -> np.ndarray:
    """Returns the variance of ``score_function`` by the means, ``[L]``.

    The log-weight is bound + sum of linear e + square (e^2 - 1) over latents, for
    independent standard normal e; times e/scale it has moments up to e^6.

    Args:
        precision: of p(z|x), diagonal, ``[L]``.
        distance: q's means minus those of p(z|x), ``[L]``.
        scale: of q, ``[L]``.
        bound: the ELBO minus the baseline, nats.
    """
    linear = -precision * distance * scale
    square = 0.5 * (1 - precision * scale**2)
    others = linear**2 + 2 * square**2
    others = others.sum() - others  # variance of the log-weight's other latents
    # E[(bound + l e + s (e^2 - 1))^2 e^2], of which l is the root mean.
    second = bound**2 + 4 * bound * square + 3 * linear**2 + 10 * square**2 + others
    return (second - linear**2) / scale**2


class Place(NamedTuple):
    """A q on the way from the prior to the true posterior."""

    q: DiagonalGaussian
    distance: np.ndarray  # of its means to the true ones, [L]
    scale: np.ndarray  # [L]
    elbo: float  # nats
    kl: float  # KL(q || p(z|x)), nats


class Moments(NamedTuple):
    """Moments of gradients by q's means and log-scales, one sample each, ``[2 L]``."""

    mean: jax.Array | np.ndarray
    variance: jax.Array | np.ndarray


def places(exact: LinearGaussian, x: np.ndarray) -> list[Place]:
    """Returns the path of one image x ``[1, D]``."""
    (true_mean,), true_log_scale = exact.mean_field(x)
    found = []
    for away in _PATH:
        mean, log_scale = (1 - away) * true_mean, (1 - away) * true_log_scale
        elbo = float(exact.elbo(x, mean, log_scale)[0])
        found.append(
            Place(
                DiagonalGaussian(jnp.asarray(mean), jnp.asarray(log_scale)),
                mean - true_mean,
                np.exp(log_scale),
                elbo,
                float(exact.log_prob(x)[0]) - elbo,
            )
        )
    return found


def double_precision(
    exact: LinearGaussian, shape: tuple[int, int, int], levels: int
) -> tuple[VAE, Params]:
    """Returns the model as a VAE with an unrounded decoder; call with x64 enabled."""
    model, params = exact.to_vae(shape, levels)
    decoder = {
        "output": {"kernel": jnp.asarray(exact.weights.T)},
        "bias": {"pixels": jnp.asarray(exact.offset[None])},
    }
    return model, {**params, "decoder": decoder}


def moments(estimator: Estimator, model, params, x, q, noise, baseline) -> Moments:
    """Returns an estimator's moments over samples of the noise ``[S, L]``."""

    def advantage(q, z):
        return log_weight(model, params, x, q, z) - baseline

    gradients = jax.vmap(lambda e: estimator(advantage, q, e))(noise)
    stacked = jnp.concatenate(gradients, axis=-1)  # [S, 2 L]
    return Moments(stacked.mean(0), stacked.var(0, ddof=1))


def difference_to_library(
    model: VAE, params: Params, x: jax.Array, q: DiagonalGaussian
) -> float:
    """Returns the largest difference of ``pathwise`` to the library's gradient.

    By the means of q, which are the biases of an encoder that does not look at x.
    """
    key = jax.random.key(3)
    encoder = jax.tree.map(jnp.zeros_like, params["encoder"])
    raw_log_scale = 20 * jnp.arctanh(q.log_scale / 20)
    encoder["head"]["log_scale"]["bias"] = raw_log_scale

    def objective(mean):
        encoder["head"]["mean"]["bias"] = mean
        terms = ElboLogWeight(num_samples=10)(
            model, {**params, "encoder": encoder}, key, x[None]
        )
        return terms.bound[0]

    noise = latent_noise(jax.random.clone(key), 10, 1, _LATENTS)[:, 0]
    weight = functools.partial(log_weight, model, params, x)
    own = jax.vmap(lambda e: pathwise(weight, q, e).mean)(noise).mean(0)
    return float(jnp.abs(jax.grad(objective)(q.mean) - own).max())


_ESTIMATORS: dict[str, Estimator] = {
    "score function": score_function,
    "score function, baseline": score_function,
    "pathwise": pathwise,
    "sticking the landing": sticking_the_landing,
}
_COLORS = (COLORS[1], COLORS[4], COLORS[0], COLORS[2])


def run() -> Story:
    """Makes nine claims.

    Four are about the largest of 80 (or 70) standardised errors: above 4 by chance once
    in 200 each. Two are ratios within three standard errors.
    """
    images = load("digits")
    exact = LinearGaussian.fit(images.centres, _LATENTS)
    observed = images.observe("continuous", jax.random.key(1), images.test[:1])
    image = np.asarray(observed, np.float64)
    precision = np.diag(exact.posterior_precision)

    with jax.enable_x64(True):
        path = places(exact, image)
        model, params = double_precision(exact, images.shape, images.levels)
        x = jnp.asarray(image[0])
        noise = jax.random.normal(jax.random.key(2), (_SAMPLES, _LATENTS))
        measure = jax.jit(moments, static_argnums=(0, 1))
        measured: dict[str, list[Moments]] = {}
        for name, estimator in _ESTIMATORS.items():
            found = []
            for place in path:
                baseline = place.elbo if "baseline" in name else 0.0
                own = measure(estimator, model, params, x, place.q, noise, baseline)
                found.append(Moments(*map(np.asarray, own)))
            measured[name] = found
        difference = difference_to_library(model, params, x, path[1].q)

    # Variances by the means, summed over latents: in closed form, and measured.
    formulas = (
        lambda p: score_variance_of_means(precision, p.distance, p.scale, p.elbo),
        lambda p: score_variance_of_means(precision, p.distance, p.scale, 0.0),
        # Of -precision (distance + scale e), for a standard normal e.
        lambda p: precision**2 * p.scale**2,
        # Of the same plus e / scale: 0 where q is as wide as p(z|x).
        lambda p: ((1 - precision * p.scale**2) / p.scale) ** 2,
    )
    predicted = {
        name: [float(formula(place).sum()) for place in path]
        for name, formula in zip(_ESTIMATORS, formulas, strict=True)
    }
    variances = {
        name: [float(m.variance[:_LATENTS].sum()) for m in own]
        for name, own in measured.items()
    }

    near = _PATH.index(0.1)
    ratios = {
        name: predicted[name][near] / predicted["pathwise"][near]
        for name in ("score function", "sticking the landing")
    }
    claims = [
        below(
            "largest difference of the pathwise gradient to that of the library's "
            "`elbo_log_weight`",
            1e-9,
            difference,
        ),
        *(
            below(
                f"{name}: largest error of its mean, in standard errors",
                4.0,
                _largest_error(own, path, precision),
            )
            for name, own in measured.items()
        ),
        *(
            equal(
                f"near the true posterior: variance of {name}, in variances of "
                "pathwise",
                ratio,
                variances[name][near] / variances["pathwise"][near],
                # 100,000 samples give a variance within 1 % if tails are heavy
                # (kurtosis below 10).
                within=0.03 * ratio,
            )
            for name, ratio in ratios.items()
        ),
        equal(
            "at the true posterior: variance of pathwise",
            predicted["pathwise"][-1],
            variances["pathwise"][-1],
            within=0.02 * predicted["pathwise"][-1],
            digits=1,
        ),
        below(
            "at the true posterior: variance of sticking the landing",
            1e-20,
            variances["sticking the landing"][-1],
        ),
    ]
    numbers = {
        "latents": _LATENTS,
        "samples": _SAMPLES,
        "kl_far": path[0].kl,
        "kl_near": path[near].kl,
        "elbo_near": path[near].elbo,
        "near": {name: own[near] for name, own in variances.items()},
        "there": {name: own[-1] for name, own in variances.items()},
    }
    figures = {"variance": _draw_variances(path, variances, predicted)}
    return Story(tuple(claims), numbers, figures)


def _largest_error(
    measured: list[Moments], path: list[Place], precision: np.ndarray
) -> float:
    """Over places and parameters, in standard errors.

    An estimator without noise (a variance below 1e-20 is rounding) must give the exact
    gradient, up to rounding; if it does not, the error is infinite.
    """
    largest = 0.0
    for place, estimate in zip(path, measured, strict=True):
        exact = exact_gradient(precision, place.distance, place.scale)
        error = np.abs(estimate.mean - exact)
        noisy = estimate.variance > 1e-20
        standard = np.sqrt(estimate.variance / _SAMPLES)
        in_standard_errors = np.divide(
            error, standard, out=np.where(error < 1e-9, 0.0, np.inf), where=noisy
        )
        largest = max(largest, float(in_standard_errors.max()))
    return largest


@drawing(6.6, 3.9)
def _draw_variances(
    figure: Figure,
    path: list[Place],
    measured: dict[str, list[float]],
    predicted: dict[str, list[float]],
) -> None:
    """The variance of each estimator along the path: lines as predicted."""
    axes = figure.add_subplot(
        xscale="log",
        yscale="log",
        xlabel="KL(q ‖ p(z|x)), nats: the true posterior is to the right",
        ylabel="variance of a gradient by q's means",
    )
    # The last place is the true posterior: on a logarithmic axis it is infinitely far.
    distance = [place.kl for place in path[:-1]]
    for (name, own), color in zip(measured.items(), _COLORS, strict=True):
        axes.plot(distance, predicted[name][:-1], color=color)
        axes.plot(distance, own[:-1], ls="", marker="o", ms=5, color=color)
        axes.plot([], [], color=color, marker="o", ms=5, label=name)
    axes.invert_xaxis()
    figure.legend(loc="outside upper center", ncols=2)
