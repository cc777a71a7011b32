"""The VampPrior: a mixture of the encoder's own posteriors."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from vae_jax import views
from vae_jax.checks import Count, require_fields
from vae_jax.distributions import Posterior
from vae_jax.networks import Params
from vae_jax.priors.interface import Encode
from vae_jax.priors.mixture import Mixture

# Pseudo-inputs start at least this far from 0 and 1. At a margin of m, the gradient
# with respect to the logits is m (1 - m) times that with respect to the intensities.
_MARGIN = 0.05


@dataclasses.dataclass(frozen=True)
class VampPriorFamily:
    """p(z) = 1/K sum_k q(z|u_k) over learned pseudo-inputs u_k, one image each.

    Tomczak & Welling 2018, "VAE with a VampPrior", eq. 9. It approximates the
    aggregated posterior, the prior with the highest ELBO, and costs K runs of the
    encoder per step.

    Pseudo-inputs are intensities ``[D]`` in (0, 1), the sigmoid of learned logits. If
    they were clipped to [0, 1] instead, a value outside would have no gradient and
    could not return. They start at random training images; black and white pixels are
    moved inside, where the sigmoid has a slope.
    """

    latent_dim: int
    components: Count = 100
    has_closed_form_kl: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_fields(self)

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """Returns logits of pseudo-inputs, at distinct random training images.

        Raises:
            ValueError: there are fewer images than pseudo-inputs.
        """
        num_images = images.shape[0]
        if self.components > num_images:
            raise ValueError(
                f"components is {self.components}, but a VampPrior's pseudo-inputs "
                f"start at different training images and {num_images} were given: "
                "give more images, or choose fewer components."
            )
        rows = jax.random.choice(key, num_images, (self.components,), replace=False)
        chosen = jnp.take(images, rows, axis=0)
        intensity = views.to_intensity("levels", chosen, levels)
        inside = jnp.clip(intensity, _MARGIN, 1 - _MARGIN)
        return {"pseudo_inputs": jax.scipy.special.logit(inside)}

    def at(self, params: Params, encode: Encode) -> Mixture:
        """See ``PriorFamily``."""
        pseudo_inputs = jax.nn.sigmoid(params["prior"]["pseudo_inputs"])

        def pick(index: jax.Array) -> Posterior:
            return encode(pseudo_inputs[index])

        return Mixture(
            self.latent_dim,
            jnp.full(self.components, -math.log(self.components)),
            encode(pseudo_inputs),
            pick,
        )
