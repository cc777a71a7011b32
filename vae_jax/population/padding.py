"""Models of several latent sizes with arrays of one shape, by appended zeros.

Each member is initialised at its own latent size (its own fan-in) and padded with zeros
to the largest of its group. Padded entries get exactly zero gradient and an Adam update
of exactly zero (``objectives.Batch``), so a padded member follows the trajectory of the
model trained alone.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.likelihoods import make_likelihood
from vae_jax.model import VAE, Params
from vae_jax.objectives import ElboLogWeight
from vae_jax.population.programs import optimized

# More images than any prior starts at; only shapes are made, which cost nothing.
_ENOUGH_IMAGES = 1_000_000

# Relative: products of another width are rounded differently, also in TF32.
_TOLERANCE = 1e-2


def pad(tree: Any, like: Any) -> Any:
    """Appends zeros to every axis of every leaf until it has the shapes of ``like``."""

    def pad_leaf(leaf: jax.Array, target: jax.Array) -> jax.Array:
        sizes = zip(leaf.shape, target.shape, strict=True)
        zero = jnp.zeros((), leaf.dtype)
        return jax.lax.pad(leaf, zero, [(0, wide - own, 0) for own, wide in sizes])

    return jax.tree.map(pad_leaf, tree, like)


def unpad(tree: Any, like: Any) -> Any:
    """Cuts every leaf to the shapes of ``like``; the inverse of ``pad``."""
    return jax.tree.map(
        lambda leaf, target: leaf[tuple(slice(n) for n in target.shape)], tree, like
    )


def latent_mask(latent_dim: int, widest: int) -> np.ndarray:
    """Returns 1 for the latents in use and 0 for padding, ``[widest]``."""
    return (np.arange(widest) < latent_dim).astype(np.float32)


@functools.lru_cache(maxsize=1024)  # Tracing takes as long as a small program.
def param_shapes(model: VAE) -> Params:
    """Returns shapes and dtypes of a model's parameters, and computes none."""
    statistics = jax.ShapeDtypeStruct((model.num_pixels,), jnp.float32)
    images = jax.ShapeDtypeStruct((_ENOUGH_IMAGES, model.rows.size), jnp.uint8)
    shapes: Params = jax.eval_shape(
        model.init,
        jax.eval_shape(lambda: jax.random.key(0)),
        statistics,
        statistics,
        images,
    )
    return shapes


def check_padding(models: Sequence[VAE]) -> None:
    """Refuses models of several latent sizes whose zero-padding is not exact.

    The parts declare it (``pads_exactly``), and this tests it with random parameters:
    the padded model must give the same terms as the model itself, and no gradient in
    the padding. The likelihood plays no role here, so one check serves all likelihoods.

    Raises:
        ValueError: zero-padding is not declared to be exact, or is not exact.
    """
    narrow = min(models, key=lambda model: model.latent_dim)
    wide = max(models, key=lambda model: model.latent_dim)
    if narrow.latent_dim == wide.latent_dim:
        return
    if not wide.can_be_padded:
        raise ValueError(
            f"latent_dim is {narrow.latent_dim} and {wide.latent_dim} in one program: "
            f"{' and '.join(wide.parts_not_padded) or 'a hierarchy'} does not declare "
            "pads_exactly. Train one latent size at a time."
        )
    if not _pads_exactly(*(_with_bernoulli(model) for model in (narrow, wide))):
        parts = (wide.network, wide.posterior_family, wide.prior_family)
        names = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"pads_exactly is True of {names}: zero-padded from {narrow.latent_dim} to "
            f"{wide.latent_dim} latents, random parameters give other terms or a "
            "gradient in the padding. Let the part at fault declare pads_exactly = "
            "False."
        )


def _with_bernoulli(model: VAE) -> VAE:
    return dataclasses.replace(model, likelihood=make_likelihood("bernoulli", 2))


@functools.lru_cache
def _pads_exactly(narrow: VAE, wide: VAE) -> bool:
    """Returns whether zero-padding is exact, at random parameters and images."""
    num_pixels = narrow.num_pixels
    shapes = param_shapes(wide)
    mask = jax.device_put(latent_mask(narrow.latent_dim, wide.latent_dim))
    # Drawn on the host: a program that draws them would take longer to compile than
    # the rest. Biases that start at 0 would hide their effect.
    host = np.random.default_rng(0)
    # Of a model with classes, the last value of a row is the class 0 or 1.
    images = host.integers(2, size=(4, narrow.rows.size)).astype(np.float32)
    noise = jax.tree.map(
        lambda leaf: 0.3 * host.standard_normal(leaf.shape, np.float32),
        param_shapes(narrow),
    )

    def compare(
        seed: jax.Array, x: jax.Array, noise: Params
    ) -> tuple[jax.Array, jax.Array]:
        init_key, noise_key = jax.random.split(jax.random.key(seed))
        half = jnp.full(num_pixels, 0.5)
        params = jax.tree.map(jnp.add, narrow.init(init_key, half, half), noise)

        def terms(model: VAE, params: Params, mask: jax.Array | None) -> Any:
            found = ElboLogWeight()(model, params, noise_key, x, latent_mask=mask)
            if not model.has_closed_form_kl:
                return found, found.kl
            posterior = model.encode(params, x, mask)
            return found, model.closed_form_kl(params, posterior).sum(-1)

        def loss(padded: Params) -> tuple[jax.Array, Any]:
            found, kl = terms(wide, padded, mask)
            return found.bound.mean() + kl.mean(), (found, kl)

        gradient, padded = jax.grad(loss, has_aux=True)(pad(params, shapes))
        inside = pad(unpad(gradient, params), shapes)
        distances = jax.tree.map(
            lambda a, b: jnp.max(jnp.abs(a - b) / (1 + jnp.abs(a))),
            terms(narrow, params, None),
            padded,
        )
        same = jax.tree.map(lambda a, b: jnp.all(a == b), gradient, inside)
        return (
            jnp.max(jnp.stack(jax.tree.leaves(distances))),
            jnp.all(jnp.stack(jax.tree.leaves(same))),
        )

    given = np.uint32(0), images, noise
    options = optimized(0, jax.devices()[0].platform)  # It runs once.
    distance, no_gradient_outside = (
        jax.jit(compare).lower(*given).compile(options)(*given)
    )
    return bool(no_gradient_outside) and float(distance) < _TOLERANCE
