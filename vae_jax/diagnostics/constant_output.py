"""The score of a decoder that ignores its latents: one output for every image.

Its negative log-likelihood is the level at which a VAE's bound ends up when its latents
collapse. It needs no decoder: only the best output, fitted to the training images.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vae_jax.likelihoods import Likelihood
from vae_jax.per_image import map_batches
from vae_jax.products import float32_products

# Probability of a pixel value never seen in training.
_UNSEEN = 1e-5

# Weight of the penalty, in images.
_PENALTY = 0.1

# In units of 1 / sqrt(curvature) a gradient g of the mean is g^2 / 2 nats from the
# optimum: for a thousand outputs, 5e-4 nats per image.
_SMALL_GRADIENT = 1e-3

_STEPS_PER_ROUND = 50

# Images whose log-probability is computed at once in the search for a floor.
_CHUNK = 2000


class ConstantFit(NamedTuple):
    """The best constant output, and whether the search for it has converged."""

    negative_log_prob: jax.Array  # -log p(x) of each test image, nats, [M]
    outputs: Any  # of the shapes of the initial ones
    settled: jax.Array  # bool []; also False if something is not finite
    largest_gradient: jax.Array  # at the end, nats per unit of the search's last round


def bernoulli_floor(train_intensities: jax.Array, intensities: jax.Array) -> jax.Array:
    """Returns -log p(x) expected under the best factorised Bernoulli, ``[M]``, nats.

    p has the mean intensity of the training images at each pixel, clipped to
    [1e-5, 1 - 1e-5]. The expectation is over the binarization of each image, whose
    means are its intensities. It is exact, as -log p(x) is linear in x. Binary images
    stay as they are.

    Args:
        train_intensities: k / (levels - 1), ``[N, D]``.
        intensities: the same of the images to score, ``[M, D]``.
    """
    mean = jnp.clip(train_intensities.mean(axis=0), _UNSEEN, 1 - _UNSEEN)[None]
    return -jnp.sum(
        intensities * jnp.log(mean) + (1 - intensities) * jnp.log1p(-mean), axis=-1
    )


def likelihood_floor(
    likelihood: Likelihood,
    pixel_mean: jax.Array,
    pixel_std: jax.Array,
    train_x: jax.Array,
    test_x: jax.Array,
) -> jax.Array:
    """Returns -log p(x) of test images at the best constant output, ``[M]``, nats.

    NaN if the search for that output has not converged.

    Args:
        likelihood: the family.
        pixel_mean: as in ``VAE.init``.
        pixel_std: as in ``VAE.init``.
        train_x: training images; their intensities for the binary view, for which the
            best output has a closed form, else images in the likelihood's view.
        test_x: test images in the likelihood's view.
    """
    if likelihood.view == "binary":
        return bernoulli_floor(train_x, test_x)
    outputs = likelihood.initial_outputs(pixel_mean, pixel_std)
    own = outputs[: likelihood.pixel_outputs]
    shared = outputs[likelihood.pixel_outputs :].mean(axis=1)

    def log_probs(outputs: Any, x: jax.Array) -> jax.Array:
        own, shared = outputs

        def of_pixel(own: jax.Array, value: jax.Array) -> jax.Array:
            output = jnp.concatenate([own, shared])
            return likelihood.log_prob(output[:, None], value[None])

        return jax.vmap(of_pixel, in_axes=(1, 0))(own, x)

    counts = None
    if likelihood.view == "levels":  # Many images have the same value at a pixel.
        train_x, counts = _count(train_x, likelihood.levels)
    fit = fit_constant(
        log_probs, (own, shared), train_x, test_x, chunk=_CHUNK, weights=counts
    )
    return jnp.where(fit.settled, fit.negative_log_prob, jnp.nan)


def _count(x: jax.Array, levels: int) -> tuple[jax.Array, jax.Array]:
    """Returns all values, and how often each pixel has them, ``[levels, D]`` each."""
    count = functools.partial(jnp.bincount, length=levels)
    counts = jax.vmap(count, in_axes=1, out_axes=1)(x)
    values = jnp.arange(levels, dtype=x.dtype)[:, None]
    return jnp.broadcast_to(values, counts.shape), counts.astype(jnp.float32)


@float32_products
def fit_constant(
    log_prob: Callable[[Any, jax.Array], jax.Array],
    initial: Any,
    train_x: jax.Array,
    x: jax.Array,
    *,
    chunk: int,
    weights: jax.Array | None = None,
    max_rounds: int = 200,
) -> ConstantFit:
    """Fits the same output to all training images, and scores others with it.

    L-BFGS minimises the mean of -log p(x) over the training images. If a pixel is the
    same in all of them, its best output is infinite, and an image with another value
    there has probability 0. So the sum over the images is penalised by a twentieth of
    the squared distance from the initial outputs, as by a normal prior of variance 10
    around these. The mean over the training images changes by less than the penalty:
    for a softmax per pixel and 1,300 digits by 0.01 nats of 107. On other images the
    result is within 0.07 nats of the best smoothing of the same counts.

    If the outputs of a likelihood have a channel that all pixels share, ``initial``
    should hold it once and ``log_prob`` should repeat it: with one for each pixel, the
    family would be richer.

    Args:
        log_prob: log p(x) of one image x ``[D]``, in nats, given the outputs: a
            likelihood's ``log_prob``, or a function around it. Either ``[]`` or that of
            each pixel, ``[D]``.
        initial: outputs ``[C, D]`` to start at, or a tree; for instance a likelihood's
            ``initial_outputs``.
        train_x: images in the likelihood's view, ``[N, D]``.
        x: images to score, in the same view, ``[M, D]``.
        chunk: images computed together; bounds the memory, and changes the result
            within the accuracy of the search.
        weights: how often each pixel of each training image counts, ``[N, D]``, with
            the same sum for every pixel, if ``log_prob`` returns ``[D]``; by default
            once.
        max_rounds: largest number of rounds, of 50 steps each; the search ends earlier
            if it has converged.
    """
    if weights is None:
        weights = jnp.ones((len(train_x), 1))
    num_train = weights[:, 0].sum()
    num_together = min(chunk, len(train_x))
    num_whole = len(train_x) // num_together * num_together
    whole_chunks = jax.tree.map(
        lambda rows: rows[:num_whole].reshape(-1, num_together, *rows.shape[1:]),
        (train_x, weights),
    )
    optimizer = optax.lbfgs()

    def negative_log_prob(outputs: Any, x: jax.Array) -> Any:
        # Recomputed for the gradient, which then needs the memory of only one chunk.
        one_image = jax.checkpoint(lambda x: -log_prob(outputs, x).reshape(-1))
        return map_batches(one_image, x, batch_size=chunk)

    def loss(outputs: Any) -> Any:
        distance = optax.tree.norm(optax.tree.sub(outputs, initial), squared=True)
        penalty = 0.5 * _PENALTY * distance
        total = (weights * negative_log_prob(outputs, train_x)).sum()
        return (total + penalty) / num_train

    def units(outputs: Any) -> Any:
        """Returns 1 / sqrt(curvature) of the loss, by output, from squared gradients.

        The curvature of a pixel that hardly varies differs from the others' by a factor
        of 1e6; L-BFGS, which remembers a few steps, cannot correct for this. The images
        after the last whole chunk are left out.
        """

        def weighted(outputs: Any, x: jax.Array, weight: jax.Array) -> jax.Array:
            # Pixels have outputs of their own: this weighs their squares.
            return jnp.sum(jnp.sqrt(weight) * log_prob(outputs, x))

        def add_chunk(total: Any, chunk: Any) -> tuple[Any, None]:
            gradients = jax.vmap(jax.grad(weighted), in_axes=(None, 0, 0))(
                outputs, *chunk
            )
            squares = jax.tree.map(lambda gradient: (gradient**2).sum(0), gradients)
            return optax.tree.add(total, squares), None

        total, _ = jax.lax.scan(add_chunk, optax.tree.zeros_like(outputs), whole_chunks)
        return jax.tree.map(lambda leaf: jnp.sqrt(num_train / (leaf + _PENALTY)), total)

    def search(carry: Any) -> Any:
        """Runs one round: at most so many steps, in units computed at its start."""
        start, _, _, num_rounds = carry
        unit = units(start)

        def moved(change: Any) -> Any:
            return optax.tree.add(start, optax.tree.mul(unit, change))

        def loss_after(change: Any) -> Any:
            return loss(moved(change))

        def step(carry: Any) -> Any:
            change, state, _, num_steps = carry
            value, gradient = optax.value_and_grad_from_state(loss_after)(
                change, state=state
            )
            updates, state = optimizer.update(
                gradient, state, change, value=value, grad=gradient, value_fn=loss_after
            )
            # The line search leaves the gradient at the point it moved to.
            largest = optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)
            change = optax.apply_updates(change, updates)
            return change, state, largest, num_steps + 1

        change = optax.tree.zeros_like(start)
        change, _, largest, num_steps = jax.lax.while_loop(
            lambda carry: (carry[2] > _SMALL_GRADIENT) & (carry[3] < _STEPS_PER_ROUND),
            step,
            (change, optimizer.init(change), jnp.float32(jnp.inf), jnp.int32(0)),
        )
        return moved(change), largest, num_steps, num_rounds + 1

    # Converged if, in fresh units, one step was enough.
    outputs, largest, num_steps, _ = jax.lax.while_loop(
        lambda carry: (carry[2] != 1) & (carry[3] < max_rounds),
        search,
        (initial, jnp.float32(jnp.inf), jnp.int32(0), jnp.int32(0)),
    )
    settled = (num_steps == 1) & (largest <= _SMALL_GRADIENT)
    scores = negative_log_prob(outputs, x).sum(axis=1)
    return ConstantFit(scores, outputs, settled, largest)
