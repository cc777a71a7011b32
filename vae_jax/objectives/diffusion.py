"""The bound of a model whose prior is a chain of latents."""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax

from vae_jax.objectives.base import Batch, Objective, Terms
from vae_jax.priors.diffusion import WEIGHTINGS


@dataclasses.dataclass(frozen=True)
class Diffusion(Objective):
    """ELBO with all layers of a chain, estimated from one random layer of each image.

    E_q[log p(x|z_0)] - KL(q(z_0 ... z_T|x) || p(z_0 ... z_T)) where the posterior is
    the chain's noise (Kingma et al. 2021, "Variational diffusion models"). Else the
    chain is the prior of the latents, and the bound has their density under q, too.

    Attributes:
        weighting: how much the loss of each layer counts in training. Only 'elbo' is
            the bound; reconstruction and KL are reported without another weighting.
    """

    weighting: Annotated[str, WEIGHTINGS] = "elbo"

    needs_density: ClassVar[bool] = False
    # Whether some images lose their class, as ``label_dropout`` of the chain says.
    hides_classes: ClassVar[bool] = True

    def for_validation(self) -> "Diffusion":
        return _AllClasses(self.num_samples)

    def terms(self, batch: Batch) -> Terms:
        batch_key = batch.key
        noise_key, chain_key = jax.random.split(batch_key)
        batch = dataclasses.replace(batch, key=noise_key)
        model, params = batch.model, batch.params
        prior: Any = model.prior(params, batch.x)
        if self.hides_classes:
            # The next child of the key; the split above gives children 0 and 1.
            prior = prior.with_fewer_classes(jax.random.fold_in(batch_key, 2))
        found = prior.kl_terms(chain_key, batch.posterior, batch.noise, self.weighting)
        reconstruction = model.log_likelihood(params, batch.x, found.z).mean(0)
        bound = reconstruction - batch.kl_weight * found.weighted
        return Terms(bound, reconstruction, found.kl)


@dataclasses.dataclass(frozen=True)
class _AllClasses(Diffusion):
    """The bound of images that keep their classes, as in measurements."""

    hides_classes: ClassVar[bool] = False
