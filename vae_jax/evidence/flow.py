"""The likelihood of the probability flow of a chain of latents.

The latents of the flow, an ordinary differential equation, have the distribution q(z_t)
at every time if the denoiser is exact (Song et al. 2021, "Score-based generative
modeling through stochastic differential equations", section 4.3). Then log p(z_0)
follows from that of the last layer, by the integral of the divergence.

With a learned denoiser the flow is another model than the chain: the number is about
the samples of an ODE solver, and can be above or below the bound of the chain, which
is about ancestral samples.
"""

import numbers
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.checks import Range, require_count, require_declared
from vae_jax.distributions import DiagonalGaussian
from vae_jax.model import VAE, Params
from vae_jax.priors.diffusion import Chain
from vae_jax.products import float32_products
from vae_jax.samplers import flow_slope

# A solver that needs more steps has failed.
_MOST_STEPS = 4096


class FlowDensity(NamedTuple):
    """The density of the flow at latents, ``[N]``."""

    log_prob: jax.Array  # log p(z_0), nats; NaN if the solver has failed
    evaluations: jax.Array  # of the denoiser and its derivatives


class FlowEstimate(NamedTuple):
    """The bound of the flow for one image (or for each of several)."""

    bound: jax.Array  # E_q[log p(x|z_0) + log p(z_0) - log q(z_0|x)] <= log p(x), nats
    evaluations: jax.Array  # of the denoiser and its derivatives


@float32_products
def flow_log_prob(
    chain: Chain,
    key: jax.Array,
    z: jax.Array,
    *,
    num_probes: int = 0,
    tolerance: jax.Array | float = 1e-5,
) -> FlowDensity:
    """Returns log p(z_0) of the probability flow, by an adaptive Runge-Kutta method.

    Each latent has steps of its own, so the others of a batch do not change its number.

    Args:
        chain: of the latents, with their classes if it has any.
        key: a typed key, for the probes.
        z: z_0, ``[N, D]``.
        num_probes: random directions that estimate the divergence without bias
            (Hutchinson 1990); 0 for the exact one, at the cost of D directions.
        tolerance: of a step's error, relative and absolute, at least 1e-6 in float32.

    Raises:
        ValueError: ``num_probes`` is negative, or ``tolerance`` not above 0.
    """
    # Its import takes as long as that of JAX itself, and few need it.
    import diffrax

    require_count("num_probes", num_probes, smallest=0)
    if isinstance(tolerance, numbers.Number):  # In a compiled program it is traced.
        require_declared("tolerance", tolerance, Annotated[float, Range(above=0)])
    family, size = chain.family, z.shape[-1]
    ends = family.ends

    def one(key: jax.Array, z: jax.Array, y: jax.Array | None) -> FlowDensity:
        own = chain.given(None if y is None else y[None])
        directions = jnp.eye(size)
        if num_probes:
            directions = jax.random.rademacher(key, (num_probes, size), z.dtype)
        share = 1 / num_probes if num_probes else 1.0

        def field(gamma: Any, state: Any, args: Any) -> Any:
            del args
            gamma = jnp.reshape(gamma, 1).astype(z.dtype)

            def slope(u: jax.Array) -> jax.Array:  # of u = z / size
                latents = family.process.size(gamma)[:, None] * u[None]
                return flow_slope(own, latents, gamma)[0]

            value, along = jax.linearize(slope, state[0])
            divergence = share * (directions * jax.vmap(along)(directions)).sum()
            return value, divergence

        first = jnp.full(1, ends.gamma_min, z.dtype)
        log_size = jnp.log(family.process.size(first))[0]
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=ends.gamma_min,
            t1=ends.gamma_max,
            dt0=None,
            y0=(z * jnp.exp(-log_size), jnp.zeros((), z.dtype)),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=_MOST_STEPS,
            throw=False,
        )
        (end,), (total,) = solution.ys
        normal = DiagonalGaussian(jnp.zeros(size), jnp.zeros(size))
        log_prob = normal.log_prob(end[None])[0] + total - size * log_size
        has_ended = solution.result == diffrax.RESULTS.successful
        # Tsit5 evaluates six stages of each step, accepted or not.
        return FlowDensity(
            jnp.where(has_ended, log_prob, jnp.nan), 6 * solution.stats["num_steps"]
        )

    return jax.vmap(one)(jax.random.split(key, len(z)), z, chain.y)


@float32_products
def flow_estimate(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    num_probes: int = 1,
    tolerance: jax.Array | float = 1e-5,
) -> FlowEstimate:
    """Estimates a bound on one image's log p(x) under the probability flow.

    The noise of z_0 ~ q(z_0|x) makes the integers continuous, so this is a lower bound:
    on log p(x) of the model that draws z_0 by the flow and x from the same p(x|z_0), in
    the same unit as the bound of the chain.

    Args:
        model: with the posterior 'noise' and the prior 'diffusion'.
        params: its parameters.
        key: the image's key.
        x: one image in the likelihood's view, ``[D]``.
        num_probes: as in ``flow_log_prob``.
        tolerance: as in ``flow_log_prob``.

    Returns:
        Scalars, from one z_0. Use ``vmap`` over keys and images for more.

    Raises:
        ValueError: the model is no chain of images, or it is unrolled.
    """
    if not model.is_chain or model.has_density:
        raise ValueError(
            f"posterior is {model.name_of('posterior')}: only a chain of "
            "images has a flow from noise to an image. Choose the posterior 'noise' "
            "and the prior 'diffusion'."
        )
    noise_key, probe_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (1, 1, model.latent_dim))
    z, log_q = model.encode(params, x[None]).sample_and_log_prob(noise)
    log_px_z = model.log_likelihood(params, x[None], z)
    chain: Any = model.prior(params, x[None])
    found = flow_log_prob(
        chain, probe_key, z[0], num_probes=num_probes, tolerance=tolerance
    )
    bound = log_px_z[0] + found.log_prob - log_q[0]
    return FlowEstimate(bound[0], found.evaluations[0])
