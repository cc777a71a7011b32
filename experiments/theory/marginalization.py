"""p(x) as an average over the prior: right in expectation, at the cost of many samples.

The models are VAEs that are probabilistic PCA of the digits, so that log p(x) and
p(z|x) are known.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.special import logsumexp

from experiments.report.style import COLORS, FAINT
from experiments.theory.claims import Claim, Story, below, equal, equal_mean
from experiments.theory.figures import drawing
from experiments.theory.models import load
from vae_jax.evidence import LinearGaussian, importance_estimate
from vae_jax.model import VAE, Params

LATENTS = (2, 5, 10, 20)
_COUNTS = (1, 10, 100, 1_000, 10_000, 100_000)  # samples in an average
_REPETITIONS = 30  # averages of the largest count
_ERROR_WANTED = 0.1  # of p(x), relative: 0.1 nats of log p(x)
WIDER = 1.2  # the encoder's posterior over the true one: good, but not perfect


def with_wider_encoder(params: Params, exact: LinearGaussian) -> Params:
    """Returns the parameters with q(z|x) ``WIDER`` times as wide as p(z|x)."""
    _, log_scale = exact.mean_field(exact.offset[None])
    head = params["encoder"]["head"]
    # The inverse of DiagonalGaussian.from_outputs' bound.
    bias = jnp.asarray(20 * np.arctanh((log_scale + np.log(WIDER)) / 20), jnp.float32)
    return {
        **params,
        "encoder": {"head": {**head, "log_scale": {**head["log_scale"], "bias": bias}}},
    }


def log_weights(
    model: VAE, params: Params, key: jax.Array, x: jax.Array, count: int
) -> jax.Array:
    """Returns log p(x, z)/q(z|x) of samples z ~ q(z|x), nats, ``[count]``.

    The library's estimate from a single sample is the sample's log-weight.
    """

    def one(key):
        estimate = importance_estimate(model, params, key, x, num_samples=1, chunk=1)
        return estimate.log_px

    return jax.lax.map(one, jax.random.split(key, count), batch_size=10_000)


def averages(log_weights: np.ndarray, size: int) -> np.ndarray:
    """Returns the log of the mean weight of each group of ``size`` samples, nats."""
    groups = log_weights.reshape(-1, size).astype(np.float64)
    return logsumexp(groups, axis=1) - np.log(size)


def log_moment(mean: np.ndarray, scale: np.ndarray, order: int) -> float:
    """Returns log E_p(z)[(p(x|z)/p(x))^order], nats, in closed form.

    p(x|z)/p(x) is p(z|x)/p(z), which is N(mean, scale^2) over N(0, 1) in each latent;
    its powers have Gaussian integrals if the scale is below 1.
    """
    precision = order / scale**2 - (order - 1)
    linear = order * mean / scale**2
    return float(
        0.5 * (linear**2 / precision - order * mean**2 / scale**2).sum()
        - 0.5 * np.log(precision).sum()
        - order * np.log(scale).sum()
    )


def chance_of_success(
    mean: np.ndarray, scale: np.ndarray, num_samples: int, nats: float
) -> float:
    """Returns a bound on the chance that averaging reaches log p(x) - nats.

    Let w be p(x|z)/p(x), and b any threshold. Among n samples of the prior one with
    w > b occurs with probability n P(w > b) at most. The others have the mean weight
    P(w <= b under p(z|x)), so by Markov's inequality their average is rarely large.
    Both probabilities are averages over exact samples of p(z|x). The idea is that of
    Chatterjee & Diaconis 2018, theorem 1.1: n must be of the order exp(KL(p(z|x) ||
    p(z))).
    """
    noise = np.random.default_rng(0).normal(size=(100_000, mean.size))
    z = mean + scale * noise
    log_weight = (0.5 * (z**2 - noise**2) - np.log(scale)).sum(1)
    thresholds = np.linspace(log_weight.min(), log_weight.max(), 200)
    bounds = [
        np.exp(nats) * np.mean(log_weight <= b)
        + num_samples * np.mean(np.exp(-log_weight) * (log_weight > b))
        for b in thresholds
    ]
    return float(min(bounds))


def run() -> Story:
    """Makes seven claims; six allow three standard errors, and one of 60 runs fails."""
    images = load("digits")
    x = images.observe("continuous", jax.random.key(1), images.test[:1])
    key = jax.random.key(2)
    sample = jax.jit(log_weights, static_argnums=(0, 4))
    total = _REPETITIONS * _COUNTS[-1]

    claims: list[Claim] = []
    table = []
    naive_curves, weighted_curves = {}, {}
    for latent_dim in LATENTS:
        # The exact answers, in float64: log p(x), and p(z|x) = N(mean, scale^2).
        exact = LinearGaussian.fit(images.centres, latent_dim)
        log_px = float(exact.log_prob(x)[0])
        (mean,), log_scale = exact.mean_field(x)
        scale = np.exp(log_scale)
        naive_variance = np.expm1(log_moment(mean, scale, 2))
        # E_q[(p(z|x)/q(z|x))^2] of two Gaussians at one mean, per latent.
        second_moment = (WIDER**2 / np.sqrt(2 * WIDER**2 - 1)) ** latent_dim

        model, params = exact.to_vae(images.shape, images.levels)
        prior_key, posterior_key = jax.random.split(jax.random.fold_in(key, latent_dim))
        # With q(z|x) = p(z), importance weighting is averaging.
        blind = {**params, "encoder": jax.tree.map(jnp.zeros_like, params["encoder"])}
        wider = with_wider_encoder(params, exact)
        naive = np.asarray(sample(model, blind, prior_key, x[0], total))
        weighted = np.asarray(sample(model, wider, posterior_key, x[0], total // 5))
        naive_curves[latent_dim] = _errors(naive, log_px)
        weighted_curves[latent_dim] = _errors(weighted, log_px)
        table.append(
            {
                "latents": latent_dim,
                "log_px": log_px,
                "naive_second_moment": 1 + naive_variance,
                "naive_needed": naive_variance / _ERROR_WANTED**2,
                "weighted_needed": (second_moment - 1) / _ERROR_WANTED**2,
                "naive_error": naive_curves[latent_dim][-1],
                "weighted_error": weighted_curves[latent_dim][3],
                "naive_effective": _effective(naive[: _COUNTS[-1]]),
                "weighted_effective": _effective(weighted[: _COUNTS[-1]]),
            }
        )

        if latent_dim == LATENTS[0]:
            # The standard error of the mean weight is that of theory: an estimate from
            # these weights would be too small if they missed the large ones.
            claims.append(
                equal(
                    f"{latent_dim} latents: average of the likelihood over "
                    f"{total:,} samples of the prior, over p(x)",
                    1.0,
                    float(np.exp(averages(naive, total) - log_px)[0]),
                    within=3 * float(np.sqrt(naive_variance / total)),
                )
            )
        if latent_dim == LATENTS[-1]:
            # The bound is generous: an average this close would be a sign of an error.
            reached = averages(naive, _COUNTS[-1]) > log_px - 1
            claims.append(
                below(
                    f"{latent_dim} latents: share of averages of {_COUNTS[-1]:,} "
                    "samples of the prior within 1 nat",
                    chance_of_success(mean, scale, _COUNTS[-1], 1.0),
                    reached.mean(),
                )
            )
        # Groups of samples give the error of the effective share.
        shares = [_effective(group) / group.size for group in np.split(weighted, 100)]
        statement = f"{latent_dim} latents: effective share of the encoder's samples"
        claims.append(equal_mean(statement, 1 / second_moment, shares, digits=4))
    # The error of log p(x) falls as that of a mean of weights: sqrt(variance / n).
    size = _COUNTS[3]
    predicted = float(np.sqrt((second_moment - 1) / size))
    claims.append(
        equal(
            f"{latent_dim} latents: root mean square error of log p(x) from {size:,} "
            "samples of the encoder, nats",
            predicted,
            weighted_curves[latent_dim][3],
            within=3 * predicted / np.sqrt(2 * weighted.size / size),
            digits=4,
        )
    )
    numbers = {
        "table": table,
        "error_wanted": _ERROR_WANTED,
        "wider": WIDER,
        "largest_count": _COUNTS[-1],
        "weighted_count": size,
    }
    figures = {"samples": _draw_samples(naive_curves, weighted_curves)}
    return Story(tuple(claims), numbers, figures)


def _effective(log_weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2, between 1 and the number of samples."""
    scaled = np.exp(log_weights.astype(np.float64) - log_weights.max())
    return float(scaled.sum() ** 2 / (scaled**2).sum())


def _errors(log_weights: np.ndarray, log_px: float) -> list[float]:
    """Root mean square error of log p(x), nats, by number of samples."""
    return [
        float(np.sqrt(((averages(log_weights, count) - log_px) ** 2).mean()))
        for count in _COUNTS
        if log_weights.size >= _REPETITIONS * count
    ]


@drawing(7.6, 3.6)
def _draw_samples(
    figure: Figure, naive: dict[int, list[float]], weighted: dict[int, list[float]]
) -> None:
    """The error against the number of samples: from the prior, and from the encoder."""
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    titles = ("averaged over the prior", "weighted, from the encoder")
    for axes, title, curves in zip(panels, titles, (naive, weighted), strict=True):
        for (latent_dim, errors), color in zip(curves.items(), COLORS, strict=False):
            label, counts = f"{latent_dim} latents", _COUNTS[: len(errors)]
            axes.plot(counts, errors, marker="o", ms=4, color=color, label=label)
        axes.axhline(_ERROR_WANTED, color=FAINT, lw=1, ls="--")
        axes.set(
            title=title, xscale="log", yscale="log", xlabel="samples in an average"
        )
    panels[0].set_ylabel("root mean square error of log p(x), nats")
    panels[1].legend(loc="upper right")
