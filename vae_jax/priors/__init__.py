"""Priors p(z), one file per kind.

A family is a frozen description; with the model's parameters it gives a prior, a value
that is sampled and has a density.
"""

from collections.abc import Callable
from typing import Any

from vae_jax.posteriors.interface import make_family
from vae_jax.priors.flow import FlowPriorFamily
from vae_jax.priors.gaussian import GaussianPriorFamily, StandardNormal
from vae_jax.priors.hierarchy import TopDown
from vae_jax.priors.interface import Prior, PriorFamily
from vae_jax.priors.mixture import GaussianMixtureFamily
from vae_jax.priors.vamp import VampPriorFamily

__all__ = [
    "PRIORS",
    "GaussianMixtureFamily",
    "GaussianPriorFamily",
    "Prior",
    "PriorFamily",
    "StandardNormal",
    "VampPriorFamily",
    "make_prior",
]

# Made from the number of latents.
PRIORS: dict[str, Callable[..., PriorFamily]] = {
    "standard_normal": StandardNormal,
    "gaussian": GaussianPriorFamily,
    "mixture": GaussianMixtureFamily,
    "vamp": VampPriorFamily,
    "flow": FlowPriorFamily,
}


def make_prior(name: str, layer_dims: tuple[int, ...], **options: Any) -> PriorFamily:
    """A family by name.

    Args:
        name: a name in ``PRIORS``.
        layer_dims: number of latents of each stochastic layer, the images' first.
        **options: fields of that and other families, which take what is theirs.

    Raises:
        ValueError: an unknown name, or one for a single layer where there are more.
    """
    if len(layer_dims) > 1:
        if name != "standard_normal":
            raise ValueError(
                f"prior {name!r} has one stochastic layer, but there are "
                f"{len(layer_dims)}: choose 'standard_normal', which is then the top "
                "layer's, or give no upper_layers."
            )
        return make_family(TopDown, layer_dims, options)
    if name not in PRIORS:
        raise ValueError(f"unknown prior {name!r}: choose one of {', '.join(PRIORS)}.")
    return make_family(PRIORS[name], layer_dims[0], options)
