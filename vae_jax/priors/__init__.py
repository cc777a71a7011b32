"""Priors p(z), one file per kind.

A family is a frozen description. From the model's parameters it makes a prior: a value
with samples and a density.
"""

from typing import Any

from vae_jax.priors.diffusion import DiffusionFamily
from vae_jax.priors.flow import FlowPriorFamily
from vae_jax.priors.gaussian import GaussianPriorFamily, StandardNormal
from vae_jax.priors.hierarchy import TopDown
from vae_jax.priors.interface import Prior, PriorFamily
from vae_jax.priors.mixture import GaussianMixtureFamily
from vae_jax.priors.vamp import VampPriorFamily
from vae_jax.registry import Registry

__all__ = [
    "HIERARCHICAL_PRIORS",
    "PRIORS",
    "GaussianMixtureFamily",
    "GaussianPriorFamily",
    "Prior",
    "PriorFamily",
    "StandardNormal",
    "VampPriorFamily",
    "make_prior",
    "priors_of",
]

PRIORS: Registry[PriorFamily] = Registry("prior", num_bound=1)
PRIORS |= {
    "standard_normal": StandardNormal,
    "gaussian": GaussianPriorFamily,
    "mixture": GaussianMixtureFamily,
    "vamp": VampPriorFamily,
    "flow": FlowPriorFamily,
    "diffusion": DiffusionFamily,
}

# By the name of the top layer's prior; each lower layer depends on the one above.
HIERARCHICAL_PRIORS: Registry[PriorFamily] = Registry("prior", num_bound=1)
HIERARCHICAL_PRIORS |= {"standard_normal": TopDown}


def make_prior(
    name: str, /, layer_dims: tuple[int, ...], **options: Any
) -> PriorFamily:
    """Returns the prior family of the given name.

    Args:
        name: a name in ``PRIORS``; with several layers, the prior of the top layer.
        layer_dims: number of latents of each stochastic layer; the first is the one
            next to the images.
        **options: options of this family, as listed by
            ``priors_of(name, layer_dims).options(name)``.

    Raises:
        ValueError: the name or an option is unknown, a value is not allowed, or the
            family supports only one layer and there are more.
    """
    size = layer_dims if len(layer_dims) > 1 else layer_dims[0]
    return priors_of(name, layer_dims).make(name, size, **options)


def priors_of(name: str, layer_dims: tuple[int, ...]) -> Registry[PriorFamily]:
    """Returns the registry of the priors for a number of stochastic layers.

    Args:
        name: a name in ``PRIORS``.
        layer_dims: number of latents of each stochastic layer.

    Raises:
        ValueError: the name is unknown, or the family supports only one layer and there
            are more.
    """
    PRIORS.require_name(name)
    if len(layer_dims) == 1:
        return PRIORS
    if name not in HIERARCHICAL_PRIORS:
        raise ValueError(
            f"prior is {name!r}: it has one stochastic layer, but there are "
            f"{len(layer_dims)}. Choose 'standard_normal', which is then the top "
            "layer's, or leave upper_layers out."
        )
    return HIERARCHICAL_PRIORS
