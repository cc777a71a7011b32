"""The parts that a model is made of, and what follows from their choice."""

import dataclasses
import math
from typing import Any, Self

import jax

from vae_jax import views
from vae_jax.likelihoods import LIKELIHOODS, Likelihood
from vae_jax.networks import NETWORKS, Identity, Module, Network, Shape
from vae_jax.posteriors import POSTERIORS, PosteriorFamily
from vae_jax.priors import HIERARCHICAL_PRIORS, PRIORS, PriorFamily
from vae_jax.registry import name_of
from vae_jax.rows import Rows


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a model, and what follows from them; hashable."""

    network: Network
    image_shape: Shape  # height, width, channels
    likelihood: Likelihood
    posterior_family: PosteriorFamily
    prior_family: PriorFamily
    layer_dims: tuple[int, ...]  # latents per stochastic layer; next to images first
    ignore_x: bool = False  # q(z) in place of q(z|x): the encoder sees a black image
    num_classes: int = 0  # K, of y; 0: the model has no classes
    has_classifier: bool = False  # q(y|x), for images whose class is not known

    def name_of(self, kind: str) -> str:
        """Returns the name of a part for messages, as in "'diagonal'".

        Args:
            kind: 'network', 'likelihood', 'posterior' or 'prior'.
        """
        parts: dict[str, tuple[Any, ...]] = {
            "network": (self.network, NETWORKS),
            "likelihood": (self.likelihood, LIKELIHOODS),
            "posterior": (self.posterior_family, POSTERIORS),
            "prior": (self.prior_family, PRIORS, HIERARCHICAL_PRIORS),
        }
        return name_of(*parts[kind])

    @property
    def encoder(self) -> Module:
        """The map from intensities ``[..., D]`` to the posterior family's inputs."""
        return self.network.encoder(self.image_shape, self.posterior_family.heads)

    @property
    def decoder(self) -> Module:
        """The map from latents, after a class, to the likelihood's parameters."""
        return self.network.decoder(self.image_shape, self.likelihood.pixel_outputs)

    @property
    def classifier(self) -> Module:
        """The map from intensities ``[..., D]`` to the logits of q(y|x), 'class'."""
        return self.network.encoder(self.image_shape, (("class", self.num_classes),))

    @property
    def latent_dim(self) -> int:
        """The number of latents of all stochastic layers together."""
        return sum(self.layer_dims)

    @property
    def num_pixels(self) -> int:
        """D, the number of values of an image, over all channels."""
        return math.prod(self.image_shape)

    @property
    def rows(self) -> Rows:
        """The format of x: an image, with its class if the model has classes."""
        return Rows(self.num_pixels, self.num_classes, self.has_classifier)

    @property
    def has_closed_form_kl(self) -> bool:
        """Whether KL(q(z|x) || p(z)) has a closed form."""
        families = (self.posterior_family, self.prior_family)
        return all(family.has_closed_form_kl for family in families)

    @property
    def has_density(self) -> bool:
        """Whether log p(z) can be computed; a chain of latents only bounds it."""
        return bool(getattr(self.prior_family, "has_density", True))

    @property
    def is_chain(self) -> bool:
        """Whether z is the image and noise, the first layer of a chain."""
        return bool(getattr(self.posterior_family, "is_noise", False))

    @property
    def can_be_guided(self) -> bool:
        """Whether a chain of latents has learned to do without the class, too."""
        return bool(getattr(self.prior_family, "label_dropout", 0.0))

    @property
    def is_autoregressive(self) -> bool:
        """Whether a pixel depends on the pixels before it, given z."""
        return self.network.is_autoregressive

    @property
    def can_be_padded(self) -> bool:
        """Whether the model stays the same if it is zero-padded to more latents.

        This is so for one stochastic layer, if network, posterior and prior all declare
        ``pads_exactly``.
        """
        return len(self.layer_dims) == 1 and not self.parts_not_padded

    @property
    def parts_not_padded(self) -> list[str]:
        """Names of the parts that do not declare that zero-padding is exact."""
        return [
            type(part).__name__
            for part in (self.network, self.posterior_family, self.prior_family)
            if not getattr(part, "pads_exactly", False)
        ]

    def shared_draw(self, which: int, x: Any) -> jax.Array:
        """Returns rows in the likelihood's view, with the draw that all models share.

        Args:
            which: ``views.VALIDATION``, ``TEST`` or ``TRAIN`` images.
            x: rows of integers, ``[N, D]``.
        """
        view, levels = self.likelihood.view, self.likelihood.levels
        return self.rows.map(
            lambda pixels: views.shared_draw(view, which, pixels, levels), x
        )

    def with_latent_dim(self, latent_dim: int) -> Self:
        """Returns the same model with another number of latents.

        Raises:
            ValueError: the model has several stochastic layers.
        """
        if self.layer_dims == (latent_dim,):
            return self
        if len(self.layer_dims) > 1:
            raise ValueError(
                f"latent_dim is {latent_dim}: the model has the layers "
                f"{self.layer_dims}. Make a model for each latent size."
            )
        families: list[Any] = [self.posterior_family, self.prior_family]
        posterior, prior = (
            dataclasses.replace(family, latent_dim=latent_dim) for family in families
        )
        return dataclasses.replace(
            self,
            posterior_family=posterior,
            prior_family=prior,
            layer_dims=(latent_dim,),
        )


def require_chain(parts: Parts, posterior: str, prior: str) -> None:
    """Refuses parts that do not make a chain of latents together.

    Args:
        parts: with the posterior 'noise' or the network 'identity'.
        posterior: name of the posterior.
        prior: name of the prior.

    Raises:
        ValueError: naming the part, and the remedy.
    """
    if not isinstance(parts.network, Identity):
        raise ValueError(
            f"network is {parts.name_of('network')}: the latents of the posterior "
            "'noise' are the image, which no network encodes. Choose 'identity'."
        )
    if posterior != "noise":
        raise ValueError(
            f"posterior is {posterior!r}: the network 'identity' has no encoder for "
            "it. Choose the posterior 'noise', or a network such as 'mlp'."
        )
    if prior != "diffusion":
        raise ValueError(
            f"prior is {prior!r}: the posterior 'noise' is the first layer of a chain "
            "of latents. Choose the prior 'diffusion'."
        )
    if parts.latent_dim != parts.num_pixels:
        raise ValueError(
            f"latent_dim is {parts.latent_dim}: the latents of the posterior 'noise' "
            f"are the values of the image. Set it to {parts.num_pixels}."
        )
    if parts.ignore_x:
        raise ValueError(
            "ignore_x is True: the posterior 'noise' would be of a black image, as it "
            "has no parameters. Leave it out."
        )
    if not parts.likelihood.has_readout:
        raise ValueError(
            f"likelihood is {parts.name_of('likelihood')}: it has no readout of an "
            "image with noise. Choose 'bernoulli', 'discretized_gaussian', "
            "'categorical' or 'gaussian_pixel'."
        )
    families: list[Any] = [parts.posterior_family, parts.prior_family]
    for option in ("gamma_min", "preserves_variance"):
        own, other = (getattr(family, option) for family in families)
        if own != other:
            raise ValueError(
                f"{option} is {own} of the posterior and {other} of the prior: z_0 is "
                "a layer of both. Give it once, for both."
            )
