"""Priors p(z), one file per kind.

A family is a frozen description; with the model's parameters it gives a prior, a value
that is sampled and has a density.
"""

from collections.abc import Callable
from typing import Any

from vae_jax.posteriors.interface import make_family
from vae_jax.priors.gaussian import StandardNormal
from vae_jax.priors.interface import Prior, PriorFamily

__all__ = ["PRIORS", "Prior", "PriorFamily", "StandardNormal", "make_prior"]

# Made from the number of latents.
PRIORS: dict[str, Callable[..., PriorFamily]] = {
    "standard_normal": StandardNormal,
}


def make_prior(name: str, layer_dims: tuple[int, ...], **options: Any) -> PriorFamily:
    """A family by name.

    Args:
        name: a name in ``PRIORS``.
        layer_dims: number of latents of each stochastic layer, the images' first.
        **options: fields of that and other families, which take what is theirs.

    Raises:
        ValueError: an unknown name.
    """
    if name not in PRIORS:
        raise ValueError(f"unknown prior {name!r}: choose one of {', '.join(PRIORS)}.")
    return make_family(PRIORS[name], layer_dims[0], options)
