"""A chain of latents with one denoiser: the prior of a diffusion model.

The latents z_0 ... z_T all have the size of what they noise. The encoder q(z_t|x) is
linear Gaussian noise without parameters (``diffusion.process``); the generative model
draws z_T ~ p(z_T), a normal, and then z_s ~ p(z_s|z_t) = q(z_s|z_t, x = xhat(z_t)),
where xhat is the denoiser. So the KL of each layer is known:

    KL(q(z_s|z_t, x) || p(z_s|z_t)) = 1/2 (SNR_s - SNR_t) |x - xhat(z_t)|^2.

A bound on log p needs the sum over layers. One random layer gives an unbiased estimate
of the sum, in the memory of one layer, whatever T is. For T = infinity the sum is an
integral over time (Kingma et al. 2021, section 4).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from vae_jax.checks import (
    Range,
    require_declared,
    require_fields,
    require_known,
    require_type,
)
from vae_jax.diffusion.process import PREDICTIONS, Denoised, Process, read_output
from vae_jax.diffusion.schedules import (
    NOISE_SCHEDULES,
    SHARED_SCHEDULES,
    Ends,
    NoiseSchedule,
)
from vae_jax.distributions import Posterior
from vae_jax.gradients import with_gradient_of
from vae_jax.networks import (
    ACTIVATIONS,
    DENOISERS,
    PRECISIONS,
    Denoiser,
    Module,
    Params,
    Shape,
)
from vae_jax.priors.interface import Encode
from vae_jax.trees import tree_dataclass

# float32 still tells the steps of such a chain apart.
MOST_STEPS = 100_000
_Steps = Annotated[int, Range(at_least=0, at_most=MOST_STEPS)]

# It still tells the ends of every schedule apart if -log SNR rises by so much.
_LEAST_RISE = 0.01

# Steps of a sampler where the chain has infinitely many.
STEPS_OF_INFINITY = 256

# What the loss is in training: the bound ('elbo'), or a mean over times of a squared
# error: of the noise ('simple'; Ho, Jain and Abbeel 2020), of the velocity (Salimans
# and Ho 2022), or of the image times min(SNR, 5) (Hang et al. 2023, "Efficient
# diffusion training via min-SNR weighting strategy").
WEIGHTINGS = ("elbo", "simple", "velocity", "min_snr")
_MOST_SNR = 5.0

# The options of a denoiser that are options of the prior, by their names there.
_DENOISER_FIELDS = {
    "widths": "denoiser_widths",
    "activation": "activation",
    "precision": "precision",
    "rematerialize": "rematerialize",
}

# One step of a sampler: of a key, z_t ``[N, D]``, and gamma at t and at s <= t, both
# ``[N]``, it makes z_s ``[N, D]``.
Step = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


class ChainTerms(NamedTuple):
    """The parts of KL(q(z_0 ... z_T|x) || p(z_0 ... z_T)), nats, ``[N]``."""

    prior: jax.Array  # KL(q(z_T|x) || p(z_T)), exact
    diffusion: jax.Array  # the sum over the other layers, estimated from one of them
    weighted: jax.Array  # the same with another weight of each layer


class KLTerms(NamedTuple):
    """Latents, and estimates of a bound on KL(q(z|x) || p(z)), nats, ``[batch]``."""

    z: jax.Array  # [samples, batch, latent]
    last: jax.Array  # of the last layer, exact
    kl: jax.Array  # of all layers
    weighted: jax.Array  # the same, with another weight of each layer


@dataclasses.dataclass(frozen=True)
class DiffusionFamily:
    """A prior that is a chain of latents; its steps and shared schedules are data.

    Attributes:
        latent_dim: D, the size of each layer.
        denoiser: the network that all layers share: a name in ``networks.DENOISERS``,
            or a denoiser, which has its options already.
        denoiser_widths: hidden units or channels of the denoiser's layers.
        denoiser_options: options of the denoiser that have no field here, by name.
        activation: nonlinearity between the denoiser's layers.
        precision: the numbers that the denoiser computes in.
        rematerialize: whether the denoiser computes its layers again for the gradient.
        latent_shape: height, width and channels of the latents, whose product is D; ()
            for a vector; the model sets it.
        predicts: what the denoiser's output is read as.
        noise_schedule: a name in ``NOISE_SCHEDULES``.
        noise_steps: T, the number of steps; 0 for infinitely many.
        gamma_min: -log SNR of z_0.
        gamma_max: -log SNR of z_T.
        preserves_variance: whether the latents keep the variance of what they noise;
            otherwise it explodes. It changes no density.
        label_dropout: share of images whose class the denoiser does not see in
            training, for guidance without a classifier.
        num_classes: classes that the denoiser sees; the model sets it.
        levels: of the pixels, for a denoiser that predicts them; the model sets it.
    """

    latent_dim: int
    denoiser: str | Denoiser = "mlp"
    denoiser_widths: tuple[int, ...] = (256, 256)
    denoiser_options: Any = ()
    activation: Annotated[str, ACTIVATIONS] = "relu"
    precision: Annotated[str, PRECISIONS] = "float32"
    rematerialize: bool = False
    latent_shape: tuple[int, ...] = ()
    predicts: Annotated[str, PREDICTIONS] = "velocity"
    noise_schedule: Annotated[str, NOISE_SCHEDULES] = "linear"
    noise_steps: _Steps = 0
    gamma_min: Annotated[float, Range(at_least=-30, at_most=30)] = -8.0
    gamma_max: Annotated[float, Range(at_least=-30, at_most=30)] = 5.0
    preserves_variance: bool = True
    label_dropout: Annotated[float, Range(at_least=0, at_most=1)] = 0.0
    num_classes: int = 0
    levels: int = 0

    has_closed_form_kl: ClassVar[bool] = False
    has_density: ClassVar[bool] = False
    set_by_model: ClassVar = ("latent_shape", "num_classes", "levels")

    def __post_init__(self) -> None:
        require_fields(self)
        if self.ends.width < _LEAST_RISE:
            raise ValueError(
                f"gamma_min is {self.gamma_min}: -log SNR must rise by at least "
                f"{_LEAST_RISE}, and gamma_max is {self.gamma_max}. Give two ends such "
                "as -8 and 5."
            )
        if self.label_dropout and not self.num_classes:
            raise ValueError(
                f"label_dropout is {self.label_dropout}: the model has no classes. "
                "Give it classes, as condition_on 'label' does in a configuration, or "
                "set label_dropout to 0."
            )
        if self.predicts == "levels" and not self.levels:
            raise ValueError(
                "predicts is 'levels': the latents are no image, whose pixels have "
                "levels. Choose 'velocity', 'noise' or 'data'."
            )
        try:
            options = dict(self.denoiser_options)
            if not all(isinstance(name, str) for name in options):
                raise TypeError("keywords are names")
        except (TypeError, ValueError):
            raise ValueError(
                f"denoiser_options is {self.denoiser_options!r}: they are options by "
                "name. Give them as in {'fourier': 2}."
            ) from None
        # Hashable, as all of a description must be.
        object.__setattr__(self, "denoiser_options", tuple(sorted(options.items())))
        _ = self.module  # Refuses wrong options before anything is computed.

    @functools.cached_property
    def module(self) -> Module:
        """The denoiser for latents of this shape."""
        outputs = self.levels if self.predicts == "levels" else 1
        return self._denoiser.module(self.shape, outputs)

    @property
    def shape(self) -> Shape:
        """Height, width and channels of the latents; a vector is one pixel."""
        height, width, channels = self.latent_shape or (1, 1, self.latent_dim)
        return height, width, channels

    @property
    def _denoiser(self) -> Denoiser:
        options, widths = dict(self.denoiser_options), self.denoiser_widths
        if not isinstance(self.denoiser, str):
            example = "a name such as 'mlp', or a denoiser as DenseDenoiser() is"
            require_type("denoiser", self.denoiser, Denoiser, example)
            if options or widths != type(self).denoiser_widths:
                name, value = ("options", options) if options else ("widths", widths)
                raise ValueError(
                    f"denoiser_{name} is {value}: the denoiser has its {name} already. "
                    "Give them to it, or name the denoiser in place of it."
                )
            return self.denoiser
        known = DENOISERS.options(self.denoiser)
        for name, value in options.items():
            if name in _DENOISER_FIELDS:
                raise ValueError(
                    f"denoiser_options.{name} is {value!r}: it is the option "
                    f"{_DENOISER_FIELDS[name]}. Set that instead."
                )
        given = {
            name: getattr(self, field)
            for name, field in _DENOISER_FIELDS.items()
            if name in known
        }
        try:
            return DENOISERS.make(self.denoiser, **given | options)
        except ValueError as error:
            # The denoiser's names are not those of the prior.
            name, _, rest = str(error).partition(" ")
            field = _DENOISER_FIELDS.get(name, name)
            if name in known | options and name not in _DENOISER_FIELDS:
                field = f"denoiser_options.{name}"
            raise ValueError(f"{field} {rest}") from error

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule's description."""
        return NOISE_SCHEDULES.make(self.noise_schedule)

    @property
    def process(self) -> Process:
        """How image and noise are scaled."""
        return Process(self.preserves_variance)

    @property
    def ends(self) -> Ends:
        """Where gamma starts and ends."""
        return Ends(self.gamma_min, self.gamma_max)

    def inputs(self, z: jax.Array, gamma: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns latents ``[N, D]`` and gamma ``[N]`` as networks see them.

        The latents then have about unit variance, and the time is 0 to 1.
        """
        time = (gamma - self.gamma_min) / self.ends.width
        return z / self.process.size(gamma)[..., None], time

    def init(self, key: jax.Array, images: jax.Array, levels: int) -> Params:
        """See ``PriorFamily``.

        'constants' have no gradient. So models that differ in them share a program.
        """
        del images, levels
        z, time = jnp.zeros((1, self.latent_dim)), jnp.zeros(1)
        y = [jnp.zeros((1, self.num_classes))] if self.num_classes else []
        network_key, schedule_key = jax.random.split(key)
        # A network without parameters has no collection of them.
        variables = self.module.init(network_key, z, time, *y)
        return {
            "denoiser": dict(variables).get("params", {}),
            "schedule": self.schedule.init(schedule_key),
            "constants": self._constants(),
        }

    def _constants(self) -> Params:
        found = {"inverse_steps": _inverse(self.noise_steps)}
        if self.noise_schedule in SHARED_SCHEDULES:
            own = [name == self.noise_schedule for name in SHARED_SCHEDULES]
            found["schedule"] = jnp.asarray(own, jnp.float32)
        return found

    def at(self, params: Params, encode: Encode | None) -> "DiffusionPrior":
        """See ``PriorFamily``; no image is encoded."""
        del encode
        return DiffusionPrior(params["prior"], None, self)


def with_steps(params: Params, noise_steps: int) -> Params:
    """Returns parameters of the same chain with another number of steps.

    Args:
        params: of a model whose prior is a chain of latents.
        noise_steps: T; 0 for infinitely many.

    Raises:
        ValueError: the number is not allowed.
    """
    require_declared("noise_steps", noise_steps, _Steps)
    constants = params["prior"]["constants"] | {"inverse_steps": _inverse(noise_steps)}
    return params | {"prior": params["prior"] | {"constants": constants}}


def _inverse(noise_steps: int) -> jax.Array:
    inverse: jax.Array = jnp.float32(1 / noise_steps if noise_steps else 0)
    return inverse


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class Chain:
    """A chain of latents, as a value: its noise over time, denoiser and samples.

    Attributes:
        params: of the prior.
        y: the class of each latent, one-hot, ``[N, K]``; zeros for no class; None for
            a chain without classes, or of images of no class.
        family: the description.
    """

    params: Params
    y: jax.Array | None
    family: DiffusionFamily = dataclasses.field(metadata={"static": True})

    def given(self, y: jax.Array | None) -> Self:
        """Returns the chain of latents of given classes, one-hot, ``[N, K]``."""
        return dataclasses.replace(self, y=y)

    # --- noise over time ---

    @property
    def constants(self) -> Params:
        """Steps and schedule, which have no gradient."""
        constants: Params = jax.lax.stop_gradient(self.params["constants"])
        return constants

    def rise(self, t: jax.Array) -> jax.Array:
        """Returns the share of its way that gamma has risen at times t, 0 to 1."""
        family, own = self.family, self.params["schedule"]
        if family.noise_schedule not in SHARED_SCHEDULES:
            return family.schedule.rise(own, t, family.ends)
        fixed = map(NOISE_SCHEDULES.make, SHARED_SCHEDULES)
        shares = [each.rise({}, t, family.ends) for each in fixed]
        chosen = self.constants["schedule"]
        found = shares[0]
        for i, share in enumerate(shares):
            found = jnp.where(chosen[i] > 0, share, found)
        return found

    def gamma(self, t: jax.Array) -> jax.Array:
        """Returns -log SNR at times t in [0, 1], elementwise."""
        ends = self.family.ends
        return ends.gamma_min + ends.width * self.rise(t)

    def num_steps(self) -> jax.Array:
        """Returns T, int32 ``[]``; ``STEPS_OF_INFINITY`` if it is infinite."""
        inverse = self.constants["inverse_steps"]
        finite = jnp.round(1 / jnp.where(inverse > 0, inverse, 1.0)).astype(jnp.int32)
        return jnp.where(inverse > 0, finite, STEPS_OF_INFINITY)

    # --- the denoiser ---

    def denoised(
        self, z: jax.Array, gamma: jax.Array, y: jax.Array | None = None
    ) -> Denoised:
        """Returns what the denoiser says of latents.

        Args:
            z: ``[N, D]``.
            gamma: -log SNR of each, ``[N]``.
            y: their classes, in the place of the chain's own, ``[N, K]``.
        """
        family = self.family
        inputs = [*family.inputs(z, gamma)]
        if family.num_classes:
            y = self.y if y is None else y
            absent = jnp.zeros((*z.shape[:-1], family.num_classes))
            inputs.append(absent if y is None else jnp.broadcast_to(y, absent.shape))
        variables = {"params": self.params["denoiser"]}
        output = family.module.apply(variables, *inputs)
        return read_output(family.process, family.predicts, output, z, gamma)

    # --- samples ---

    def sample(
        self, key: jax.Array, num_samples: int, steps: jax.Array | int | None = None
    ) -> jax.Array:
        """Returns z_0 ``[num_samples, D]``, drawn layer by layer from the top.

        Args:
            key: a typed key.
            num_samples: number of chains.
            steps: number of steps p(z_s|z_t) of equal time; None for T. With another
                number the samples are those of the model that shares all parameters.
        """
        steps = self.num_steps() if steps is None else steps
        z = self.last_layer(key, num_samples)
        return self.walk(self.ancestral_step, key, z, 0, steps, steps)

    def ancestral_step(
        self, key: jax.Array, z: jax.Array, gamma: jax.Array, gamma_before: jax.Array
    ) -> jax.Array:
        """Returns z_s ~ p(z_s|z_t); see ``Step``."""
        noise = self.denoised(z, gamma).noise
        gaussian = self.family.process.step(z, noise, gamma, gamma_before)
        return gaussian.sample(jax.random.normal(key, z.shape)[None])[0]

    def trajectory(self, key: jax.Array, num_samples: int, shown: int) -> jax.Array:
        """Returns what the denoiser sees on the way of ``sample``: E[x|z_t].

        Args:
            key: a typed key.
            num_samples: number of chains.
            shown: number of times, from pure noise to z_0, ``[shown]``.

        Returns:
            ``[num_samples, shown, D]``.
        """
        steps = self.num_steps()
        ends = jnp.round(jnp.linspace(0, 1, shown) * steps).astype(jnp.int32)

        def part(z: jax.Array, places: jax.Array) -> tuple[jax.Array, jax.Array]:
            z = self.walk(self.ancestral_step, key, z, places[0], places[1], steps)
            gamma = self._gammas(1 - places[1] / steps, num_samples)
            return z, self.denoised(z, gamma).x

        places = jnp.stack([jnp.concatenate([ends[:1], ends[:-1]]), ends], axis=1)
        _, found = jax.lax.scan(part, self.last_layer(key, num_samples), places)
        return found.swapaxes(0, 1)

    def last_layer(self, key: jax.Array, num_samples: int) -> jax.Array:
        """Returns z_T ~ p(z_T), ``[num_samples, D]``."""
        shape = num_samples, self.family.latent_dim
        z = jax.random.normal(jax.random.fold_in(key, 0), shape)
        size = self.family.process.size(self._gammas(jnp.ones(()), num_samples))
        return z * size[:, None]

    def _gammas(self, t: jax.Array, num_samples: int) -> jax.Array:
        return jnp.broadcast_to(self.gamma(t), num_samples)

    def walk(
        self,
        step: Step,
        key: jax.Array,
        z: jax.Array,
        first: jax.Array | int,
        last: jax.Array | int,
        steps: jax.Array | int,
    ) -> jax.Array:
        """Returns z after some of the steps from t = 1 to 0, in constant memory.

        Args:
            step: what makes each layer of the one above it.
            key: a typed key; the place of each step is folded into it.
            z: before the first of these steps, ``[N, D]``.
            first: the first of these steps; 0 starts at the last layer.
            last: the step after the last of them.
            steps: number of all steps, of equal time.
        """
        last, steps = jnp.asarray(last), jnp.asarray(steps)

        def body(i: jax.Array, z: jax.Array) -> jax.Array:
            t, s = 1 - i / steps, 1 - (i + 1) / steps
            gamma = self._gammas(t, len(z))
            before = self._gammas(jnp.maximum(s, 0.0), len(z))
            return step(jax.random.fold_in(key, i + 1), z, gamma, before)

        found: jax.Array = jax.lax.fori_loop(first, last, body, z)
        return found


@tree_dataclass
@dataclasses.dataclass(frozen=True)
class DiffusionPrior(Chain):
    """The chain of a model, which has a bound.

    A chain that is guided (``vae_jax.guidance``) has none.
    """

    def log_prob(self, z: jax.Array) -> jax.Array:
        """Refuses: the integral over all layers above z_0 has no closed form.

        Raises:
            ValueError: always; the message names what there is in its place.
        """
        raise ValueError(
            "prior is 'diffusion': log p(z) of a chain of latents is not known, only a "
            "bound on it. Choose the objective 'diffusion', or make the layers latents "
            "of their own with vae_jax.evidence.unrolled."
        )

    def with_fewer_classes(self, key: jax.Array) -> Self:
        """Returns the chain without the class of some latents, for training.

        Each loses it with the probability ``label_dropout``. Measurements keep all.
        """
        if self.y is None or not self.family.label_dropout:
            return self
        share = 1 - self.family.label_dropout
        return self.given(self.y * jax.random.bernoulli(key, share, (len(self.y), 1)))

    def terms(
        self, key: jax.Array, x: jax.Array, weighting: str = "elbo"
    ) -> ChainTerms:
        """Returns the KL of the chain that starts at x, estimated from one layer each.

        The layers of a batch are stratified: their times are spread evenly, from a
        random start. With a learned schedule, the gradient for the schedule is that of
        the estimate's square: it makes the variance smaller, as the mean depends on the
        ends of gamma alone if T is infinite.

        Args:
            key: a typed key.
            x: what is noised, ``[N, D]``.
            weighting: one of ``WEIGHTINGS``.
        """
        time_key, noise_key = jax.random.split(key)
        num = len(x)
        start = jax.random.uniform(time_key)
        u = (start + jnp.arange(num) / num) % 1.0
        noise = jnp.moveaxis(jax.random.normal(noise_key, (x.shape[-1], num)), 0, -1)
        held, moving = self, None
        if self.family.schedule.is_learned:
            held = self._with_gradient_of("denoiser")
            moving = self._with_gradient_of("schedule")
        diffusion, weighted = held.layer_terms(x, u, noise, weighting)
        if moving is not None:
            x = jax.lax.stop_gradient(x)
            square = moving.layer_terms(x, u, noise, weighting)[1] ** 2
            weighted = with_gradient_of(weighted + square, weighted)
        last = jnp.broadcast_to(self.gamma(jnp.ones(())), num)
        prior = self.family.process.kl_to_prior(x, last)
        return ChainTerms(prior, diffusion, weighted)

    def _with_gradient_of(self, part: str) -> Self:
        """Returns the chain whose other parameters have no gradient."""
        params = jax.lax.stop_gradient(self.params) | {part: self.params[part]}
        return dataclasses.replace(self, params=params)

    def layer_terms(
        self, x: jax.Array, u: jax.Array, noise: jax.Array, weighting: str = "elbo"
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the KL of one layer times the number of layers, nats.

        Its mean over u and noise is the KL of all layers but the last.

        Args:
            x: what is noised, ``[N, D]``.
            u: where the layer is, uniform on [0, 1), ``[N]``: in the T-th part that
                ends at time t, or at t = u if T is infinite.
            noise: standard normal, of z_t, ``[N, D]``.
            weighting: as in ``terms``.

        Returns:
            The KL, and the same with the weighting, ``[N]`` each.
        """
        gamma, rate = self._layer(u)
        z = self.family.process.noised(x, gamma, noise)
        found = self.denoised(z, gamma)
        half = 0.5 * ((found.noise - noise) ** 2).sum(-1)
        return rate * half, layer_weight(weighting, gamma, rate) * half

    def _layer(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns gamma of time t, and T (SNR_s / SNR_t - 1), ``[N]`` each."""
        inverse = self.constants["inverse_steps"]
        is_finite = inverse > 0
        width = jnp.where(is_finite, inverse, 1.0)
        t = jnp.minimum(jnp.floor(u / width) + 1, jnp.round(1 / width)) * width
        t = jnp.where(is_finite, t, u)
        gamma, slope = jax.jvp(self.gamma, (t,), (jnp.ones_like(t),))
        before = self.gamma(jnp.where(is_finite, jnp.maximum(t - width, 0.0), t))
        steps = jnp.expm1(gamma - before) / width
        return gamma, jnp.where(is_finite, steps, slope)

    def kl_terms(
        self,
        key: jax.Array,
        posterior: Posterior,
        noise: jax.Array,
        weighting: str = "elbo",
    ) -> KLTerms:
        """Returns latents, and estimates of an upper bound of KL(q(z|x) || p(z)).

        If q(z|x) is the chain's own noise, the bound is the KL of all layers. Else the
        chain starts at a sample v of q, and p(v|z_0) is N(z_0 / alpha_0, e^gamma_0 I):

            log q(v|x) - E[log p(v|z_0)] + KL(q(z_0 ... z_T|v) || p(z_0 ... z_T)).

        Args:
            key: a typed key.
            posterior: q(z|x).
            noise: standard normal, ``[samples, batch, latent]``.
            weighting: one of ``WEIGHTINGS``.

        Returns:
            Means over the samples, whose layers are stratified.
        """
        z, log_q = posterior.sample_and_log_prob(noise)
        image = getattr(posterior, "image", None)
        num_samples, batch, size = z.shape
        start = z if image is None else jnp.broadcast_to(image, z.shape)
        y = self.y
        if y is not None:
            y = jnp.broadcast_to(y, (num_samples, *y.shape)).reshape(-1, y.shape[-1])
        terms = self.given(y).terms(key, start.reshape(-1, size), weighting)
        offset = jnp.zeros(batch)
        if image is None:
            readout = size * (1 + self.family.gamma_min + math.log(2 * math.pi)) / 2
            offset = log_q.mean(0) + readout
        last, *others = (part.reshape(num_samples, batch).mean(0) for part in terms)
        return KLTerms(z, last, *(offset + last + other for other in others))


def layer_weight(weighting: str, gamma: jax.Array, rate: jax.Array) -> jax.Array:
    """Returns the factor of half the squared error of the noise, of the same shape.

    Args:
        weighting: one of ``WEIGHTINGS``.
        gamma: -log SNR of the layer.
        rate: of 'elbo', the factor itself.

    Raises:
        ValueError: the weighting is unknown.
    """
    require_known("weighting", weighting, WEIGHTINGS)
    if weighting == "simple":
        return 2.0 * jnp.ones_like(gamma)
    if weighting == "velocity":  # noise = sigma z + alpha velocity
        return 2.0 * (1 + jnp.exp(gamma))
    if weighting == "min_snr":
        return 2.0 * jnp.minimum(1.0, _MOST_SNR * jnp.exp(gamma))
    return rate
