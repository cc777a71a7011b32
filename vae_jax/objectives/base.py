"""The parts that all objectives share: their interface, and samples of q(z|x)."""

import abc
import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax

from vae_jax.checks import Count, require_fields
from vae_jax.distributions import Posterior, latent_noise
from vae_jax.model import VAE, Params
from vae_jax.posteriors.gaussian import DiagonalGaussianFamily
from vae_jax.registry import Registry, name_of


class Terms(NamedTuple):
    """The terms of each image, ``[batch]``, nats."""

    # Training maximises this. With beta = 1 it is a lower bound on log p(x), except
    # with a capacity or with the estimate that MMD subtracts; Renyi with a negative
    # alpha is an upper bound.
    bound: jax.Array
    reconstruction: jax.Array  # estimate of E_q[log p(x|z)]
    kl: jax.Array  # KL(q(z|x) || p(z)), exact or estimated

    @property
    def elbo(self) -> jax.Array:
        """reconstruction - kl, for any beta and bound that were trained on."""
        return self.reconstruction - self.kl


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images with their posterior samples, from which an objective is estimated.

    Attributes:
        model: the VAE.
        params: its parameters, possibly zero-padded to a wider latent.
        key: a typed key.
        x: rows in the likelihood's view, ``[batch, D]`` (``vae_jax.rows``).
        num_samples: samples of q(z|x) per image.
        beta: weight of the KL.
        warmup: factor in [0, 1] by which the KL's weight, or a capacity, has risen.
        latent_mask: 1 for a latent in use and 0 for padding, ``[latent]``, or None.
            In the padding q is the prior and z is 0: the decoder's padded rows get a
            gradient of exactly 0, and so do the encoder's.
        num_images: number of training images that the batch is from, or None.
    """

    model: VAE
    params: Params
    key: jax.Array
    x: jax.Array
    num_samples: int = 1
    beta: jax.Array | float = 1.0
    warmup: jax.Array | float = 1.0
    latent_mask: jax.Array | None = None
    num_images: int | None = None

    @property
    def kl_weight(self) -> jax.Array | float:
        """The weight of the KL: beta times the warm-up factor."""
        return self.beta * self.warmup

    @functools.cached_property
    def posterior(self) -> Posterior:
        """q(z|x) of each image."""
        return self.model.encode(self.params, self.x, self.latent_mask)

    @functools.cached_property
    def noise(self) -> jax.Array:
        """Standard normal noise to sample q with, ``[num_samples, batch, latent]``."""
        mask = self.latent_mask
        noise = latent_noise(
            self.key, self.num_samples, self.x.shape[0], self.model.latent_dim
        )
        return noise if mask is None else noise * mask[None, None]

    def log_ratios(self, z: jax.Array, log_q: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns log p(x|z) and log q(z|x) - log p(z), nats, ``[samples, batch]``.

        Their difference is the log-weight log p(x, z) - log q(z|x).

        Args:
            z: samples of q(z|x), ``[samples, batch, latent]``.
            log_q: log q(z|x) of these, nats, ``[samples, batch]``.
        """
        log_px_z = self.model.log_likelihood(self.params, self.x, z)
        # Padded latents add the same constant to both densities, which cancels.
        return log_px_z, log_q - self.model.prior(self.params).log_prob(z)

    def sampled_log_ratios(self) -> tuple[jax.Array, jax.Array]:
        """Returns ``log_ratios`` of reparameterized samples."""
        return self.log_ratios(*self.posterior.sample_and_log_prob(self.noise))


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """A lower bound on log p(x), with its options; hashable, and static under ``jit``.

    A subclass defines ``terms``, and declares what it needs by class attributes. Its
    fields are its options.

    Attributes:
        num_samples: samples of q(z|x) per image, at least ``fewest_samples``.
    """

    num_samples: Count = 1

    fewest_samples: ClassVar[int] = 1
    needs_closed_form_kl: ClassVar[bool] = False
    needs_diagonal_posterior: ClassVar[bool] = False
    # The terms of an image depend on the batch that it is in.
    depends_on_batch: ClassVar[bool] = False
    # Samples of an image count by their importance weights.
    weighs_samples: ClassVar[bool] = False
    # log p(z) must be known exactly.
    needs_density: ClassVar[bool] = True
    # The class of an image may be unknown.
    infers_classes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_fields(self)
        if self.num_samples < self.fewest_samples:
            raise ValueError(
                f"num_samples is {self.num_samples}: {self.name} needs at least "
                f"{self.fewest_samples} for each image. Give so many, or choose "
                "another objective."
            )

    def __call__(
        self,
        model: VAE,
        params: Params,
        key: jax.Array,
        x: jax.Array,
        *,
        beta: jax.Array | float = 1.0,
        warmup: jax.Array | float = 1.0,
        latent_mask: jax.Array | None = None,
        num_images: int | None = None,
    ) -> Terms:
        """Returns the terms of each image of a batch; arguments as in ``Batch``."""
        return self.terms(
            Batch(
                model,
                params,
                key,
                x,
                self.num_samples,
                beta,
                warmup,
                latent_mask,
                num_images,
            )
        )

    @abc.abstractmethod
    def terms(self, batch: Batch) -> Terms:
        """Returns the terms of each image, nats."""

    def for_validation(self) -> "Objective":
        """Returns the objective without options that only shape training."""
        return self

    @property
    def name(self) -> str:
        """The name of the objective for messages, as in "'elbo'"."""
        return name_of(self, OBJECTIVES)

    def check(self, model: VAE) -> None:
        """Refuses a model that this objective is not defined for.

        Raises:
            ValueError: naming the part of the model, and the remedy.
        """
        posterior, prior = model.name_of("posterior"), model.name_of("prior")
        name = self.name
        # First: no other objective learns such a model, so none may be the remedy.
        if model.has_classifier and not model.has_density:
            raise ValueError(
                f"objective is {name}: none learns a chain of latents from images "
                "whose class is not known. Give the class of all images, or choose a "
                "prior other than 'diffusion'."
            )
        if self.needs_density != model.has_density:
            remedy = "Choose the objective 'diffusion'."
            why = f"it needs log p(z), which the prior {prior} does not have"
            if not self.needs_density:
                why = f"it is the bound of a chain of latents, which {prior} is not"
                remedy = (
                    "Choose the prior 'diffusion', or an objective such as "
                    "'elbo_log_weight'."
                )
            raise ValueError(f"objective is {name}: {why}. {remedy}")
        is_diagonal = isinstance(model.posterior_family, DiagonalGaussianFamily)
        if self.needs_diagonal_posterior and not is_diagonal:
            raise ValueError(
                f"objective is {name}: it needs independent latents, which {posterior} "
                "does not have. Choose the posterior 'diagonal', or the objective "
                "'mmd'."
            )
        if self.needs_closed_form_kl and not model.has_closed_form_kl:
            raise ValueError(
                f"objective is {name}: it needs the KL in closed form, which "
                f"{posterior} and {prior} do not have. Choose 'elbo_log_weight', which "
                "estimates it."
            )
        if self.infers_classes != model.has_classifier:
            remedy = "Choose the objective 'semi_supervised'."
            if self.infers_classes:
                remedy = "Give it one, with has_classifier."
            kind = "a" if model.has_classifier else "no"
            raise ValueError(
                f"objective is {name}: the model has {kind} classifier. {remedy}"
            )
        weighs = self.weighs_samples and self.num_samples > 1
        if weighs and model.likelihood.fits_shared:
            raise ValueError(
                f"objective is {name} with num_samples={self.num_samples}: it weighs "
                "samples, and a scale in closed form is not the optimum of its bound. "
                "Choose a likelihood that learns its scale, such as "
                "'gaussian_shared', or the objective 'stl'."
            )


OBJECTIVES: Registry[Objective] = Registry("objective")
