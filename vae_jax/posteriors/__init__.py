"""Approximate posteriors q(z|x), one file per kind.

A family is a frozen description. From the encoder's outputs for a batch it makes a
posterior: a value with samples and a density.
"""

import functools
from typing import Any

from vae_jax.distributions.flows import STEPS
from vae_jax.posteriors.flow import FlowFamily
from vae_jax.posteriors.gaussian import DiagonalGaussianFamily, FullCovarianceFamily
from vae_jax.posteriors.hierarchy import BottomUpFamily, LadderFamily
from vae_jax.posteriors.interface import PosteriorFamily
from vae_jax.posteriors.noise import NoiseFamily
from vae_jax.registry import Registry

__all__ = [
    "POSTERIORS",
    "LadderFamily",
    "PosteriorFamily",
    "is_hierarchical",
    "make_posterior",
]

POSTERIORS: Registry[PosteriorFamily] = Registry("posterior", num_bound=1)
POSTERIORS |= {
    "diagonal": DiagonalGaussianFamily,
    "full_covariance": FullCovarianceFamily,
    **{kind: functools.partial(FlowFamily, kind=kind) for kind in STEPS},
    "bottom_up": BottomUpFamily,
    "ladder": LadderFamily,
    "noise": NoiseFamily,
}


def make_posterior(
    name: str, /, layer_dims: tuple[int, ...], **options: Any
) -> PosteriorFamily:
    """Returns the posterior family of the given name.

    Args:
        name: a name in ``POSTERIORS``.
        layer_dims: number of latents of each stochastic layer; the first is the one
            next to the images.
        **options: options of this family.

    Raises:
        ValueError: the name or an option is unknown, a value is not allowed, or the
            family does not support this number of layers.
    """
    POSTERIORS.require_name(name)
    for_layers = is_hierarchical(name)
    fitting = [each for each in POSTERIORS if is_hierarchical(each) != for_layers]
    if for_layers and len(layer_dims) == 1:
        raise ValueError(
            f"posterior is {name!r}: it needs at least two stochastic layers. Give "
            f"upper_layers, or choose one of {', '.join(fitting)}."
        )
    if not for_layers and len(layer_dims) > 1:
        raise ValueError(
            f"posterior is {name!r}: it has one stochastic layer. Leave upper_layers "
            f"out, or choose one of {', '.join(fitting)}."
        )
    size = layer_dims if for_layers else layer_dims[0]
    return POSTERIORS.make(name, size, **options)


def is_hierarchical(name: str) -> bool:
    """Returns whether a posterior is made for several stochastic layers."""
    family: Any = POSTERIORS[name]
    return bool(getattr(getattr(family, "func", family), "is_hierarchical", False))
