"""Invertible maps of latents with a tractable Jacobian.

A flow is a frozen description of several steps, each with parameters of its own and
with the order of the latents reversed behind it. It maps u, whose density is known, to
z, and log p(z) = log p(u) - log|det dz/du|. All steps start near the identity.

A step's network may compute in bfloat16, which is then part of the map: what moves a
latent is a function of the others alone, however it is rounded, so that the determinant
remains exact. The inverse is as exact as the network, which sees the latents between
two steps up to rounding only.

How exact that is, the map decides. Far from the identity it squeezes what a float32 of
z cannot tell apart: a spline's slope falls to 1e-7 between two steep knots, an affine
step's to exp(-3), a gate's to exp(-8). An inverse of the rounded z, be it in float64,
then finds another u, and its density may be many nats away from the one that came with
the sample. Densities of own samples take no inverse and remain right; scores and
importance weights are made of these alone, and all bounds but 'thermodynamic'. Of
trained flows the two agree to 1e-5 nats. By how much they do not is the column
density_error, and told in the report.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.networks import MLP, Heads, MaskedMLP, MLPEncoder, Params

# Log-scales of an affine step lie within this, smoothly.
_LOG_SCALE_BOUND = 3.0

# A spline bends the latents within this distance of 0, and leaves those beyond alone.
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
        """z and log|det dz/du| ``[n]``."""

    def inverse(
        self, params: Params, z: jax.Array, context: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """u and log|det dz/du| at it ``[n]``."""


@dataclasses.dataclass(frozen=True)
class Flow:
    """A sequence of steps of one kind.

    Attributes:
        kind: a class of steps, in ``STEPS``.
        latent_dim: number of latents.
        flow_steps: number of steps.
        network: the hidden layers of each step.
        context_dim: size of what the map may depend on besides; 0 for nothing.
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
        """Fresh parameters of each step, by its index."""
        return {
            str(i): self._step.init(jax.random.fold_in(key, i))
            for i in range(self.flow_steps)
        }

    def forward(
        self, params: Params, u: jax.Array, context: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """z and log|det dz/du|.

        Args:
            params: from ``init``.
            u: ``[..., latent]``.
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
        """u and log|det dz/du| at it; arguments and shapes as in ``forward``."""
        u, flat_context = self._flat(z, context)
        log_det = jnp.zeros(len(u))
        for i in range(self.flow_steps)[::-1]:
            u, own = self._step.inverse(params[str(i)], u[:, ::-1], flat_context)
            log_det = log_det + own
        return u.reshape(z.shape), log_det.reshape(z.shape[:-1])

    def _flat(
        self, z: jax.Array, context: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """With one batch axis: with two, XLA transposes the gradient of products."""
        if context is None:
            context = jnp.zeros((self.context_dim,))
        context = jnp.broadcast_to(context, (*z.shape[:-1], self.context_dim))
        size = int(np.prod(z.shape[:-1]))
        return z.reshape(size, -1), context.reshape(size, self.context_dim)


@dataclasses.dataclass(frozen=True)
class InverseAutoregressive:
    """z_i = s_i u_i + (1 - s_i) m_i, with s_i and m_i functions of u_1 ... u_{i-1}.

    Kingma et al. 2016, "Improved variational inference with inverse autoregressive
    flow", by a masked network (Germain et al. 2015, "MADE"). One pass forwards; the
    inverse computes the latents one after another.
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
        """Shift and log s of each latent, ``[n, latent]``."""
        variables = {"params": params["network"]}
        outputs: Any = self._gate.apply(variables, u, context)
        shift, raw = outputs[..., 0], outputs[..., 1]
        # Mostly open at first; bounded, so that the inverse can divide by it.
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

        # Each pass makes one more latent right.
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
        """What moves each latent, ``[n, moved, outputs_per_latent]``."""
        inputs = jnp.concatenate([given, context], axis=-1)
        outputs: Any = self._encoder.apply({"params": params["network"]}, inputs)
        raw: jax.Array = outputs["raw"]
        return raw.reshape(len(raw), -1, self.outputs_per_latent)

    def _move(
        self, raw: jax.Array, latents: jax.Array, *, inverse: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The moved latents, and log dz/du of each."""
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
    """A monotonic rational-quadratic spline between -5 and 5, the identity beyond.

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
        # Beyond the spline any point of it will do, whose value is not used.
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
            # The root in [0, 1] of a quadratic, in the one of its two forms that adds
            # numbers of one sign.
            risen = place - low
            a = height * (mean_slope - first) + risen * bend
            b = height * first - risen * bend
            c = -mean_slope * risen
            square = b**2 - 4 * a * c
            # Rounding may leave none, where the gradient of a root is infinite.
            root = jnp.where(
                square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0
            )
            rises = b >= 0
            fraction = jnp.where(
                rises,
                2 * c / jnp.where(rises, -b - root, 1.0),
                (root - b) / (2 * jnp.where(rises, 1.0, a)),
            )
            # Rounded out of it, a root would have another slope, or none.
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
    """Increasing places from -5 to 5 of ``bins + 1`` knots, from ``[..., bins]``."""
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
