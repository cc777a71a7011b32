"""The three views of an image of integers; a likelihood models one of them.

A data set has an integer ``k`` in ``{0, ..., levels-1}`` for each pixel. A likelihood
is defined on one view of these integers. The compiled step draws it from an explicit
key:

==========  =====================================  ===============================
view        x                                      log p(x) is
==========  =====================================  ===============================
binary      Bernoulli with mean ``k/(levels-1)``   mass of a binary image
levels      ``k`` itself                           mass of the integers
continuous  ``(k + u)/levels``, u uniform [0, 1)   density; minus D log(levels) it
                                                   bounds the mass of the integers
                                                   from below (Theis et al. 2016,
                                                   "A note on the evaluation of
                                                   generative models", eq. 5)
==========  =====================================  ===============================

So ``levels`` and ``continuous`` are compared on one scale, bits per dimension of the
same integers. ``binary`` is another random variable and has its own table.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

VIEWS = ("binary", "levels", "continuous")

# Names of the draws that all models share. Images are binarized or dequantised once, so
# every model is scored on the same x.
VALIDATION, TEST, TRAIN = 0, 1, 2


def observe(view: str, key: jax.Array, k: jax.Array, levels: int) -> jax.Array:
    """Draws x, the view of integer images that a likelihood is defined on.

    Args:
        view: one of ``VIEWS``.
        key: a typed key; do not use it again, even if the view draws nothing.
        k: integers in ``{0, ..., levels-1}``, ``[..., D]``.
        levels: number of intensity levels, at most 256.

    Returns:
        x, ``[..., D]``: float32 0/1 (binary), int32 (levels), float32 in [0, 1)
        (continuous).

    Raises:
        ValueError: the view is unknown.
    """
    if view == "levels":
        return k.astype(jnp.int32)
    if view == "binary":
        return k.astype(jnp.float32) if levels == 2 else _binarize(key, k, levels)
    if view == "continuous":
        # With 16 random bits, k + u is exact in float32 for k < 256. So x is never
        # rounded into the bin above.
        u = _random_16_bits(key, k.shape).astype(jnp.float32) / 65536
        return (k.astype(jnp.float32) + u) / levels
    raise ValueError(f"unknown view {view!r}: choose one of {', '.join(VIEWS)}.")


def shared_draw(
    view: str, which: int, images: np.ndarray | jax.Array, levels: int
) -> jax.Array:
    """Returns the one draw of ``observe`` that all models share.

    Args:
        view: one of ``VIEWS``.
        which: ``VALIDATION``, ``TEST`` or ``TRAIN`` images.
        images: integers, ``[N, D]``.
        levels: number of intensity levels.
    """
    x: jax.Array = _shared_draw(view, np.uint32(which), images, levels)
    return x


def pixel_statistics(images: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each pixel's intensity, over images.

    The sums are of integers, so they are exact.

    Args:
        images: integers in ``{0, ..., levels-1}``, ``[N, D]``.
        levels: number of intensity levels.

    Returns:
        mean, std: float32 ``[D]`` each, in [0, 1].
    """
    total = np.zeros(images.shape[1], np.int64)
    total_square = np.zeros(images.shape[1], np.int64)
    for start in range(0, len(images), 1000):
        chunk = images[start : start + 1000].astype(np.int64)
        total += chunk.sum(axis=0)
        total_square += (chunk * chunk).sum(axis=0)
    count, scale = len(images), levels - 1
    variance = (count * total_square - total**2) / count**2
    mean = total / (count * scale)
    return mean.astype(np.float32), (np.sqrt(variance) / scale).astype(np.float32)


def row_shapes(shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Returns the shapes in which one image of height, width, channels may come."""
    return [shape, (math.prod(shape),)] + [shape[:2]] * (shape[2] == 1)


def as_row(
    image: np.ndarray, shape: tuple[int, int, int], levels: int, name: str
) -> np.ndarray:
    """Returns one image of any allowed shape as a row of integers, uint8 ``[1, D]``.

    Args:
        image: integers 0 ... levels - 1, in one of the ``row_shapes``.
        shape: height, width and channels of the image.
        levels: number of intensity levels, at most 256.
        name: the name of the image, for messages.

    Raises:
        ValueError: its shape, type or values are not allowed.
    """
    if np.shape(image) not in row_shapes(shape):
        raise ValueError(
            f"{name} has shape {list(np.shape(image))}: the model is of images "
            f"{list(shape)}. Give one image of this shape."
        )
    return as_rows(np.asarray(image)[None], shape, levels, name)


def as_rows(
    images: np.ndarray,
    shape: tuple[int, int, int],
    levels: int,
    name: str = "images",
) -> np.ndarray:
    """Returns images of any allowed shape as rows of integers, uint8 ``[N, D]``.

    Args:
        images: integers 0 ... levels - 1, ``[N, H, W, C]``, ``[N, D]``, or
            ``[N, H, W]`` with one channel.
        shape: height, width and channels of an image.
        levels: number of intensity levels, at most 256.
        name: the name of the images, for messages.

    Raises:
        ValueError: there are no images, or their shape, type or values are not allowed.
    """
    try:
        images = np.asarray(images)
    except ValueError:
        raise ValueError(
            f"{name} is a list of arrays of different shapes: the model is of images "
            f"{list(shape)}. Give images of one shape."
        ) from None
    if images.shape[1:] not in row_shapes(shape) or not len(images):
        raise ValueError(
            f"{name} has shape {list(images.shape)}: the model is of images "
            f"{list(shape)}. Give an array [N, {', '.join(map(str, shape))}] with at "
            "least one image."
        )
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(
            f"{name} has dtype {images.dtype}: the model is of integers 0 ... "
            f"{levels - 1}. Give these, as uint8."
        )
    if levels > 256:
        raise ValueError(
            f"levels is {levels}: images are kept as integers of 8 bits. Give at most "
            "256."
        )
    smallest, largest = int(images.min()), int(images.max())
    if smallest < 0 or largest >= levels:
        raise ValueError(
            f"{name} has values from {smallest} to {largest}: the model is of integers "
            f"0 ... {levels - 1}. Give these, or a model with more levels."
        )
    return images.reshape(len(images), -1).astype(np.uint8)


@functools.partial(jax.jit, static_argnums=(0, 3))  # One program, with its key.
def _shared_draw(view: str, which: jax.Array, k: jax.Array, levels: int) -> jax.Array:
    return observe(view, jax.random.fold_in(jax.random.key(0), which), k, levels)


def _binarize(key: jax.Array, k: jax.Array, levels: int) -> jax.Array:
    """Returns one Bernoulli draw per pixel with mean exactly ``k/(levels-1)``.

    It compares 16 random bits r with the threshold ``65536 k/(levels-1)``; they cost
    half as much as a float32 uniform. The fractional part of the threshold matters only
    in a tie, once in 65536, and a second draw v decides it. So P(x=1) =
    (floor + fraction)/65536, without rounding. All pixels of an image share one v, so
    pixels are independent unless two of them tie (a probability of 7e-5 for 784
    pixels).
    """
    bits_key, tie_key = jax.random.split(key)
    scaled = k.astype(jnp.uint32) * 65536
    threshold = scaled // (levels - 1)
    remainder = scaled - threshold * (levels - 1)
    r = _random_16_bits(bits_key, k.shape)
    v = jax.random.randint(tie_key, (*k.shape[:-1], 1), 0, levels - 1)
    tie_won = (r == threshold) & (v.astype(jnp.uint32) < remainder)
    return ((r < threshold) | tie_won).astype(jnp.float32)


def _random_16_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns uniform integers below 65536 as uint32.

    Each 32-bit word gives two of them. ``jax.random.bits`` would use as much of
    threefry for a narrow number as for a wide one.
    """
    *leading, size = shape
    words = jax.random.bits(key, (*leading, -(-size // 2)), jnp.uint32)
    return jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)[..., :size]


def to_intensity(view: str, x: jax.Array, levels: int) -> jax.Array:
    """Maps a view's units to intensity, the scale on which images are shown.

    Intensity is ``k/(levels-1)``: 0 is black, 1 is white. A continuous x is the centre
    of its bin plus noise of mean 0, so ``E[to_intensity(x)]`` is the integer's
    intensity in every view.

    Args:
        view: one of ``VIEWS``.
        x: values (or expected values) in the view's units, any shape.
        levels: number of intensity levels.

    Returns:
        float32 of x's shape; means outside the data's range stay outside [0, 1].
    """
    if view == "levels":
        return x.astype(jnp.float32) / (levels - 1)
    if view == "continuous":
        return (x * levels - 0.5) / (levels - 1)
    return x.astype(jnp.float32)


def to_integers(view: str, x: np.ndarray, levels: int) -> np.ndarray:
    """Returns images in a view as integers 0 ... levels - 1, uint8 of x's shape.

    Values of a continuous view outside [0, 1), which some likelihoods give, become the
    nearest integer.

    Args:
        view: one of ``VIEWS``.
        x: images in that view, any shape.
        levels: number of intensity levels, at most 256.
    """
    if view == "continuous":
        x = np.clip(np.floor(x * levels), 0, levels - 1)
    elif view == "binary":
        x = x * (levels - 1)
    return x.astype(np.uint8)


def log_mass_bound(
    view: str, log_prob: np.ndarray, num_pixels: int, levels: int
) -> np.ndarray:
    """Returns the log-mass of an image in nats, or a lower bound on it.

    Args:
        view: one of ``VIEWS``.
        log_prob: log p(x) or a bound on it, nats per image.
        num_pixels: D, the number of values per image.
        levels: number of intensity levels.

    Returns:
        Log-mass in nats per image: unchanged for binary and levels; for continuous the
        lower bound ``log p(x) - D log(levels)`` on the log-mass of the integers.
    """
    if view == "continuous":
        log_prob = log_prob - num_pixels * np.log(levels)
    return log_prob


def bits_per_dim(log_mass: np.ndarray, num_pixels: int) -> np.ndarray:
    """Returns the bits per dimension of a log-mass in nats; smaller is better.

    Args:
        log_mass: nats per image, of any shape.
        num_pixels: D, the number of values per image.
    """
    bits: np.ndarray = -log_mass / (num_pixels * np.log(2))
    return bits


def unit(view: str) -> str:
    """Returns the unit of ``scores``; models are compared within one unit."""
    return "nats" if view == "binary" else "bits/dim"


def scores(
    view: str, log_px: jax.Array | np.ndarray, num_pixels: int, levels: int
) -> np.ndarray:
    """Returns -log p(x) of each image; smaller is better.

    In nats of the binary image, or in bits per dimension of the integers (for a
    continuous view, an upper bound).

    Args:
        view: one of ``VIEWS``.
        log_px: log p(x) in that view, nats, ``[M]``.
        num_pixels: D, the number of values per image.
        levels: number of intensity levels.
    """
    log_px = np.asarray(log_px, np.float64)
    log_mass = log_mass_bound(view, log_px, num_pixels, levels)
    return -log_mass if view == "binary" else bits_per_dim(log_mass, num_pixels)
