"""Lower bounds on log p(x), per image, in nats; larger is better.

Every objective is a function ``(model, params, key, x, *, beta, num_samples,
latent_mask, **options) -> Terms`` of one batch, estimated with samples of q(z|x).
Nothing here averages over images: the training step does, so that bounds stay
comparable between likelihoods and batch sizes.

``single`` holds the ELBO in several forms, ``importance`` what weighs several samples,
``aggregate`` what sees the batch as a whole.
"""

from vae_jax.objectives.aggregate import beta_tc, mmd
from vae_jax.objectives.importance import (
    ciwae,
    dreg,
    iwae,
    miwae,
    piwae,
    renyi,
    thermodynamic,
)
from vae_jax.objectives.interface import Objective, Terms, posterior_and_noise
from vae_jax.objectives.single import elbo, elbo_log_weight, stl

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Terms",
    "beta_tc",
    "ciwae",
    "dreg",
    "elbo",
    "elbo_log_weight",
    "iwae",
    "miwae",
    "mmd",
    "piwae",
    "posterior_and_noise",
    "renyi",
    "stl",
    "thermodynamic",
]

OBJECTIVES: dict[str, Objective] = {
    "elbo": Objective(
        elbo, options=("free_bits", "capacity"), needs_closed_form_kl=True
    ),
    "elbo_log_weight": Objective(elbo_log_weight),
    "stl": Objective(stl),
    "iwae": Objective(iwae, weighs_samples=True),
    "dreg": Objective(dreg, weighs_samples=True),
    "miwae": Objective(miwae, options=("num_groups",), weighs_samples=True),
    "ciwae": Objective(ciwae, options=("mixing",), weighs_samples=True),
    "piwae": Objective(piwae, options=("num_groups",), weighs_samples=True),
    "renyi": Objective(renyi, options=("alpha",), weighs_samples=True),
    "thermodynamic": Objective(
        thermodynamic, options=("partitions",), weighs_samples=True, fewest_samples=2
    ),
    "beta_tc": Objective(
        beta_tc,
        needs_closed_form_kl=True,
        needs_diagonal_posterior=True,
        needs_num_images=True,
        depends_on_batch=True,
    ),
    "mmd": Objective(mmd, options=("mmd_weight",), depends_on_batch=True),
}
