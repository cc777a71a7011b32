"""Invertible maps of latents with a tractable Jacobian.

A flow is a frozen description of several steps. Each step has its own parameters, and
after each step the order of the latents is reversed. The flow maps u, whose density is
known, to z, and log p(z) = log p(u) - log|det dz/du|. All steps start near the
identity.

A step's network may compute in bfloat16. The rounding is then part of the map: the move
of a latent depends on the other latents only, so the determinant remains exact. The
inverse is as exact as the network, which sees the latents between two steps only up to
rounding.

The map itself decides how exact its inverse is. Far from the identity it may squeeze
different u to the same float32 of z: a spline's slope falls to 1e-7 between two steep
knots, an affine step's to exp(-3), a gate's to exp(-8). The inverse of the rounded z
then finds another u, even in float64, and its density may be many nats away from the
density that was computed with the sample. The density of a flow's own samples needs no
inverse and remains right. Scores, importance weights and all bounds except
'thermodynamic' use only these. For trained flows the two densities agree to 1e-5 nats.
The column density_error, which the report also names, holds their difference.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.networks import MLP, Heads, MaskedMLP, MLPEncoder, Params

# Log-scales of an affine step are smoothly limited to this magnitude.
_LOG_SCALE_BOUND = 3.0

# A spline moves the latents within this distance of 0, and no others.
_SPLINE_BOUND = 5.0
_SPLINE_BINS = 8
_SMALLEST_BIN = 1e-3
_SMALLEST_SLOPE = 1e-3


class Step(Protocol):
    """One invertible map of latents ``[n, latent]``, given context ``[n, C]``."""

    def init(self, key: jax.Array) -> Params: ...

    def forward(
        self, params: Params, u: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns z ``[n, latent]`` and log|det dz/du| ``[n]``."""

    def inverse(
        self, params: Params, z: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns u ``[n, latent]`` and log|det dz/du| at u ``[n]``."""


@dataclasses.dataclass(frozen=True)
class Flow:
    """A sequence of steps of one kind.

    Attributes:
        kind: the kind of steps, a name in ``STEPS``.
        latent_dim: number of latents.
        flow_steps: number of steps.
        network: the hidden layers of each step.
        context_dim: size of the context, a further input of the map; 0 for none.
    """

    kind: str
    latent_dim: int
    flow_steps: int
    network: MLP
    context_dim: int = 0

    def __post_init__(self) -> None:
        if self.latent_dim < 2 and self.kind in COUPLINGS:
            raise ValueError(
                f"latent_dim is {self.latent_dim}, but a coupling moves one half of "
                "the latents given the other: use at least 2 latents, or as posterior "
                "'inverse_autoregressive_flow', as prior 'mixture'."
            )

    @property
    def _step(self) -> Step:
        return STEPS[self.kind](self.latent_dim, self.network, self.context_dim)

    def init(self, key: jax.Array) -> Params:
        """Returns fresh parameters of each step, by its index."""
        return {
            str(i): self._step.init(jax.random.fold_in(key, i))
            for i in range(self.flow_steps)
        }

    def forward(
        self, params: Params, u: jax.Array, context: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns z and log|det dz/du|.

        Args:
            params: from ``init``.
            u: latents of known density, ``[..., latent]``.
            context: ``[..., context_dim]`` with leading axes that broadcast against
                u's, or None.

        Returns:
            ``[..., latent]`` and ``[...]``.
        """
        z, flat_context = self._flat(u, context)
        log_det = jnp.zeros(len(z))
        for i in range(self.flow_steps):
            z, own = self._step.forward(params[str(i)], z, flat_context)
            z, log_det = z[:, ::-1], log_det + own
        return z.reshape(u.shape), log_det.reshape(u.shape[:-1])

    def inverse(
        self, params: Params, z: jax.Array, context: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns u and log|det dz/du| at u; arguments and shapes as in ``forward``."""
        u, flat_context = self._flat(z, context)
        log_det = jnp.zeros(len(u))
        for i in range(self.flow_steps)[::-1]:
            u, own = self._step.inverse(params[str(i)], u[:, ::-1], flat_context)
            log_det = log_det + own
        return u.reshape(z.shape), log_det.reshape(z.shape[:-1])

    def _flat(
        self, z: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns z ``[n, latent]`` and the context ``[n, C]``, with one batch axis.

        With two batch axes, XLA transposes the gradient of every product.
        """
        if context is None:
            context = jnp.zeros((self.context_dim,))
        context = jnp.broadcast_to(context, (*z.shape[:-1], self.context_dim))
        size = int(np.prod(z.shape[:-1]))
        return z.reshape(size, -1), context.reshape(size, self.context_dim)


@dataclasses.dataclass(frozen=True)
class InverseAutoregressive:
    """z_i = s_i u_i + (1 - s_i) m_i, with s_i and m_i functions of u_1 ... u_{i-1}.

    Kingma et al. 2016, "Improved variational inference with inverse autoregressive
    flow", with a masked network (Germain et al. 2015, "MADE"). The forward map needs
    one pass of the network; the inverse computes the latents one after another.
    """

    latent_dim: int
    network: MLP
    context_dim: int

    @property
    def _gate(self) -> MaskedMLP:
        return MaskedMLP(self.network, self.latent_dim, outputs=2)

    def init(self, key: jax.Array) -> Params:
        """See ``Step``."""
        inputs = jnp.zeros((1, self.latent_dim)), jnp.zeros((1, self.context_dim))
        return {"network": self._gate.init(key, *inputs)["params"]}

    def _gates(
        self, params: Params, u: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the shift and log s of each latent, each ``[n, latent]``."""
        variables = {"params": params["network"]}
        outputs: Any = self._gate.apply(variables, u, context)
        shift, raw = outputs[..., 0], outputs[..., 1]
        # The gate s starts near 1. It is bounded, so that the inverse can divide by it.
        return shift, jax.nn.log_sigmoid(10 * jnp.tanh(raw / 10) + 2.0)

    def forward(
        self, params: Params, u: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See ``Step``."""
        shift, log_gate = self._gates(params, u, context)
        z = jnp.exp(log_gate) * u - jnp.expm1(log_gate) * shift
        return z, log_gate.sum(-1)

    def inverse(
        self, params: Params, z: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See ``Step``."""

        def add_latent(_: int, u: jax.Array) -> jax.Array:
            shift, log_gate = self._gates(params, u, context)
            return (z + jnp.expm1(log_gate) * shift) * jnp.exp(-log_gate)

        # After each pass, one more latent is right.
        u = jax.lax.fori_loop(0, self.latent_dim, add_latent, jnp.zeros_like(z))
        return u, self._gates(params, u, context)[1].sum(-1)


@dataclasses.dataclass(frozen=True)
class _Coupling:
    """Moves the second half of the latents, given the first half and the context."""

    latent_dim: int
    network: MLP
    context_dim: int

    outputs_per_latent: ClassVar[int]

    @property
    def _num_given(self) -> int:
        return self.latent_dim // 2

    @property
    def _encoder(self) -> MLPEncoder:
        moved = self.latent_dim - self._num_given
        heads: Heads = (("raw", moved * self.outputs_per_latent),)
        return MLPEncoder(self.network, heads, starts_at_zero=("raw",))

    def init(self, key: jax.Array) -> Params:
        """See ``Step``."""
        size = self._num_given + self.context_dim
        return {"network": self._encoder.init(key, jnp.zeros((1, size)))["params"]}

    def _raw(self, params: Params, given: jax.Array, context: jax.Array) -> jax.Array:
        """Returns the network's outputs, ``[n, moved, outputs_per_latent]``."""
        inputs = jnp.concatenate([given, context], axis=-1)
        outputs: Any = self._encoder.apply({"params": params["network"]}, inputs)
        raw: jax.Array = outputs["raw"]
        return raw.reshape(len(raw), -1, self.outputs_per_latent)

    def _move(
        self, raw: jax.Array, latents: jax.Array, *, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the moved latents and log dz/du of each, each ``[n, moved]``.

        Args:
            raw: the network's outputs, ``[n, moved, outputs_per_latent]``.
            latents: u, or z for the inverse, ``[n, moved]``.
            inverse: whether to map z to u.
        """
        raise NotImplementedError

    def forward(
        self, params: Params, u: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See ``Step``."""
        return self._apply(params, u, context, inverse=False)

    def inverse(
        self, params: Params, z: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """See ``Step``."""
        return self._apply(params, z, context, inverse=True)

    def _apply(
        self, params: Params, latents: jax.Array, context: jax.Array, *, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        given, other = jnp.split(latents, [self._num_given], axis=-1)
        raw = self._raw(params, given, context)
        moved, log_slope = self._move(raw, other, inverse=inverse)
        return jnp.concatenate([given, moved], axis=-1), log_slope.sum(-1)


@dataclasses.dataclass(frozen=True)
class AffineCoupling(_Coupling):
    """z = exp(s) u + t (Dinh et al. 2017, "Density estimation using Real NVP")."""

    outputs_per_latent: ClassVar[int] = 2

    def _move(
        self, raw: jax.Array, latents: jax.Array, *, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        shift = raw[..., 0]
        log_scale = _LOG_SCALE_BOUND * jnp.tanh(raw[..., 1] / _LOG_SCALE_BOUND)
        if inverse:
            return (latents - shift) * jnp.exp(-log_scale), log_scale
        return latents * jnp.exp(log_scale) + shift, log_scale


@dataclasses.dataclass(frozen=True)
class SplineCoupling(_Coupling):
    """A monotonic rational-quadratic spline between -5 and 5; the identity elsewhere.

    Durkan et al. 2019, "Neural spline flows", section 3.1 and appendix A.1.
    """

    outputs_per_latent: ClassVar[int] = 3 * _SPLINE_BINS - 1

    def _move(
        self, raw: jax.Array, latents: jax.Array, *, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        bins = _SPLINE_BINS
        knots_u = _knots(raw[..., :bins])
        knots_z = _knots(raw[..., bins : 2 * bins])
        # Softplus, shifted so that a spline of zeros is the identity.
        offset = np.log(np.expm1(1 - _SMALLEST_SLOPE))
        slopes = _SMALLEST_SLOPE + jax.nn.softplus(raw[..., 2 * bins :] + offset)
        slopes = jnp.pad(slopes, [(0, 0), (0, 0), (1, 1)], constant_values=1.0)

        inside = jnp.abs(latents) < _SPLINE_BOUND
        # Outside the spline any point inside serves, because its value is not used.
        place = jnp.where(inside, latents, 0.0)[..., None]
        knots = knots_z if inverse else knots_u
        index = jnp.sum(place >= knots[..., 1:-1], axis=-1, keepdims=True)

        def at(values: jax.Array, shift: int = 0) -> jax.Array:
            return jnp.take_along_axis(values, index + shift, axis=-1)[..., 0]

        place = place[..., 0]
        left, width = at(knots_u), at(knots_u, 1) - at(knots_u)
        low, height = at(knots_z), at(knots_z, 1) - at(knots_z)
        first, last = at(slopes), at(slopes, 1)
        mean_slope = height / width
        bend = first + last - 2 * mean_slope
        if inverse:
            # The root in [0, 1] of a quadratic equation. Of its two forms, the one is
            # used that adds numbers of the same sign.
            risen = place - low
            a = height * (mean_slope - first) + risen * bend
            b = height * first - risen * bend
            c = -mean_slope * risen
            square = b**2 - 4 * a * c
            # Rounding may make it 0 or negative, where sqrt has no finite gradient.
            root = jnp.where(
                square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0
            )
            rises = b >= 0
            fraction = jnp.where(
                rises,
                2 * c / jnp.where(rises, -b - root, 1.0),
                (root - b) / (2 * jnp.where(rises, 1.0, a)),
            )
            # A root that is rounded out of [0, 1] would have a wrong slope, or none.
            fraction = jnp.clip(fraction, 0.0, 1.0)
            moved = left + fraction * width
        else:
            fraction = (place - left) / width
            moved = low + height * (
                mean_slope * fraction**2 + first * fraction * (1 - fraction)
            ) / (mean_slope + bend * fraction * (1 - fraction))
        slope = (
            mean_slope**2
            * (
                last * fraction**2
                + 2 * mean_slope * fraction * (1 - fraction)
                + first * (1 - fraction) ** 2
            )
            / (mean_slope + bend * fraction * (1 - fraction)) ** 2
        )
        return (
            jnp.where(inside, moved, latents),
            jnp.where(inside, jnp.log(slope), 0.0),
        )


def _knots(raw: jax.Array) -> jax.Array:
    """Returns knots that rise from -5 to 5, ``[..., bins + 1]``.

    Args:
        raw: logits of the widths of the bins, ``[..., bins]``.
    """
    shares = jax.nn.softmax(raw, axis=-1)
    shares = _SMALLEST_BIN + (1 - _SMALLEST_BIN * _SPLINE_BINS) * shares
    inner = -_SPLINE_BOUND + 2 * _SPLINE_BOUND * jnp.cumsum(shares, axis=-1)[..., :-1]
    pads = [(0, 0)] * (raw.ndim - 1)
    inner = jnp.pad(inner, [*pads, (1, 0)], constant_values=-_SPLINE_BOUND)
    return jnp.pad(inner, [*pads, (0, 1)], constant_values=_SPLINE_BOUND)


COUPLINGS = {"affine_coupling": AffineCoupling, "spline_coupling": SplineCoupling}
STEPS: dict[str, Callable[..., Step]] = {
    "inverse_autoregressive_flow": InverseAutoregressive,
    **COUPLINGS,
}
