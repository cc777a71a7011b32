"""A prior: N(0, I), mapped by a flow."""

import dataclasses
from typing import ClassVar

import jax

from vae_jax.distributions import Flow
from vae_jax.networks import Params, hidden_layers
from vae_jax.priors.gaussian import StandardNormal
from vae_jax.priors.interface import Encode


@dataclasses.dataclass(frozen=True)
class FlowPrior:
    """p(z) as a value."""

    flow: Flow
    params: Params

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Returns log p(z) in nats, a log-density: ``[..., latent] -> [...]``."""
        u, log_det = self.flow.inverse(self.params, z)
        return StandardNormal(self.flow.latent_dim).log_prob(u) - log_det

    def sample(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Returns samples z, ``[num_samples, latent]``."""
        u = StandardNormal(self.flow.latent_dim).sample(key, num_samples)
        return self.flow.forward(self.params, u)[0]


@dataclasses.dataclass(frozen=True)
class FlowPriorFamily:
    """N(0, I) mapped by affine couplings, which start at the identity.

    The inverse (for the density) is as cheap as the forward map (for samples). Unlike a
    spline, these couplings move the whole space.
    """

    latent_dim: int
    flow_steps: int = 4
    flow_widths: tuple[int, ...] = (64,)
    activation: str = "relu"
    precision: str = "float32"
    has_closed_form_kl: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.flow()  # Refuses wrong options before anything is computed.

    def flow(self) -> Flow:
        """Returns the map of N(0, I)."""
        return Flow(
            "affine_coupling",
            self.latent_dim,
            self.flow_steps,
            hidden_layers(
                "flow_widths", self.flow_widths, self.activation, self.precision
            ),
        )

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """See ``PriorFamily``."""
        del images, levels
        return self.flow().init(key)

    def at(self, params: Params, encode: Encode) -> FlowPrior:
        """See ``PriorFamily``."""
        del encode
        return FlowPrior(self.flow(), params["prior"])
