"""Measures a trained model: numbers for each image, and pictures as arrays.

``evaluate`` scores every image of a test set. ``draw`` computes a few images of the
model. Both decode the mean of q(z|x).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import views
from vae_jax.distributions import latent_noise
from vae_jax.evidence import ImportanceEstimate, importance_estimate
from vae_jax.model import VAE, Params
from vae_jax.per_image import map_images
from vae_jax.products import float32_products
from vae_jax.samplers import Sampler

# Number of samples for E_q[z|x] if it has no closed form.
_MEAN_SAMPLES = 100
# Images whose q(z|x) give the quantiles of q(z).
_MOST_FOR_QUANTILES = 1000


@float32_products
def posterior_mean(
    model: VAE, params: Params, key: jax.Array, x: jax.Array
) -> jax.Array:
    """Returns E_q[z|x] ``[batch, latent]`` of images x ``[batch, D]``.

    It is exact if it has a formula. Otherwise it is a mean over 100 samples.

    Args:
        model: the VAE.
        params: its parameters.
        key: a typed key, for the samples.
        x: images in the likelihood's view, ``[batch, D]``.
    """
    noise = latent_noise(key, _MEAN_SAMPLES, len(x), model.latent_dim)
    return model.encode(params, x).expectation(noise)


@float32_products
def expected_intensity(
    model: VAE,
    params: Params,
    key: jax.Array,
    z: jax.Array,
    labels: jax.Array | None = None,
) -> jax.Array:
    """Returns the mean of ``VAE.sample_images`` as intensities, ``[images, D]``."""
    if model.is_autoregressive:
        mean, _ = model.sample_images(params, key, z, labels)
    else:  # Without the draw, which costs time to compile.
        x = model.rows.join(jnp.zeros((len(z), model.num_pixels)), labels)
        mean = model.likelihood.mean(model.decode(params, z, x))
    return _intensity(model, mean)


def latent_mean(
    model: VAE, params: Params, key: jax.Array, x: jax.Array, *, num_samples: int
) -> jax.Array:
    """Returns E_q[z|x] ``[latent]`` of one image; arguments as in ``reconstruct``."""
    own = jax.random.fold_in(key, num_samples)
    return posterior_mean(model, params, own, x[None])[0]


def reconstruct(
    model: VAE, params: Params, key: jax.Array, x: jax.Array, *, num_samples: int
) -> tuple[jax.Array, jax.Array]:
    """Returns E_q[z|x] ``[latent]`` of one image, and the mean image at it.

    The mean image is E[x|z] as intensities, ``[D]``. For an autoregressive decoder,
    E[x_i | x_<i, z] at one draw replaces E[x|z].

    Args:
        model: the VAE.
        params: its parameters.
        key: the image's key, as for ``importance_estimate``.
        x: one row in the likelihood's view, ``[D]``.
        num_samples: number of importance samples of the image's estimate, which use the
            first children of its key.
    """
    mean = latent_mean(model, params, key, x, num_samples=num_samples)
    own = jax.random.fold_in(key, num_samples + 1)
    _, labels = model.rows.split(x[None])
    return mean, expected_intensity(model, params, own, mean[None], labels)[0]


class Evaluation(NamedTuple):
    """Numbers for each image, ``[N]`` and in nats unless a field says otherwise."""

    estimate: ImportanceEstimate
    # Mean over pixels of (reconstruction - intensity of the image)^2, in units of
    # intensity^2; for an autoregressive decoder, the variance of the draw increases it.
    squared_error: jax.Array
    posterior_mean: jax.Array  # E_q[z|x], [N, latent]
    # Estimates of log p(x|y) of every class, [N, K]; None if there are none.
    log_px_y: jax.Array | None = None
    # log q(y|x) of every class, [N, K]; None without a classifier.
    log_q_y: jax.Array | None = None


@float32_products
def evaluate(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    images: jax.Array,
    latent_mask: jax.Array,
    *,
    num_samples: int,
    chunk: int,
    batch_size: int,
    class_samples: int = 0,
) -> Evaluation:
    """Evaluates a model on every image, in batches of one size.

    The memory is that for decoding ``batch_size * chunk`` images. The results depend on
    these two numbers only because matrix products of different sizes round differently:
    in float32 by a few units of an estimate's last digit (0.0005 nats near -4500).

    Args:
        model: the VAE.
        params: its parameters.
        key: a typed key; each image's index is folded into it.
        x: rows in the likelihood's view, ``[N, D]``.
        images: the rows of integers that x was drawn from, ``[N, D]``. Squared errors
            are relative to their intensity, a common reference for all views.
        latent_mask: as in ``objectives.Batch``, ``[latent]``.
        num_samples: number of importance samples per image.
        chunk: number of importance samples decoded together.
        batch_size: most images evaluated together.
        class_samples: importance samples per image and class, for log p(x|y) of every
            class; 0: it is not estimated.
    """

    def one_image(key: jax.Array, x: jax.Array, image: jax.Array) -> Evaluation:
        estimate = importance_estimate(
            model,
            params,
            key,
            x,
            num_samples=num_samples,
            chunk=chunk,
            latent_mask=latent_mask,
        )
        mean, shown = reconstruct(model, params, key, x, num_samples=num_samples)
        pixels, _ = model.rows.split(image)
        target = views.to_intensity("levels", pixels, model.likelihood.levels)
        log_px_y = None
        if model.num_classes and class_samples:
            log_px_y = log_px_of_classes(
                model,
                params,
                key,
                x,
                num_samples=num_samples,
                class_samples=class_samples,
                chunk=chunk,
                latent_mask=latent_mask,
            )
        error = jnp.mean((shown - target) ** 2)
        log_q_y = model.classify(params, x[None])[0] if model.has_classifier else None
        return Evaluation(estimate, error, mean, log_px_y, log_q_y)

    return map_images(one_image, key, x, images, batch_size=batch_size)


def log_px_of_classes(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    num_samples: int,
    class_samples: int,
    chunk: int,
    latent_mask: jax.Array | None = None,
) -> jax.Array:
    """Returns estimates of log p(x|y) of one image for every class, nats, ``[K]``.

    All have the same noise, so their differences have less.

    Args:
        model: the VAE; it has classes.
        params: its parameters.
        key: the image's key, as for ``importance_estimate``.
        x: one row in the likelihood's view, ``[D + 1]``; its class is not used.
        num_samples: as in ``reconstruct``.
        class_samples: number of importance samples of each class.
        chunk: number of importance samples decoded together.
        latent_mask: as in ``objectives.Batch``, ``[latent]``.
    """
    pixels, _ = model.rows.split(x)
    own = jax.random.fold_in(key, num_samples + 2)

    def of_class(label: jax.Array) -> jax.Array:
        return importance_estimate(
            model,
            params,
            own,
            model.rows.join(pixels, label),
            num_samples=class_samples,
            chunk=chunk,
            latent_mask=latent_mask,
        ).log_px

    found: jax.Array = jax.lax.map(of_class, jnp.arange(model.num_classes))
    return found


class Pictures(NamedTuple):
    """Intensities, ``[images, D]``, and the latents that are traversed."""

    reconstructions: jax.Array  # E[x|z] at the posterior mean of the first images
    prior_means: jax.Array  # E[x|z] at z ~ p(z), the same number of images
    samples: jax.Array  # x ~ p(x|z) at the same z
    # The next four are None for a chain of latents, whose z is the image.
    # E[x|z] on a grid of the first two latents; the others are 0. The class is 0.
    manifold: jax.Array | None = None
    # E[x|z] from the posterior mean of one image to that of the next, pair by pair;
    # the class is that of the first.
    interpolations: jax.Array | None = None
    # E[x|z] with one latent moved, latent by latent.
    traversals: jax.Array | None = None
    latents: jax.Array | None = None  # those that are traversed, int32 [latents]
    # E[x|z, y] class by class, at the same z ~ p(z); None without classes.
    classes: jax.Array | None = None
    # E[x|z_t] of a chain of latents, from noise to an image, chain by chain.
    trajectories: jax.Array | None = None
    # E[x|z] of a chain of latents, sampler by sampler with ever more steps; all from
    # the same noise z_T, and of the first classes, if there are any.
    samples_by_steps: jax.Array | None = None
    # E[x|z, y] of a chain of latents that can be guided, weight by weight; of each
    # weight one image for each class, from the same noise.
    samples_by_guidance: jax.Array | None = None


class Sampling(NamedTuple):
    """How a chain of latents is sampled, in its pictures.

    Attributes:
        sampler: its way from noise to z; None for its own.
        guidance: the weight of classifier-free guidance; None without guidance.
        compared: samplers that are compared, without guidance.
        steps: of each of these, in the place of its own.
        weights: of guidance, which are compared with ``sampler``.
    """

    sampler: Sampler | None = None
    guidance: float | None = None
    compared: tuple[Sampler, ...] = ()
    steps: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


_PLAIN = Sampling()


@float32_products
def draw(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    latent_mask: jax.Array,
    *,
    num_images: int,
    manifold_side: int,
    num_walks: int,
    num_steps: int,
    num_classes: int,
    sampling: Sampling = _PLAIN,
) -> Pictures:
    """Computes all pictures of a model as arrays.

    The values on the manifold's grid are equally likely under N(0, I): they are the
    inverse Gaussian CDF of equally spaced quantiles (Kingma & Welling 2014, figure 4).

    Args:
        model: the VAE.
        params: its parameters.
        key: a typed key.
        x: images in the likelihood's view, ``[N, D]``.
        latent_mask: as in ``objectives.Batch``, ``[latent]``.
        num_images: number of images that are reconstructed (the first ones of x), and
            number of images that are drawn.
        manifold_side: number of values of each of the manifold's two latents.
        num_walks: number of interpolations, each between two images, and number of
            latents that are traversed, at most.
        num_steps: number of images of each interpolation, traversal and class, and of
            each number of steps.
        num_classes: number of classes that are shown, at most: the first ones.
        sampling: how a chain of latents is sampled; only the default for other models.
    """
    mean_key, generate_key, decode_key, walk_key, style_key, chain_key = (
        jax.random.fold_in(key, i) for i in range(6)
    )
    posterior_means = posterior_mean(model, params, mean_key, x[:num_images])
    _, labels = model.rows.split(x[:num_images])
    means, samples = model.generate(
        params,
        generate_key,
        num_images,
        sampler=sampling.sampler,
        guidance=sampling.guidance,
    )
    compared = _compared(model, params, chain_key, sampling, num_steps, num_classes)
    if model.is_chain:
        prior: Any = model.prior(params, x[:num_walks])
        ways = prior.trajectory(walk_key, min(num_walks, len(x)), num_steps)
        shown = expected_intensity(model, params, decode_key, posterior_means, labels)
        return Pictures(
            shown,
            _intensity(model, means),
            _intensity(model, samples),
            trajectories=(ways.reshape(-1, model.num_pixels) + 1) / 2,
            **compared,
        )
    quantiles = (jnp.arange(manifold_side) + 0.5) / manifold_side
    coordinates = jax.scipy.stats.norm.ppf(quantiles)
    first, second = jnp.meshgrid(coordinates, -coordinates)
    grid = jnp.zeros((first.size, model.latent_dim)).at[:, 0].set(first.ravel())
    if model.latent_dim > 1:
        grid = grid.at[:, 1].set(second.ravel())
    num_pairs = min(num_walks, len(posterior_means) // 2)
    starts, ends = (posterior_means[i : 2 * num_pairs : 2, None] for i in (0, 1))
    between = starts + jnp.linspace(0, 1, num_steps)[None, :, None] * (ends - starts)
    traversals, latents = _traversals(
        model,
        params,
        walk_key,
        x,
        posterior_means[0],
        latent_mask,
        num_walks,
        num_steps,
    )
    # One call for all: the decoder is compiled once.
    parts = [posterior_means, grid, between.reshape(-1, model.latent_dim), traversals]
    if labels is not None:
        of_pairs = jnp.repeat(labels[: 2 * num_pairs : 2], num_steps)
        of_grid, of_traversals = (
            jnp.full(len(part), label, labels.dtype)
            for part, label in ((grid, 0), (traversals, labels[0]))
        )
        classes = jnp.arange(min(num_classes, model.num_classes), dtype=labels.dtype)
        parts.append(_styles(model, params, style_key, classes, num_steps))
        of_classes = jnp.repeat(classes, num_steps)
        labels = jnp.concatenate([labels, of_grid, of_pairs, of_traversals, of_classes])
    z = jnp.concatenate(parts)
    decoded = expected_intensity(model, params, decode_key, z, labels)
    shown, manifold, interpolations, traversals, *by_class = jnp.split(
        decoded, np.cumsum([len(part) for part in parts[:-1]])
    )
    return Pictures(
        shown,
        _intensity(model, means),
        _intensity(model, samples),
        manifold,
        interpolations,
        traversals,
        latents,
        *by_class,
        **compared,
    )


def _styles(
    model: VAE, params: Params, key: jax.Array, classes: jax.Array, num_samples: int
) -> jax.Array:
    """Returns samples z of the prior, the same for each class, ``[K * N, latent]``.

    A chain of latents is one of the class; the samples start at the same noise.
    """
    if model.has_density:
        z = model.prior(params).sample(key, num_samples)
        return jnp.tile(z, (len(classes), 1))

    def of_class(label: jax.Array) -> jax.Array:
        labels = jnp.full(num_samples, label)
        return model.sample_latents(params, key, num_samples, labels)

    by_class: jax.Array = jax.lax.map(of_class, classes)
    return by_class.reshape(-1, model.latent_dim)


def _compared(
    model: VAE,
    params: Params,
    key: jax.Array,
    sampling: Sampling,
    num_images: int,
    num_classes: int,
) -> dict[str, jax.Array]:
    """Returns the pictures that compare samples of a chain, by their names.

    Numbers of steps and weights are data: each sampler is compiled once for all.

    Args:
        model: the VAE.
        params: its parameters.
        key: a typed key; all images with the same place in their row start at the same
            noise.
        sampling: what is compared.
        num_images: number of images for each number of steps.
        num_classes: as in ``draw``.
    """
    latent_key, decode_key = jax.random.split(key)
    classes = jnp.arange(model.num_classes)
    first = jnp.resize(classes, (num_images,)) if model.num_classes else None

    def latents(labels: jax.Array | None, *way: Any) -> jax.Array:
        num = num_images if labels is None else len(labels)
        return model.sample_latents(params, latent_key, num, labels, *way)

    def by_steps(sampler: Any) -> jax.Array:
        def row(steps: jax.Array) -> jax.Array:
            return latents(first, dataclasses.replace(sampler, steps=steps))

        rows: jax.Array = jax.lax.map(row, jnp.array(sampling.steps))
        return rows

    def decoded(z: jax.Array, labels: jax.Array | None) -> jax.Array:
        """Returns E[x|z] of latents [rows, images, latent]."""
        labels = None if labels is None else jnp.tile(labels, len(z))
        flat = z.reshape(-1, model.latent_dim)
        return expected_intensity(model, params, decode_key, flat, labels)

    found = {}
    if sampling.compared:
        z = jnp.concatenate([by_steps(sampler) for sampler in sampling.compared])
        found["samples_by_steps"] = decoded(z, first)
    if sampling.weights:
        shown = classes[:num_classes]
        z = jax.lax.map(
            lambda weight: latents(shown, sampling.sampler, weight),
            jnp.array(sampling.weights),
        )
        found["samples_by_guidance"] = decoded(z, shown)
    return found


def _traversals(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    z: jax.Array,
    latent_mask: jax.Array,
    num_latents: int,
    num_steps: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns z with one latent moved over the quantiles of q(z), and which latents.

    The quantiles are the centres of ``num_steps`` equally likely parts. The latents
    with the largest mean KL come first or, where the KL has no term for each latent,
    those whose posterior means vary most (Burda et al. 2016). In a hierarchy, the
    layers below the latent are at their means, given the layer above them.

    Args:
        model: the VAE.
        params: its parameters.
        key: a typed key.
        x: images in the likelihood's view, ``[N, D]``; the first ones are used.
        z: where the others are, ``[latent]``.
        latent_mask: as in ``draw``.
        num_latents: number of latents that are moved, at most.
        num_steps: number of values of each.

    Returns:
        z ``[latents * steps, latent]``, and the latents, int32 ``[latents]``.
    """
    sample_key, mean_key = jax.random.split(key)
    x = x[:_MOST_FOR_QUANTILES]
    posterior = model.encode(params, x)
    noise = latent_noise(sample_key, 1, len(x), model.latent_dim)
    levels = (jnp.arange(num_steps) + 0.5) / num_steps
    values = jnp.quantile(posterior.sample(noise)[0], levels, axis=0)  # [steps, L]
    kl = model.closed_form_kl(params, posterior) if model.has_closed_form_kl else None
    if kl is not None and kl.shape == (len(x), model.latent_dim):
        use = kl.mean(axis=0)
    else:
        use = posterior_mean(model, params, mean_key, x).var(axis=0)
    use = jnp.where(latent_mask > 0, use, -1.0)  # Padding comes last.
    _, latents = jax.lax.top_k(use, min(num_latents, model.latent_dim))
    moves = jnp.arange(model.latent_dim)[None, None] == latents[:, None, None]
    moved = jnp.where(moves, values[None], z[None, None])  # [latents, steps, L]
    ends = np.cumsum(model.layer_dims)
    for layer in range(1, len(ends)):
        prior: Any = model.prior(params)
        inside = (latents >= ends[layer - 1]) & (latents < ends[layer])
        below = prior.with_means_below(moved, layer)
        moved = jnp.where(inside[:, None, None], below, moved)
    return moved.reshape(-1, model.latent_dim), latents


def _intensity(model: VAE, x: jax.Array) -> jax.Array:
    return views.to_intensity(model.likelihood.view, x, model.likelihood.levels)
