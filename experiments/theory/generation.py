"""Samples of a model, z ~ p(z) and then x ~ p(x|z), are not its means E[x|z].

Pictures of a VAE often show the mean E[x|z]. They lack the variance of p(x|z), which
is a part of the whole by the law of total variance:

    Var[x] = Var[E[x|z]] + E[Var[x|z]].
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.report.style import COLORS, INK
from experiments.theory.claims import (
    Claim,
    Story,
    below,
    equal,
    equal_mean,
    mean_and_error,
)
from experiments.theory.figures import draw_images, drawing
from experiments.theory.models import CONFIG, Images, load, train
from vae_jax import views
from vae_jax.evidence import importance_estimate
from vae_jax.likelihoods import Bernoulli, Beta, Gaussian, Laplace
from vae_jax.likelihoods.continuous import CONCENTRATION_BOUNDS
from vae_jax.likelihoods.interface import Likelihood
from vae_jax.likelihoods.numerics import bounded_exp
from vae_jax.model import VAE, Params
from vae_jax.per_image import map_images

# By name: p(x|z), and what the pictures call it.
_LIKELIHOODS = {
    "bernoulli": "Bernoulli",
    "gaussian_shared": "Gaussian",
    "laplace": "Laplace",
    "beta": "Beta",
    "discretized_logistic": "discretized logistic",
    "categorical": "categorical",
}
_CONFIG = dataclasses.replace(CONFIG, kl_warmup_epochs=30)
_GENERATED = 4000
_SCORED = 300  # generated images, about as many as there are test images
_IMPORTANCE_SAMPLES = 200
_PICTURES = 7


class Generated(NamedTuple):
    """Ancestral samples of one model; z ``[S, latent]``, else ``[S, D]``."""

    z: jax.Array
    mean: jax.Array  # E[x|z], in the view's units
    x: jax.Array  # drawn from p(x|z), in the view's units
    variance: jax.Array  # Var[x|z], in the view's units squared
    # log p(E[x|z] | z) - log p(x|z), nats, [S]; NaN where means are no x of the view
    mean_excess: jax.Array


class Scores(NamedTuple):
    """log p(x), nats: each the mean over images and its standard error."""

    data: tuple[float, float]  # test images
    generated: tuple[float, float]
    gap: tuple[float, float]  # of the same images, an upper bound less this lower one
    means: tuple[float, float] | None  # E[x|z] as an image, where the view has greys


class Found(NamedTuple):
    """The findings about one likelihood; variances of intensity, means over pixels."""

    view: str  # of the likelihood
    of_data: float
    of_means: float  # Var[E[x|z]]
    within: float  # E[Var[x|z]]
    of_samples: float
    error: float  # standard error of of_samples - of_means - within
    mean_excess: np.ndarray  # as in Generated, [S]
    scores: Scores
    pictures: np.ndarray  # intensities of means, then of samples, [2 _PICTURES, D]


def run() -> Story:
    """Makes eleven claims.

    Eight have an error bar: by chance alone, one of these numbers is off by more than
    three standard errors in 2 % of runs. The seeds are fixed.
    """
    images = load("digits")
    keys = jax.random.split(jax.random.key(21), len(_LIKELIHOODS))
    found = {
        label: investigate(name, images, key)
        for (name, label), key in zip(_LIKELIHOODS.items(), keys, strict=True)
    }
    num_pixels = images.train.shape[1]
    densities = [own.scores for own in found.values() if own.scores.means]
    denser = sum(own.means[0] > own.data[0] for own in densities if own.means)

    claims = [
        *(
            equal(
                f"{label}: variance of a generated pixel is Var[E[x|z]] +"
                " E[Var[x|z]] (intensity²)",
                own.of_means + own.within,
                own.of_samples,
                within=3 * own.error,
                digits=5,
            )
            for label, own in found.items()
        ),
        *(
            equal_mean(
                f"{label}: log p(x|z) of the mean image, minus that of a"
                f" sample, is {formula} for D = {num_pixels} pixels (nats)",
                predicted,
                found[label].mean_excess,
                digits=2,
            )
            for label, formula, predicted in (
                ("Gaussian", "D / 2", num_pixels / 2),
                ("Laplace", "D", num_pixels),
            )
        ),
        below(
            "variance of mean images as a share of the data's: largest of all"
            " likelihoods",
            1.0,
            [own.of_means / own.of_data for own in found.values()],
        ),
        Claim(
            "mean images are denser under the model than test images, as images of"
            " their own (log p(x), nats)",
            f"{len(densities)} of {len(densities)} densities",
            f"{denser} of {len(densities)}",
            denser == len(densities),
        ),
        below(
            "log p(x) of generated images: lower bound minus upper bound, largest of"
            " all likelihoods (nats; mean minus three standard errors)",
            0.0,
            [-own.scores.gap[0] - 3 * own.scores.gap[1] for own in found.values()],
        ),
    ]
    numbers = {"samples": _IMPORTANCE_SAMPLES, "found": found}
    columns = {"means E[x|z]": _PICTURES, "samples x, of the same z": _PICTURES}
    pictures = {label: own.pictures for label, own in found.items()}
    figures = {
        "pictures": drawing(9.3, 4.0)(draw_images)(pictures, images.shape, columns),
        "variances": _draw_variances(found),
    }
    return Story(tuple(claims), numbers, figures)


def investigate(name: str, images: Images, key: jax.Array) -> Found:
    """Trains a model with the likelihood of that name, and generates from it."""
    view_key, generation_key, data_key, image_key, mean_key = jax.random.split(key, 5)
    model = images.vae(name, latent_dim=8, widths=(128,))
    (trained,), _ = train(model, images, _CONFIG)
    params, view = trained.params, model.likelihood.view
    test_x = images.observe(view, view_key, images.test)
    generated = generate(model, params, generation_key)

    def shown(x):
        return np.asarray(views.to_intensity(view, x, images.levels), np.float64)

    means, samples = shown(generated.mean), shown(generated.x)
    # to_intensity is linear: its slope is what it does to a difference.
    slope = float(shown(jnp.ones(1))[0] - shown(jnp.zeros(1))[0])
    variance = np.asarray(generated.variance, np.float64) * slope**2
    # Each image's share of either side of the law, around the same centre.
    centre = means.mean(axis=0)
    differences = (samples - centre) ** 2 - (means - centre) ** 2 - variance

    scored = jax.tree.map(lambda leaf: leaf[:_SCORED], generated)
    data, _ = log_evidence(model, params, data_key, test_x)
    lower, upper = log_evidence(model, params, image_key, scored.x, scored.z)
    of_means = None
    if view == "continuous":  # the only one whose x may be a mean
        own, _ = log_evidence(model, params, mean_key, scored.mean)
        of_means = mean_and_error(own)
    return Found(
        view=view,
        of_data=float(shown(test_x).var(axis=0).mean()),
        of_means=float(means.var(axis=0).mean()),
        within=float(variance.mean()),
        of_samples=float(samples.var(axis=0).mean()),
        error=mean_and_error(differences.mean(axis=1))[1],
        mean_excess=np.asarray(generated.mean_excess),
        scores=Scores(
            mean_and_error(data),
            mean_and_error(lower),
            mean_and_error(upper - lower),
            of_means,
        ),
        pictures=np.concatenate([means[:_PICTURES], samples[:_PICTURES]]),
    )


@functools.partial(jax.jit, static_argnums=0)
def generate(model: VAE, params: Params, key: jax.Array) -> Generated:
    """Draws z from the prior and x from p(x|z); returns both, and p(x|z)'s moments."""
    latent_key, pixel_key = jax.random.split(key)
    likelihood = model.likelihood
    z = model.prior(params).sample(latent_key, _GENERATED)
    outputs = model.decode(params, z)
    mean, x = likelihood.mean(outputs), likelihood.sample(pixel_key, outputs)
    excess = jnp.full(_GENERATED, jnp.nan)
    if likelihood.view == "continuous":
        excess = likelihood.log_prob(outputs, mean) - likelihood.log_prob(outputs, x)
    return Generated(z, mean, x, conditional_variance(likelihood, outputs), excess)


def conditional_variance(likelihood: Likelihood, outputs: jax.Array) -> jax.Array:
    """Returns Var[x|z] of each pixel, ``[..., D]``, in the view's units squared.

    Args:
        likelihood: p(x|z).
        outputs: its parameters, ``[..., C, D]``.
    """
    channels = jnp.moveaxis(outputs, -2, 0)
    if isinstance(likelihood, Bernoulli):
        probability = jax.nn.sigmoid(channels[0])
        return probability * (1 - probability)
    if isinstance(likelihood, Gaussian):
        return bounded_exp(channels[1]) ** 2
    if isinstance(likelihood, Laplace):
        return 2 * bounded_exp(channels[1]) ** 2
    if isinstance(likelihood, Beta):
        first, second = bounded_exp(channels, CONCENTRATION_BOUNDS)
        total = first + second
        squeezed = first * second / (total**2 * (total + 1))
        return squeezed / (1 - likelihood.eps) ** 2
    # Masses of integers: every one of them, pixel by pixel.
    k = jnp.arange(likelihood.levels)
    pixels = jnp.moveaxis(outputs, -1, 0)[..., None]  # [D, ..., C, 1]

    def log_mass(k):
        return likelihood.log_prob(pixels, jnp.full((1,) * (pixels.ndim - 1), k))

    mass = jnp.exp(jax.lax.map(log_mass, k))  # [levels, D, ...]
    k = k.reshape(-1, *(1,) * (mass.ndim - 1))
    mean = (mass * k).sum(axis=0)
    return jnp.moveaxis((mass * (k - mean[None]) ** 2).sum(axis=0), 0, -1)


@functools.partial(jax.jit, static_argnums=0)
def log_evidence(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    z: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns a lower and an upper bound on log p(x), in expectation, nats, ``[M]``.

    For x that the model generated, the z it came from is an exact sample of p(z|x).
    Counted among the k samples of q(z|x), it turns the importance-weighted lower bound
    into an upper one (Grosse et al. 2015, "Sandwiching the marginal likelihood using
    bidirectional Monte Carlo").

    Args:
        model: the VAE.
        params: its parameters.
        key: folded with each image's index into the image's key.
        x: images in the likelihood's view, ``[M, D]``.
        z: the latents they were generated from, ``[M, latent]``; without them, the
            second result has no meaning.
    """

    def one(key, x, z):
        lower = importance_estimate(
            model, params, key, x, num_samples=_IMPORTANCE_SAMPLES, chunk=50
        ).log_px
        z = z[None, None]  # [1, 1, latent]
        log_weight = (
            model.log_likelihood(params, x[None], z)
            + model.prior(params).log_prob(z)
            - model.encode(params, x[None]).log_prob(z)
        )[0, 0]
        k = _IMPORTANCE_SAMPLES
        return lower, jnp.logaddexp(lower + np.log(k), log_weight) - np.log(k + 1)

    if z is None:
        z = jnp.zeros((len(x), model.latent_dim))
    return map_images(one, key, x, z, batch_size=50)


@drawing(6.8, 3.2)
def _draw_variances(figure: Figure, found: dict[str, Found]) -> None:
    """The two parts of the variance of generated pixels, and that of the data."""
    axes = figure.add_subplot(xlabel="variance of a pixel (intensity²)")
    places = np.arange(len(found))
    between = np.array([own.of_means for own in found.values()])
    within = np.array([own.within for own in found.values()])
    data = [own.of_data for own in found.values()]
    axes.barh(places, between, color=COLORS[0], label="Var[E[x|z]]: mean images")
    axes.barh(places, within, left=between, color=COLORS[5], label="E[Var[x|z]]")
    axes.scatter(data, places, marker="|", s=260, color=INK, label="the data")
    axes.set_yticks(places, list(found))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
