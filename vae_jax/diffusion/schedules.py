"""Noise schedules: how the noise of a chain of latents grows with time.

Time t runs from 0, next to the image, to 1, pure noise. A schedule is the function
gamma(t) = -log SNR(t), which rises from ``gamma_min`` to ``gamma_max`` (Kingma,
Salimans, Poole and Ho 2021, "Variational diffusion models"). Its shape is the
schedule's own; its ends are exact for every shape, because each shape is normalised to
rise from 0 to 1.
"""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from vae_jax.checks import Count, require_fields
from vae_jax.networks import Params
from vae_jax.registry import Registry


@dataclasses.dataclass(frozen=True)
class Ends:
    """The two ends of gamma(t) = -log SNR(t)."""

    gamma_min: float
    gamma_max: float

    @property
    def width(self) -> float:
        """How far gamma rises."""
        return self.gamma_max - self.gamma_min


class NoiseSchedule(abc.ABC):
    """A shape of gamma(t); hashable, and static under ``jit``.

    Attributes:
        is_learned: whether it has parameters.
    """

    is_learned: ClassVar[bool] = False

    def init(self, key: jax.Array) -> Params:
        """Returns fresh parameters; {} if there are none."""
        del key
        return {}

    @abc.abstractmethod
    def shape(self, params: Params, t: jax.Array, ends: Ends) -> jax.Array:
        """Returns an increasing function of t, elementwise; any start and any end.

        Args:
            params: the schedule's parameters.
            t: times in [0, 1].
            ends: where gamma starts and ends.
        """

    def rise(self, params: Params, t: jax.Array, ends: Ends) -> jax.Array:
        """Returns the share of its way that gamma has risen at t, from 0 to 1."""
        first, last = (self.shape(params, jnp.float32(end), ends) for end in (0.0, 1.0))
        share = (self.shape(params, t, ends) - first) / (last - first)
        # Rounding must not move the ends.
        share = jnp.where(t >= 1, 1.0, jnp.clip(share, 0.0, 1.0))
        return jnp.where(t <= 0, 0.0, share)


@dataclasses.dataclass(frozen=True)
class Linear(NoiseSchedule):
    """gamma rises at a constant rate."""

    def shape(self, params: Params, t: jax.Array, ends: Ends) -> jax.Array:
        """See ``NoiseSchedule``."""
        del params, ends
        return t


@dataclasses.dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """gamma = 2 log tan(angle), for an angle that rises at a constant rate.

    The image's share of the latents is then a cosine (Nichol and Dhariwal 2021,
    "Improved denoising diffusion probabilistic models", without their offset).
    """

    def shape(self, params: Params, t: jax.Array, ends: Ends) -> jax.Array:
        """See ``NoiseSchedule``."""
        del params
        first, rest = (
            jnp.arctan(jnp.exp(jnp.float32(exponent) / 2))
            for exponent in (ends.gamma_min, -ends.gamma_max)
        )
        # pi / 2 - first - rest, which loses its digits if both ends are high.
        middle = jnp.float32(ends.gamma_max + ends.gamma_min) / 4
        way = jnp.arctan(jnp.sinh(jnp.float32(ends.width) / 4) / jnp.cosh(middle))
        # The sine of what is left to a right angle: a cosine would lose its digits.
        return 2 * (
            jnp.log(jnp.sin(first + way * t)) - jnp.log(jnp.sin(rest + way * (1 - t)))
        )


@dataclasses.dataclass(frozen=True)
class Learned(NoiseSchedule):
    """A monotone network of one input: t itself, and steps that are smooth.

    The sum of t and of sigmoids with positive slopes and heights is increasing. It
    starts as a line, nearly.

    Attributes:
        units: number of sigmoids.
    """

    units: Count = 32

    is_learned: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_fields(self)

    def init(self, key: jax.Array) -> Params:
        """See ``NoiseSchedule``."""
        del key
        places = (jnp.arange(self.units) + 0.5) / self.units
        return {
            "line": jnp.zeros(()),
            "heights": jnp.full(self.units, -3.0),
            "slopes": jnp.full(self.units, jnp.log(2.0 * self.units)),
            "places": places,
        }

    def shape(self, params: Params, t: jax.Array, ends: Ends) -> jax.Array:
        """See ``NoiseSchedule``."""
        del ends
        heights = jax.nn.softplus(params["heights"])
        slopes = jnp.exp(params["slopes"])
        own = (slice(None),) + (None,) * t.ndim  # [units, ...]
        steps = jax.nn.sigmoid(slopes[own] * (t[None] - params["places"][own]))
        return jnp.exp(params["line"]) * t + (heights[own] * steps).sum(0)


NOISE_SCHEDULES: Registry[NoiseSchedule] = Registry("noise schedule")
NOISE_SCHEDULES |= {"linear": Linear, "cosine": Cosine, "learned": Learned}

# Models with these share a program: which of them a model has is data, a place in this
# list. Stored chains hold that place, so it does not depend on what else is registered.
SHARED_SCHEDULES = ("linear", "cosine")
