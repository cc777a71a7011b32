"""A bound that also learns from images whose class is not known."""

import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from vae_jax.checks import Range
from vae_jax.model import VAE
from vae_jax.objectives.base import Batch, Objective, Terms
from vae_jax.objectives.elbo import Elbo, ElboLogWeight


@dataclasses.dataclass(frozen=True)
class SemiSupervised(Objective):
    """A bound on log p(x) without a class, and on log p(x, y) with one.

    Kingma et al. 2014, "Semi-supervised learning with deep generative models", model
    M2. With L(x, y) the ELBO of log p(x|y) and p(y) = 1 / K, the bound is

        sum_y q(y|x) (L(x, y) - log q(y|x)) - log K

    for an image whose class is not known, and otherwise

        L(x, y) - log K + classifier_weight log q(y|x).

    The sum is over all classes, so its gradient for the classifier q(y|x) has no noise
    of its own, and a step costs K times as much. The KL of the terms is that of z and y
    together.

    Attributes:
        classifier_weight: weight of log q(y|x) of an image with a class. Their eq. 9
            has 0.1 N / N_l, for N_l images with a class among N.
    """

    classifier_weight: Annotated[float, Range(at_least=0)] = 1.0

    infers_classes: ClassVar[bool] = True

    def for_validation(self) -> "SemiSupervised":
        return dataclasses.replace(self, classifier_weight=0.0)

    def check(self, model: VAE) -> None:
        super().check(model)
        if model.likelihood.fits_shared:
            raise ValueError(
                "objective is SemiSupervised: a scale in closed form needs the class "
                "of every image. Choose a likelihood that learns its scale, such as "
                "'gaussian_shared'."
            )

    def terms(self, batch: Batch) -> Terms:
        model = batch.model
        pixels, labels = model.rows.split(batch.x)
        elbo = Elbo if model.has_closed_form_kl else ElboLogWeight

        def of_class(label: jax.Array) -> Terms:
            x = model.rows.join(pixels, label)
            return elbo(self.num_samples).terms(dataclasses.replace(batch, x=x))

        classes = jnp.arange(model.num_classes)
        by_class: Terms = jax.vmap(of_class, out_axes=1)(classes)  # [B, K]
        log_q = model.classify(batch.params, batch.x)  # [B, K]
        is_known = labels < model.num_classes
        own = jax.nn.one_hot(labels, model.num_classes, dtype=log_q.dtype)
        weights = jnp.where(is_known[:, None], own, jnp.exp(log_q))
        means = Terms(*((weights * term).sum(-1) for term in by_class))
        # KL from p(y) of q(y|x), or of the known class.
        entropy = jnp.where(is_known, 0.0, -(weights * log_q).sum(-1))
        kl = jnp.log(model.num_classes) - entropy
        right = self.classifier_weight * (own * log_q).sum(-1)
        return Terms(means.bound - kl + right, means.reconstruction, means.kl + kl)
