"""The ELBO in forms of different variance; all samples have the same weight."""

import dataclasses
from typing import Annotated, ClassVar

import jax.numpy as jnp

from vae_jax.checks import Range
from vae_jax.distributions import sample_without_score
from vae_jax.objectives.base import Batch, Objective, Terms


@dataclasses.dataclass(frozen=True)
class Elbo(Objective):
    """ELBO with the KL in closed form: E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    The expectation is a mean over ``num_samples``; its variance is lower than the
    log-weight form's where q is far from the true posterior. Kingma & Welling 2014,
    eq. 7 (there estimator B); beta as in Higgins et al. 2017, eq. 4.

    Attributes:
        free_bits: nats of each latent's KL that cost nothing in training: where a
            latent has less, its KL enters the bound as that many (Kingma et al. 2016,
            eq. 15, per image). If the posterior's KL is one term for all latents, they
            count once.
        capacity: a target for the KL of every image, in nats: the bound is then
            reconstruction - beta |KL - capacity| (Burgess et al. 2018, per image), and
            the warm-up raises the capacity in place of beta. It cannot be combined with
            free bits.
    """

    free_bits: Annotated[float, Range(at_least=0)] = 0.0
    capacity: Annotated[float, Range(at_least=0)] = 0.0

    needs_closed_form_kl: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.capacity and self.free_bits:
            raise ValueError(
                f"capacity is {self.capacity} and free_bits is {self.free_bits}: both "
                "set how much KL there is. Set one of them to 0."
            )

    def for_validation(self) -> "Elbo":
        return dataclasses.replace(self, free_bits=0.0)

    def terms(self, batch: Batch) -> Terms:
        model, params, mask = batch.model, batch.params, batch.latent_mask
        z = batch.posterior.sample(batch.noise)
        reconstruction = model.log_likelihood(params, batch.x, z).mean(0)  # [B]
        per_latent = model.closed_form_kl(params, batch.posterior)  # [B, L]
        kl = charged = per_latent.sum(-1)  # [B]
        if self.free_bits:
            per_latent = jnp.maximum(per_latent, self.free_bits)
            if mask is not None and model.can_be_padded:
                per_latent = per_latent * mask[None]
            charged = per_latent.sum(-1)
        charged = jnp.abs(charged - self.capacity * batch.warmup)
        weight = batch.beta if self.capacity else batch.kl_weight
        return Terms(reconstruction - weight * charged, reconstruction, kl)


@dataclasses.dataclass(frozen=True)
class ElboLogWeight(Objective):
    """ELBO as a mean log-weight: E_q[log p(x|z) + beta (log p(z) - log q(z|x))].

    Needs no closed-form KL, and has no variance where q is the true posterior.
    Kingma & Welling 2014, eq. 6 (there estimator A).
    """

    def terms(self, batch: Batch) -> Terms:
        reconstruction, kl = (ratio.mean(0) for ratio in batch.sampled_log_ratios())
        return Terms(reconstruction - batch.kl_weight * kl, reconstruction, kl)


@dataclasses.dataclass(frozen=True)
class STL(Objective):
    """``ElboLogWeight`` with a gradient that leaves out the score of q.

    The score, the derivative of log q(z|x) for a z that is held fixed, is 0 on average.
    Without it the gradient stays unbiased, and the gradient for q has no variance where
    q is the true posterior. Roeder et al. 2017, "Sticking the landing".
    """

    def terms(self, batch: Batch) -> Terms:
        samples = sample_without_score(batch.posterior, batch.noise)
        reconstruction, kl = (ratio.mean(0) for ratio in batch.log_ratios(*samples))
        return Terms(reconstruction - batch.kl_weight * kl, reconstruction, kl)
