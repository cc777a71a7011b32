"""Posteriors whose samples go through a flow."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vae_jax.distributions import DiagonalGaussian, Flow
from vae_jax.networks import Heads, Params, hidden_layers
from vae_jax.trees import tree_dataclass


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class FlowPosterior:
    """q(z|x): a diagonal Gaussian, mapped by a flow that depends on the image.

    Rezende & Mohamed 2015, "Variational inference with normalizing flows".
    """

    base: DiagonalGaussian  # [batch, latent]
    context: jax.Array  # [batch, context]
    params: Params  # of the flow
    flow: Flow = dataclasses.field(metadata={"static": True})

    def sample(self, noise: jax.Array) -> jax.Array:
        """See ``Posterior``."""
        return self.sample_and_log_prob(noise)[0]

    def log_prob(self, z: jax.Array) -> jax.Array:
        """See ``Posterior``; the rounding of z limits its accuracy (see ``flows``)."""
        u, log_det = self.flow.inverse(self.params, z, self.context[None])
        return self.base.log_prob(u) - log_det

    def sample_and_log_prob(self, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See ``Posterior``; this needs no inverse."""
        u, log_q = self.base.sample_and_log_prob(noise)
        z, log_det = self.flow.forward(self.params, u, self.context[None])
        return z, log_q - log_det

    def expectation(self, noise: jax.Array) -> jax.Array:
        """Returns the mean of the samples from the noise and from its negative."""
        return self.sample(jnp.concatenate([noise, -noise])).mean(0)


@dataclasses.dataclass(frozen=True)
class FlowFamily:
    """Flow posteriors by the kind of their steps; see ``flows.Flow`` for the fields."""

    latent_dim: int
    flow_steps: int = 4
    flow_widths: tuple[int, ...] = (64,)
    activation: str = "relu"
    kind: str = "inverse_autoregressive_flow"
    precision: str = "float32"
    has_closed_form_kl: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.flow()  # Refuses wrong options before anything is computed.

    def flow(self) -> Flow:
        """Returns the map, which takes a context."""
        return Flow(
            self.kind,
            self.latent_dim,
            self.flow_steps,
            hidden_layers(
                "flow_widths", self.flow_widths, self.activation, self.precision
            ),
            context_dim=self.flow_widths[-1] if self.flow_widths else self.latent_dim,
        )

    @property
    def heads(self) -> Heads:
        """See ``PosteriorFamily``."""
        gaussian = (("mean", self.latent_dim), ("log_scale", self.latent_dim))
        return (*gaussian, ("context", self.flow().context_dim))

    def init(self, key: jax.Array) -> Params:
        """See ``PosteriorFamily``."""
        return self.flow().init(key)

    def at(self, params: Params, outputs: dict[str, jax.Array]) -> FlowPosterior:
        """See ``PosteriorFamily``."""
        base = DiagonalGaussian.from_outputs(outputs["mean"], outputs["log_scale"])
        return FlowPosterior(base, outputs["context"], params["posterior"], self.flow())
