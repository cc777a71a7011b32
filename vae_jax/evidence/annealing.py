"""Annealed estimates of log p(x) from below and above, per image, in nats.

Annealed importance sampling (Neal 2001) carries chains from an initial density f_0(z)
to p(x, z) along the geometric path f_b = f_0^(1-b) p(x, z)^b, with one Hamiltonian
Monte Carlo transition (Neal 2011) at each temperature b strictly between 0 and 1. The
expectation of the weights is p(x), so the log of their mean is a stochastic lower
bound: it exceeds log p(x) + c with a probability of at most exp(-c). Chains that run
backwards from an exact posterior sample have weights of expectation 1/p(x), and give an
upper bound (bidirectional Monte Carlo; Grosse, Ghahramani & Adams 2015).

The expectations are exact only if transitions do not depend on the chain's own past.
Therefore step sizes are adapted in a preliminary run with its own key and then frozen,
one per temperature and image. The backward chains use the same ones in reverse.

Any likelihood can be used whose ``log_prob`` is differentiable in z. The mask of
latents works as in ``importance_estimate``: padded latents start at 0 and have no
momentum, so they stay there and add the same constant to f_0 and p(x, z), which
cancels.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions import Posterior, latent_noise
from vae_jax.model import VAE, Params
from vae_jax.priors import Prior
from vae_jax.products import float32_products

INITIALS = ("prior", "posterior")

# The advice of Betancourt et al. 2014 ("Optimizing the integrator step size for
# Hamiltonian Monte Carlo"). On linear-Gaussian models of 2 to 50 latents, the two
# bounds are closer to each other at 0.8 than at 0.65, the optimum in infinitely many
# dimensions, and than at 0.9.
_TARGET_ACCEPTANCE = 0.8

# The preliminary run: the number of transitions at the first temperature, enough to
# find a step size of any order of magnitude; the first step size; and the change of the
# log step size per unit of acceptance.
_WARM_UP = 50
_FIRST_STEP_SIZE = 0.3
_ADAPTATION_RATE = 0.5


def linear_schedule(num_steps: int) -> jax.Array:
    """Returns temperatures from 0 to 1 in equal steps, ``[num_steps + 1]``.

    Raises:
        ValueError: ``num_steps`` is less than 1.
    """
    _refuse_no_steps(num_steps)
    return jnp.linspace(0.0, 1.0, num_steps + 1)


def sigmoid_schedule(num_steps: int, sharpness: float = 4.0) -> jax.Array:
    """Returns temperatures from 0 to 1, closest at both ends, ``[num_steps + 1]``.

    They are the logistic function between -sharpness and sharpness, rescaled to [0, 1].
    Grosse et al. 2015 use a sharpness of 4.

    Raises:
        ValueError: ``num_steps`` is less than 1.
    """
    _refuse_no_steps(num_steps)
    logistic = jax.nn.sigmoid(jnp.linspace(-sharpness, sharpness, num_steps + 1))
    return (logistic - logistic[0]) / (logistic[-1] - logistic[0])


def _refuse_no_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}: a schedule needs at least 1.")


def _check_schedule(schedule: jax.Array) -> None:
    """Refuses a schedule that gives no bound, if its values are known at tracing."""
    if isinstance(schedule, jax.core.Tracer):
        return
    temperatures = np.asarray(schedule)
    falls = np.any(np.diff(temperatures) < 0)
    if falls or temperatures[0] != 0 or temperatures[-1] != 1:
        raise ValueError(
            f"schedule is {temperatures}: it must rise from 0 to 1, as that of "
            "sigmoid_schedule does."
        )


class AnnealedEstimate(NamedTuple):
    """The estimate from several chains for one image (or for each of several)."""

    log_px: jax.Array  # a stochastic bound on log p(x), nats
    log_weights: jax.Array  # estimates of log p(x), one per chain, nats, [chains]
    acceptance: jax.Array  # mean probability of acceptance; NaN without transitions
    effective_sample_size: jax.Array  # (sum w)^2 / sum w^2, between 1 and chains


class BidirectionalEstimate(NamedTuple):
    """Bounds on log p(x) of an image that the model itself generated."""

    x: jax.Array  # the image, a row in the likelihood's view, [D]
    lower: AnnealedEstimate
    upper: AnnealedEstimate  # effective sample size of the inverse weights

    @property
    def gap(self) -> jax.Array:
        """Upper minus lower bound, nats; on average it bounds the error of each."""
        return self.upper.log_px - self.lower.log_px


@float32_products
def annealed_estimate(
    model: VAE,
    params: Params,
    key: jax.Array,
    x: jax.Array,
    *,
    schedule: jax.Array,
    num_chains: int,
    num_leapfrog: int = 10,
    initial: str = "prior",
    latent_mask: jax.Array | None = None,
) -> AnnealedEstimate:
    """Returns a stochastic lower bound on one image's log p(x), in constant memory.

    For T > 1 steps of the schedule, it costs ``(2 (T - 1) + 50) (num_leapfrog + 1)``
    gradients of the decoder per chain; ``T - 1 + 50`` of the transitions adapt the step
    sizes. For T = 1 it is importance sampling from the initial density.

    Args:
        model: the VAE.
        params: its parameters.
        key: the image's key.
        x: one image in the likelihood's view, ``[D]``.
        schedule: temperatures from 0 to 1, ``[T + 1]``.
        num_chains: number of chains, which run together; the expectation of
            exp(log_px) is p(x) for any number.
        num_leapfrog: leapfrog steps per transition.
        initial: f_0, 'prior' or the encoder's 'posterior'.
        latent_mask: as in ``objectives.Batch``, ``[latent]``.

    Returns:
        Scalars, and log-weights per chain. Use ``vmap`` over keys and images for more.

    Raises:
        ValueError: ``initial`` is unknown, or the schedule does not rise from 0 to 1
            (if its values are known at tracing).
    """
    _check_schedule(schedule)
    bridge = _Bridge.of(model, params, x, initial, num_leapfrog, latent_mask)
    return _forward(bridge, key, schedule, num_chains)[0]


@float32_products
def bidirectional_estimate(
    model: VAE,
    params: Params,
    key: jax.Array,
    *,
    schedule: jax.Array,
    num_chains: int,
    num_leapfrog: int = 10,
    initial: str = "prior",
    latent_mask: jax.Array | None = None,
) -> BidirectionalEstimate:
    """Generates an image from the model and bounds its log p(x) from both sides.

    Drawing z and then x gives the same joint distribution as drawing x and then z from
    the true posterior. So z is an exact posterior sample, and all backward chains start
    there (Grosse et al. 2015, section 4). The gap says how far ``annealed_estimate``
    can be trusted with these settings on data like the model's own (Wu et al. 2017).

    The arguments are those of ``annealed_estimate``.

    Raises:
        ValueError: as in ``annealed_estimate``; or the likelihood does not sample its
            own density (``samples_its_density``), so that there would be no bounds.
    """
    _check_schedule(schedule)
    if not model.likelihood.samples_its_density:
        raise ValueError(
            f"likelihood is {model.name_of('likelihood')}: it does not sample its own "
            "density, so the image and its latent are no draw of the model. Bound the "
            "log p(x) of data by annealed_estimate, or choose another likelihood."
        )
    latent_key, pixel_key, forward_key, backward_key, label_key = (
        jax.random.fold_in(key, i) for i in range(5)
    )
    z = model.prior(params).sample(latent_key, 1)
    if latent_mask is not None:
        z = z * latent_mask[None]
    labels = model.rows.draw_labels(label_key, 1)
    _, pixels = model.sample_images(params, pixel_key, z, labels)
    (x,) = model.rows.join(pixels, labels)
    bridge = _Bridge.of(model, params, x, initial, num_leapfrog, latent_mask)
    lower, step_sizes = _forward(bridge, forward_key, schedule, num_chains)
    backward = _anneal(
        bridge,
        backward_key,
        jnp.broadcast_to(z, (num_chains, model.latent_dim)),
        schedule[::-1],
        step_sizes[::-1],
    )
    upper = backward._replace(
        log_px=-backward.log_px, log_weights=-backward.log_weights
    )
    return BidirectionalEstimate(x, lower, upper)


@dataclasses.dataclass(frozen=True)
class _Bridge:
    """The densities between f_0(z) and p(x, z) of one image, and their transitions."""

    model: VAE
    params: Params
    x: jax.Array  # [D]
    prior: Prior
    # q(z|x) of a batch of one if f_0 is the posterior; None if it is the prior
    posterior: Posterior | None
    num_leapfrog: int
    latent_mask: jax.Array | None

    @classmethod
    def of(
        cls,
        model: VAE,
        params: Params,
        x: jax.Array,
        initial: str,
        num_leapfrog: int,
        latent_mask: jax.Array | None,
    ) -> "_Bridge":
        if initial not in INITIALS:
            raise ValueError(
                f"unknown initial {initial!r}: choose one of {', '.join(INITIALS)}."
            )
        # The image is encoded once, here, and not in each step of a trajectory.
        posterior = model.encode(params, x[None]) if initial == "posterior" else None
        prior = model.prior(params)
        return cls(model, params, x, prior, posterior, num_leapfrog, latent_mask)

    def start(self, key: jax.Array, num_chains: int) -> jax.Array:
        """Returns independent samples of f_0, ``[chains, latent]``."""
        if self.posterior is None:
            return self._masked(self.prior.sample(key, num_chains))
        noise = self._masked(latent_noise(key, num_chains, 1, self.model.latent_dim))
        return self.posterior.sample(noise)[:, 0]

    def log_densities(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns log f_0(z) and log p(x, z) - log f_0(z) of z ``[latent]``, in nats.

        Both are scalars.
        """
        z = z[None, None]
        log_prior = self.prior.log_prob(z)[0, 0]
        log_px_z = self.model.log_likelihood(self.params, self.x[None], z)[0, 0]
        if self.posterior is None:
            return log_prior, log_px_z
        log_q = self.posterior.log_prob(z)[0, 0]
        return log_q, log_px_z + log_prior - log_q

    def move(
        self,
        key: jax.Array,
        z: jax.Array,
        temperature: jax.Array,
        step_size: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Makes one transition of one chain; it preserves the density at a temperature.

        The transition is Hamiltonian Monte Carlo with unit mass (Neal 2011, section
        3.2). A trajectory that diverges to infinity or NaN is rejected.

        Args:
            key: a typed key.
            z: the state of the chain, ``[latent]``.
            temperature: b, between 0 and 1, ``[]``.
            step_size: of the leapfrog steps, in units of z, ``[]``.

        Returns:
            The next z ``[latent]``, the probability of acceptance, and
            log p(x, z) - log f_0(z) at the given z.
        """
        momentum_key, accept_key = jax.random.split(key)
        momentum = self._masked(jax.random.normal(momentum_key, z.shape))

        def log_density_at_temperature(
            z: jax.Array,
        ) -> tuple[jax.Array, jax.Array]:
            log_initial, log_ratio = self.log_densities(z)
            return log_initial + temperature * log_ratio, log_ratio

        evaluate = jax.value_and_grad(log_density_at_temperature, has_aux=True)

        def leapfrog(_: jax.Array, state: Any) -> Any:
            z, momentum, _, gradient = state
            momentum = momentum + 0.5 * step_size * gradient
            z = z + step_size * momentum
            (log_density, _), gradient = evaluate(z)
            return z, momentum + 0.5 * step_size * gradient, log_density, gradient

        (log_density, log_ratio), gradient = evaluate(z)
        proposal, new_momentum, new_log_density, _ = jax.lax.fori_loop(
            0, self.num_leapfrog, leapfrog, (z, momentum, log_density, gradient)
        )
        kinetic = 0.5 * (momentum**2).sum()
        new_kinetic = 0.5 * (new_momentum**2).sum()
        log_accept = (new_log_density - new_kinetic) - (log_density - kinetic)
        log_accept = jnp.where(jnp.isnan(log_accept), -jnp.inf, log_accept)
        accepted = -jax.random.exponential(accept_key) < log_accept
        acceptance = jnp.exp(jnp.minimum(log_accept, 0.0))
        return jnp.where(accepted, proposal, z), acceptance, log_ratio

    def move_all(
        self,
        key: jax.Array,
        z: jax.Array,
        temperature: jax.Array,
        step_size: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Applies ``move`` to chains ``[chains, latent]`` at one temperature."""
        keys = jax.random.split(key, z.shape[0])
        return jax.vmap(self.move, in_axes=(0, 0, None, None))(
            keys, z, temperature, step_size
        )

    def _masked(self, z: jax.Array) -> jax.Array:
        if self.latent_mask is None:
            return z
        return z * jax.lax.broadcast_to_rank(self.latent_mask, z.ndim)


def _forward(
    bridge: _Bridge, key: jax.Array, schedule: jax.Array, num_chains: int
) -> tuple[AnnealedEstimate, jax.Array]:
    """Returns the lower bound, and the step sizes that it used, ``[T - 1]``."""
    adapt_key, start_key, chain_key = (jax.random.fold_in(key, i) for i in range(3))
    step_sizes = _adapt_step_sizes(bridge, adapt_key, schedule, num_chains)
    z = bridge.start(start_key, num_chains)
    return _anneal(bridge, chain_key, z, schedule, step_sizes), step_sizes


def _adapt_step_sizes(
    bridge: _Bridge, key: jax.Array, schedule: jax.Array, num_chains: int
) -> jax.Array:
    """Returns step sizes with the target acceptance along the schedule, ``[T - 1]``.

    The chains of this run are then discarded. They share one step size. It rises when
    their mean acceptance is above the target and falls when it is below.
    """
    if schedule.size == 2:  # No transitions.
        return jnp.zeros(0)
    temperatures = jnp.concatenate([jnp.full(_WARM_UP, schedule[1]), schedule[1:-1]])

    def step(carry: Any, inputs: Any) -> Any:
        z, log_step_size = carry
        index, temperature = inputs
        step_size = jnp.exp(log_step_size)
        z, acceptance, _ = bridge.move_all(
            jax.random.fold_in(key, index), z, temperature, step_size
        )
        excess = acceptance.mean() - _TARGET_ACCEPTANCE
        return (z, log_step_size + _ADAPTATION_RATE * excess), step_size

    # The key is folded with an index that no step of the run has.
    z = bridge.start(jax.random.fold_in(key, temperatures.size), num_chains)
    _, step_sizes = jax.lax.scan(
        step,
        (z, jnp.log(_FIRST_STEP_SIZE)),
        (jnp.arange(temperatures.size), temperatures),
    )
    own: jax.Array = step_sizes[_WARM_UP:]
    return own


def _anneal(
    bridge: _Bridge,
    key: jax.Array,
    z: jax.Array,
    schedule: jax.Array,
    step_sizes: jax.Array,
) -> AnnealedEstimate:
    """Carries chains along a schedule and weighs them (Neal 2001, eqs. 9-11).

    A schedule from 1 to 0, with the step sizes of the forward run in reverse, gives the
    reverse of the forward run. The expectation of the weights is then 1/p(x).

    Args:
        bridge: the densities.
        key: a typed key; each step folds its index into it.
        z: samples of the density at the first temperature, ``[chains, latent]``.
        schedule: temperatures, ``[T + 1]``.
        step_sizes: for all temperatures but the first and last, ``[T - 1]``.
    """
    increments = jnp.diff(schedule)

    def step(carry: Any, inputs: Any) -> Any:
        z, log_weights = carry
        index, increment, temperature, step_size = inputs
        z, acceptance, log_ratio = bridge.move_all(
            jax.random.fold_in(key, index), z, temperature, step_size
        )
        return (z, log_weights + increment * log_ratio), acceptance.mean()

    (z, log_weights), acceptance = jax.lax.scan(
        step,
        (z, jnp.zeros(z.shape[0])),
        (
            jnp.arange(step_sizes.size),
            increments[:-1],
            schedule[1:-1],
            step_sizes,
        ),
    )
    _, log_ratio = jax.vmap(bridge.log_densities)(z)
    log_weights = log_weights + increments[-1] * log_ratio
    log_sum = jax.nn.logsumexp(log_weights)
    return AnnealedEstimate(
        log_px=log_sum - jnp.log(log_weights.size),
        log_weights=log_weights,
        acceptance=acceptance.mean(),
        effective_sample_size=1 / (jax.nn.softmax(log_weights) ** 2).sum(),
    )
