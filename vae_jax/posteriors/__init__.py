"""Approximate posteriors q(z|x), one file per kind.

A family is a frozen description; with the encoder's outputs for a batch it gives a
posterior, a value that is sampled and has a density.
"""

import functools
from collections.abc import Callable
from typing import Any

from vae_jax.distributions.flows import STEPS
from vae_jax.posteriors.flow import FlowFamily
from vae_jax.posteriors.gaussian import DiagonalGaussianFamily, FullCovarianceFamily
from vae_jax.posteriors.hierarchy import BottomUpFamily, LadderFamily
from vae_jax.posteriors.interface import PosteriorFamily, make_family

__all__ = [
    "POSTERIORS",
    "LadderFamily",
    "PosteriorFamily",
    "make_posterior",
]

# Made from the number of latents, or of each of several stochastic layers.
POSTERIORS: dict[str, Callable[..., PosteriorFamily]] = {
    "diagonal": DiagonalGaussianFamily,
    "full_covariance": FullCovarianceFamily,
    **{kind: functools.partial(FlowFamily, kind=kind) for kind in STEPS},
}
HIERARCHICAL: dict[str, Callable[..., PosteriorFamily]] = {
    "bottom_up": BottomUpFamily,
    "ladder": LadderFamily,
}


def make_posterior(
    name: str, layer_dims: tuple[int, ...], **options: Any
) -> PosteriorFamily:
    """A family by name.

    Args:
        name: a name in ``POSTERIORS``, or for several stochastic layers in
            ``HIERARCHICAL``.
        layer_dims: number of latents of each layer, the images' first.
        **options: fields of that and other families, which take what is theirs.

    Raises:
        ValueError: an unknown name, or one for another number of layers.
    """
    known = {**POSTERIORS, **HIERARCHICAL}
    if name not in known:
        raise ValueError(
            f"unknown posterior {name!r}: choose one of {', '.join(known)}."
        )
    if name in HIERARCHICAL and len(layer_dims) == 1:
        raise ValueError(
            f"posterior {name!r} needs at least two stochastic layers: give "
            f"upper_layers, or choose one of {', '.join(POSTERIORS)}."
        )
    if name in POSTERIORS and len(layer_dims) > 1:
        raise ValueError(
            f"posterior {name!r} has one stochastic layer: give no upper_layers, or "
            f"choose one of {', '.join(HIERARCHICAL)}."
        )
    size = layer_dims if name in HIERARCHICAL else layer_dims[0]
    return make_family(known[name], size, options)
