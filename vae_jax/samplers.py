"""Samplers of a chain of latents: ways from pure noise to z_0, by one denoiser.

A sampler is a value with options, called as ``sampler(chain, key, num_samples)`` with
the chain of a model, ``model.prior(params)``. It begins at z_T ~ p(z_T) and takes steps
of equal time to z_0, in constant memory. Its numbers, as those of the chain, can be
data of a compiled program: many numbers of steps need one compilation.

Only 'ancestral' draws from the model whose bound is reported, and only with the steps
of the chain. The others draw from the same q(z_0) if the denoiser is exact and the
steps are many; with a learned denoiser each is a model of its own.

A chain that is guided (``vae_jax.guidance``) has the same samplers.
"""

import abc
import dataclasses
import functools
import numbers
from typing import Annotated

import jax
import jax.numpy as jnp

from vae_jax.checks import Count, CountOrZero, Range, require_fields
from vae_jax.diffusion import Process
from vae_jax.priors.diffusion import Chain
from vae_jax.registry import Registry
from vae_jax.trees import tree_dataclass


@dataclasses.dataclass(frozen=True)
class Sampler(abc.ABC):
    """A way from noise to z_0; hashable, and a tree of numbers under ``jit``.

    Attributes:
        steps: number of steps; 0 for those of the chain, of which it takes 256 if they
            are infinitely many.
    """

    steps: CountOrZero = 0

    def __post_init__(self) -> None:
        # Within a compiled program the numbers are traced; they were checked before it.
        if all(isinstance(each, numbers.Number | str) for each in vars(self).values()):
            require_fields(self)

    def __call__(self, chain: Chain, key: jax.Array, num_samples: int) -> jax.Array:
        """Returns samples of z_0, ``[num_samples, D]``.

        Args:
            chain: the denoiser with its noise over time, and the classes of the samples
                if it has any.
            key: a typed key.
            num_samples: number of chains.
        """
        steps = jnp.where(jnp.asarray(self.steps) > 0, self.steps, chain.num_steps())
        z = chain.last_layer(key, num_samples)
        step = functools.partial(self.step, chain)
        return chain.walk(step, key, z, 0, steps, steps)

    @abc.abstractmethod
    def step(
        self,
        chain: Chain,
        key: jax.Array,
        z: jax.Array,
        gamma: jax.Array,
        gamma_before: jax.Array,
    ) -> jax.Array:
        """Returns z_s of z_t, ``[N, D]``.

        Args:
            chain: as in a call.
            key: a typed key.
            z: z_t, ``[N, D]``.
            gamma: -log SNR at time t, ``[N]``.
            gamma_before: at time s <= t, ``[N]``.
        """


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class Ancestral(Sampler):
    """z_s ~ p(z_s|z_t) (Ho, Jain and Abbeel 2020, algorithm 2)."""

    def step(
        self,
        chain: Chain,
        key: jax.Array,
        z: jax.Array,
        gamma: jax.Array,
        gamma_before: jax.Array,
    ) -> jax.Array:
        """See ``Sampler``."""
        return chain.ancestral_step(key, z, gamma, gamma_before)


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """The denoised image, with noise that is in part the old and in part new.

    Song, Meng and Ermon 2021, "Denoising diffusion implicit models", eq. 12 and 16.
    With eta = 0 it is a map: an Euler step of the probability-flow ODE for z / alpha
    over sigma / alpha. With eta = 1 it is ancestral.

    Attributes:
        eta: standard deviation of the new noise, as a multiple of that of p(z_s|z_t).
    """

    eta: Annotated[float, Range(at_least=0, at_most=1)] = 0.0

    def step(
        self,
        chain: Chain,
        key: jax.Array,
        z: jax.Array,
        gamma: jax.Array,
        gamma_before: jax.Array,
    ) -> jax.Array:
        """See ``Sampler``."""
        found, process = chain.denoised(z, gamma), chain.family.process
        # 1 - SNR_t / SNR_s, of which p(z_s|z_t) makes new noise.
        share = -jnp.expm1(gamma_before - gamma)[..., None]
        new = jax.random.normal(key, z.shape)
        noise = (
            jnp.sqrt(1 - self.eta**2 * share) * found.noise
            + self.eta * jnp.sqrt(share) * new
        )
        return process.noised(found.x, gamma_before, noise)


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class Euler(Sampler):
    """Euler's steps of the probability-flow ODE over gamma; the error is O(1/steps).

    The latents of the ODE have the distribution q(z_t) at every time (Song et al. 2021,
    "Score-based generative modeling through stochastic differential equations", eq.
    13). With a preserved variance it is dz / dgamma = alpha sigma v / 2, where v is the
    velocity alpha noise - sigma x.
    """

    def step(
        self,
        chain: Chain,
        key: jax.Array,
        z: jax.Array,
        gamma: jax.Array,
        gamma_before: jax.Array,
    ) -> jax.Array:
        """See ``Sampler``."""
        del key
        slope = flow_slope(chain, z, gamma)
        return _moved(chain, z, gamma, gamma_before, slope)


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class Heun(Sampler):
    """Heun's steps of the same ODE; the error is O(1/steps^2).

    Each evaluates the denoiser twice (Karras et al. 2022, "Elucidating the design
    space of diffusion-based generative models", algorithm 1, for another variable).
    """

    def step(
        self,
        chain: Chain,
        key: jax.Array,
        z: jax.Array,
        gamma: jax.Array,
        gamma_before: jax.Array,
    ) -> jax.Array:
        """See ``Sampler``."""
        del key
        first = flow_slope(chain, z, gamma)
        end = _moved(chain, z, gamma, gamma_before, first)
        second = flow_slope(chain, end, gamma_before)
        return _moved(chain, z, gamma, gamma_before, 0.5 * (first + second))


def flow_slope(chain: Chain, z: jax.Array, gamma: jax.Array) -> jax.Array:
    """Returns d(z / size) / dgamma along the probability flow, ``[N, D]``.

    Args:
        chain: whose flow it is.
        z: ``[N, D]``.
        gamma: -log SNR of each, ``[N]``.
    """
    preserving = Process()
    rate = 0.5 * preserving.alpha(gamma) * preserving.sigma(gamma)
    return rate[..., None] * chain.denoised(z, gamma).velocity


def _moved(
    chain: Chain,
    z: jax.Array,
    gamma: jax.Array,
    gamma_before: jax.Array,
    slope: jax.Array,
) -> jax.Array:
    """Returns z after a step along a slope of z / size, ``[N, D]``."""
    size, width = chain.family.process.size, (gamma_before - gamma)[..., None]
    moved = z / size(gamma)[..., None] + width * slope
    return size(gamma_before)[..., None] * moved


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """Langevin steps at each of ever lower noise levels.

    Song and Ermon 2019, "Generative modeling by estimating gradients of the data
    distribution", algorithm 1: between two levels z / alpha stays. It uses the score
    alone, so the samples lag behind the levels: of normal data the variance is too
    large by a share of 1 / (k - 1), where k = 4 r^2 langevin_steps steps / (gamma_max -
    gamma_min), r is ``signal_to_noise``, the schedule is linear, and the steps are
    small. Below k = 1 the samples do not follow at all.

    Attributes:
        langevin_steps: at each level.
        signal_to_noise: of each Langevin step; see ``langevin``.
    """

    langevin_steps: Count = 4
    signal_to_noise: Annotated[float, Range(above=0, below=1)] = 0.3

    def step(
        self,
        chain: Chain,
        key: jax.Array,
        z: jax.Array,
        gamma: jax.Array,
        gamma_before: jax.Array,
    ) -> jax.Array:
        """See ``Sampler``."""
        alpha = chain.family.process.alpha
        z = (alpha(gamma_before) / alpha(gamma))[..., None] * z
        return langevin(
            chain, key, z, gamma_before, self.langevin_steps, self.signal_to_noise
        )


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """The step of another sampler, and Langevin steps at the level that it reaches.

    Song et al. 2021, "Score-based generative modeling through stochastic differential
    equations", algorithm 1.

    Attributes:
        predictor: the other sampler, with its own options' defaults.
        langevin_steps: of the corrector, after each step.
        signal_to_noise: of each Langevin step; see ``langevin``.
    """

    predictor: Annotated[str, ("ancestral", "ddim", "euler", "heun")] = (
        dataclasses.field(default="ancestral", metadata={"static": True})
    )
    langevin_steps: Count = 1
    signal_to_noise: Annotated[float, Range(above=0, below=1)] = 0.1

    def step(
        self,
        chain: Chain,
        key: jax.Array,
        z: jax.Array,
        gamma: jax.Array,
        gamma_before: jax.Array,
    ) -> jax.Array:
        """See ``Sampler``."""
        own, other = jax.random.split(key)
        z = SAMPLERS.make(self.predictor).step(chain, own, z, gamma, gamma_before)
        return langevin(
            chain, other, z, gamma_before, self.langevin_steps, self.signal_to_noise
        )


def langevin(
    chain: Chain,
    key: jax.Array,
    z: jax.Array,
    gamma: jax.Array,
    steps: jax.Array | int,
    signal_to_noise: jax.Array | float,
) -> jax.Array:
    """Returns latents after steps of Langevin dynamics at one noise level, ``[N, D]``.

    A step adds h score + sqrt(2 h) noise, where h = 2 (r sigma)^2. So r is the ratio of
    both parts' lengths where the latents are noise alone, with the score -noise /
    sigma. Song et al. 2021 (appendix G, algorithms 4 and 5) divide by the lengths
    themselves, averaged over a batch; here samples stay independent of each other. The
    stationary distribution of a normal with the variance V has V / (1 - (r sigma)^2 /
    V).

    Args:
        chain: whose score it is.
        key: a typed key; the place of each step is folded into it.
        z: ``[N, D]``.
        gamma: -log SNR of the level, ``[N]``.
        steps: number of steps.
        signal_to_noise: r, above 0 and below 1; at 1 the steps are no longer stable.
    """
    h = 2 * (signal_to_noise * chain.family.process.sigma(gamma)[..., None]) ** 2

    def step(i: jax.Array, z: jax.Array) -> jax.Array:
        noise = jax.random.normal(jax.random.fold_in(key, i), z.shape)
        return z + h * chain.denoised(z, gamma).score + jnp.sqrt(2 * h) * noise

    found: jax.Array = jax.lax.fori_loop(0, steps, step, z)
    return found


SAMPLERS: Registry[Sampler] = Registry("sampler")
SAMPLERS |= {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "annealed_langevin": AnnealedLangevin,
    "predictor_corrector": PredictorCorrector,
}
