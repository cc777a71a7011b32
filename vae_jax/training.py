"""Training one model: its state, and an epoch as one compiled program.

Everything here is a function of one *member*, a model with its own key and settings;
``population`` maps these functions over many. The training set stays on the device, or
comes to it in pieces; shuffling, the draw of each view and the latent noise come from
keys alone, so a run is a function of (configuration, seed).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax import views
from vae_jax.adam import scale_by_adam
from vae_jax.likelihoods import Likelihood
from vae_jax.mesh import split_batch
from vae_jax.model import VAE, Params
from vae_jax.objectives import OBJECTIVES, Terms, posterior_and_noise
from vae_jax.per_image import map_images

SCHEDULES = ("constant", "cosine", "tripling_stages")

# What follows a value that is not finite: the member stops; or the update is left out
# and the next batch tried; or it stops and whoever runs it starts it anew.
ON_NON_FINITE = ("stop", "skip", "reseed")

# Images validated together; bounds the memory, not the result.
_VALIDATION_BATCH = 500

# Options of objectives: the value at which each has no effect, and whether it is one of
# training alone, which no reported bound should depend on.
_OBJECTIVE_OPTIONS: dict[str, tuple[float, bool]] = {
    "free_bits": (0.0, True),
    "capacity": (0.0, False),
    "num_groups": (1, False),
    "mixing": (0.0, False),
    "alpha": (0.0, False),
    "partitions": (1, False),
    "mmd_weight": (0.0, True),
}

_SMALLEST: dict[str, float] = {
    **dict.fromkeys(("num_samples", "batch_size", "microbatches", "num_epochs"), 1),
    **dict.fromkeys(("validate_every", "num_groups", "partitions"), 1),
    **dict.fromkeys(("patience", "kl_warmup_epochs"), 0),
    **dict.fromkeys(("free_bits", "capacity", "mmd_weight", "clip_norm"), 0),
}

# Weight of a batch in the running closed-form value of a shared parameter.
_SHARED_RATE = 0.1


class Member(NamedTuple):
    """What may differ between models that share one compiled program: arrays only."""

    key: jax.Array  # typed key, []
    beta: jax.Array  # weight of the KL, []
    learning_rate: jax.Array  # peak learning rate, []
    latent_mask: jax.Array  # 1 for a latent in use, 0 for padding, [latent]


# What a non-finite value can be first seen in, by its number in ``Failure.offender``.
OFFENDERS = (
    "nothing",
    "reconstruction",
    "KL",
    "bound",
    "gradient",
    "shared parameters",
    "validation bound",
)
_VALIDATION_BOUND = OFFENDERS.index("validation bound")


class Failure(NamedTuple):
    """Where a member met a value that is not finite; it stopped before that update."""

    offender: jax.Array  # index into OFFENDERS, 0 while all is well, int32 []
    batch: jax.Array  # of the epoch that was not finished, int32 []


class TrainState(NamedTuple):
    """What training carries from epoch to epoch; always finite but for best_bound."""

    params: Params
    opt_state: Any
    epoch: jax.Array  # epochs finished, int32 []
    best_params: Params  # at the highest validation bound so far
    best_bound: jax.Array  # nats; -inf before the first validation, []
    best_epoch: jax.Array  # int32 []
    active: jax.Array  # False once patience has run out or a value was not finite, []
    failure: Failure
    skipped: jax.Array  # updates left out because they were not finite, int32 []


class EpochMetrics(NamedTuple):
    """Means over an epoch's steps, while parameters move and KL is warmed up.

    Until its last step they are sums: of an epoch taken in pieces, to the same bits.
    Where every step was left out there is no mean: NaN.
    """

    terms: Terms  # [], nats
    gradient_norm: jax.Array  # before clipping, []
    steps: jax.Array  # that they are means over: all but those left out, []

    @classmethod
    def empty(cls) -> "EpochMetrics":
        """The sums before any step."""
        zero = jnp.float32(0)
        return cls(Terms(*[zero] * len(Terms._fields)), zero, zero)


class Validation(NamedTuple):
    """What a validation reports: means over images, in nats, and where training is."""

    terms: Terms  # [], at full beta
    best_bound: jax.Array  # []
    active: jax.Array  # []
    failure: Failure


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained; static under ``jit`` and shared by a group of members."""

    objective: str = "elbo"  # a name in OBJECTIVES
    num_samples: int = 1  # latent samples per image
    batch_size: int = 64
    microbatches: int = 1  # parts of a batch whose gradients are taken one by one
    num_epochs: int = 100  # the schedule's length, and the most that is trained
    validate_every: int = 5  # epochs between validations; the last has one, too
    patience: int = 0  # epochs without a better validation bound; 0: never stop
    schedule: str = "constant"  # of the learning rate: one of SCHEDULES
    kl_warmup_epochs: int = 0  # beta, or capacity, rises linearly from 0 over these
    free_bits: float = 0.0  # nats of each latent's KL that cost nothing in training
    capacity: float = 0.0  # nats that each image's KL is drawn to in training
    num_groups: int = 1  # of miwae and piwae: averages over so many bounds
    mixing: float = 0.0  # of ciwae: weight of the ELBO
    alpha: float = 0.0  # of renyi: order of the divergence
    partitions: int = 1  # of thermodynamic: points of the integral
    mmd_weight: float = 0.0  # of mmd: weight of the squared MMD of q(z) from the prior
    clip_norm: float = 0.0  # global norm of the gradient; 0: no clipping
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8
    on_non_finite: str = "stop"  # one of ON_NON_FINITE

    def __post_init__(self) -> None:
        for field, allowed in (
            ("objective", OBJECTIVES),
            ("schedule", SCHEDULES),
            ("on_non_finite", ON_NON_FINITE),
        ):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(
                    f"{field} {value!r} is unknown: choose one of {', '.join(allowed)}."
                )
        for field, smallest in _SMALLEST.items():
            value = getattr(self, field)
            if not value >= smallest:  # NaN included.
                raise ValueError(f"{field} is {value}: it must be at least {smallest}.")
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}: it must be finite.")
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"mixing is {self.mixing}: it must be in [0, 1].")
        if not self.adam_eps > 0:
            raise ValueError(f"adam_eps is {self.adam_eps}: it must be above 0.")
        for field in ("adam_b1", "adam_b2"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise ValueError(f"{field} is {value}: it must be in [0, 1).")
        if self.adam_b1**2 > self.adam_b2:
            raise ValueError(
                f"adam_b1 is {self.adam_b1} and adam_b2 is {self.adam_b2}: Adam needs "
                "adam_b1 ** 2 <= adam_b2."
            )
        objective = OBJECTIVES[self.objective]
        used = objective.options
        for name, (neutral, _) in _OBJECTIVE_OPTIONS.items():
            value = getattr(self, name)
            if value != neutral and name not in used:
                able = [
                    key for key, other in OBJECTIVES.items() if name in other.options
                ]
                raise ValueError(
                    f"{name}={value} has no effect on the objective "
                    f"{self.objective!r}: choose {' or '.join(map(repr, able))}, or "
                    f"set {name}={neutral}."
                )
        if self.num_samples < objective.fewest_samples:
            raise ValueError(
                f"num_samples={self.num_samples} is too few for the objective "
                f"{self.objective!r}, whose gradient is a covariance over samples: set "
                f"num_samples to {objective.fewest_samples} or more, or choose 'stl'."
            )
        if self.microbatches > 1 and objective.depends_on_batch:
            raise ValueError(
                f"microbatches={self.microbatches} would cut the batch that the "
                f"objective {self.objective!r} needs as a whole: set microbatches=1."
            )
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"batch_size={self.batch_size} is not a multiple of "
                f"microbatches={self.microbatches}: change one of them."
            )
        if objective.depends_on_batch and self.batch_size < 2:
            raise ValueError(
                f"batch_size={self.batch_size} is too small for the objective "
                f"{self.objective!r}, which sees q(z) in the batch: set batch_size to "
                "2 or more, or choose 'elbo_log_weight'."
            )
        if self.num_samples % self.num_groups:
            raise ValueError(
                f"num_samples={self.num_samples} is not a multiple of "
                f"num_groups={self.num_groups}: change one of them."
            )
        if self.capacity and self.free_bits:
            raise ValueError(
                f"capacity={self.capacity} and free_bits={self.free_bits} both set how "
                "much KL there is: set one of them to 0."
            )

    def validates_after(self, epoch: int) -> bool:
        """Returns whether a validation follows when so many epochs are finished."""
        return epoch % self.validate_every == 0 or epoch == self.num_epochs

    def check_likelihood(self, likelihood: Likelihood) -> None:
        """Refuses a closed-form scale where samples do not count equally.

        Raises:
            ValueError: the scale would not be the optimum of the objective's bound.
        """
        weighs = OBJECTIVES[self.objective].weighs_samples and self.num_samples > 1
        if likelihood.fits_shared and weighs:
            raise ValueError(
                f"objective {self.objective!r} with num_samples={self.num_samples} "
                "weighs samples, and a scale in closed form is not the optimum of its "
                "bound: choose a likelihood that learns its scale, such as "
                "'gaussian_shared', or the objective 'stl'."
            )

    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """Adam's direction; the step multiplies it by the member's learning rate."""
        clip = optax.clip_by_global_norm(self.clip_norm)
        adam = scale_by_adam(self.adam_b1, self.adam_b2, self.adam_eps)
        return optax.chain(clip, adam) if self.clip_norm else adam

    def learning_rate_factor(self, steps_per_epoch: int) -> optax.Schedule:
        """The schedule as a factor in [0, 1] of the peak learning rate."""
        if self.schedule == "cosine":
            return optax.cosine_decay_schedule(1.0, self.num_epochs * steps_per_epoch)
        if self.schedule == "tripling_stages":
            return _tripling_stages(self.num_epochs * steps_per_epoch)
        return optax.constant_schedule(1.0)

    def kl_factor(self, steps_per_epoch: int) -> optax.Schedule:
        """KL warm-up as a factor in [0, 1] of beta (Bowman et al. 2016).

        Of the capacity instead, where there is one (Burgess et al. 2018).
        """
        if not self.kl_warmup_epochs:
            return optax.constant_schedule(1.0)
        return optax.linear_schedule(0.0, 1.0, self.kl_warmup_epochs * steps_per_epoch)


def _tripling_stages(num_steps: int) -> optax.Schedule:
    """A tenth in eight equal ratios, each stage three times as long as the one before.

    Over 3280 epochs, stage i = 0 ... 7 lasts 3^i epochs at 10^(-i/7) of the rate (Burda
    et al. 2016, section 5). With so few steps that the first stages end together,
    the first step is still taken at the whole rate, and the last at a tenth.
    """
    stages = 8
    lasting = (3 ** np.arange(1, stages) - 1) / (3**stages - 1)
    ends = np.maximum(1, np.floor(num_steps * lasting))

    def factor(step: jax.Array | int) -> jax.Array:
        return 10.0 ** (-jnp.sum(step >= ends) / (stages - 1))

    return factor


class MemberKeys(NamedTuple):
    """The named children of a member's key.

    They are folded in rather than split off, and are themselves only folded: the same
    member key then serves every call, and no key is consumed twice.
    """

    init: jax.Array
    shuffle: jax.Array  # folded with the epoch
    step: jax.Array  # folded with the step
    evaluate: jax.Array  # folded with the image
    pictures: jax.Array
    diagnose: jax.Array

    @classmethod
    def of(cls, key: jax.Array) -> "MemberKeys":
        return cls(*(jax.random.fold_in(key, i) for i in range(len(cls._fields))))


def init_state(recipe: Recipe, params: Params) -> TrainState:
    """The state before the first step."""
    return TrainState(
        params=params,
        opt_state=recipe.optimizer().init(params),
        epoch=jnp.int32(0),
        best_params=jax.tree.map(jnp.copy, params),
        best_bound=jnp.float32(-jnp.inf),
        best_epoch=jnp.int32(0),
        active=jnp.bool_(True),
        failure=Failure(jnp.int32(0), jnp.int32(0)),
        skipped=jnp.int32(0),
    )


def epoch_batches(
    keys: MemberKeys, epoch: jax.Array, num_images: int, batch_size: int
) -> jax.Array:
    """Indices of an epoch's images, ``[steps, batch]``: whole batches in random order.

    The at most ``batch_size - 1`` images left over are others in each epoch.

    Raises:
        ValueError: fewer images than one batch.
    """
    if batch_size > num_images:
        raise ValueError(
            f"batch_size={batch_size} is more than the {num_images} images there are: "
            f"choose at most {num_images}."
        )
    order = jax.random.permutation(jax.random.fold_in(keys.shuffle, epoch), num_images)
    num_steps = num_images // batch_size
    return order[: num_steps * batch_size].reshape(num_steps, batch_size)


def train_epoch(
    model: VAE,
    recipe: Recipe,
    state: TrainState,
    member: Member,
    train_images: jax.Array,
) -> tuple[TrainState, EpochMetrics]:
    """Trains for one epoch; a member that is not active keeps every bit.

    So what a member ends with does not depend on the company it was trained in: one
    that has stopped is computed along until the last one has, and discarded.

    A step whose terms or gradient are not finite is not taken. Adam's step of a finite
    gradient is finite, so the state always is.

    Args:
        model: the VAE, at the group's (padded) latent size.
        recipe: how to train.
        state: the state so far.
        member: this model's key and settings.
        train_images: integers, ``[N, D]``, uint8.

    Returns:
        The new state and means over the steps.
    """
    num_images = train_images.shape[0]
    batches = epoch_batches(
        MemberKeys.of(member.key), state.epoch, num_images, recipe.batch_size
    )
    return _train_steps(
        model,
        recipe,
        state,
        member,
        EpochMetrics.empty(),
        batches,
        lambda batch: train_images[batch],
        first_step=0,
        num_images=num_images,
    )


def train_piece(
    model: VAE,
    recipe: Recipe,
    num_images: int,
    state: TrainState,
    sums: EpochMetrics,
    member: Member,
    images: jax.Array,
    first_step: jax.Array,
) -> tuple[TrainState, EpochMetrics]:
    """Trains for some steps of an epoch, on images that need not all be on the device.

    Piece by piece it takes the steps of ``train_epoch``, with the same keys; the epoch
    is finished, and counted, by the piece that holds its last step.

    Args:
        model: the VAE, at the group's (padded) latent size.
        recipe: how to train.
        num_images: of the whole training set.
        state: the state so far.
        sums: over the epoch's steps so far; any at its first step.
        member: this model's key and settings.
        images: integers, ``[steps, batch, D]``, uint8: those that ``epoch_batches``
            has for these steps.
        first_step: of the epoch's steps the first of these, int32 ``[]``.

    Returns:
        The new state and the sums with these steps: means, if they end the epoch.
    """
    return _train_steps(
        model,
        recipe,
        state,
        member,
        sums,
        images,
        lambda batch: batch,
        first_step=first_step,
        num_images=num_images,
    )


def _train_steps(
    model: VAE,
    recipe: Recipe,
    state: TrainState,
    member: Member,
    sums: EpochMetrics,
    batches: jax.Array,
    images_of: Callable[[jax.Array], jax.Array],
    *,
    first_step: jax.Array | int,
    num_images: int,
) -> tuple[TrainState, EpochMetrics]:
    """Takes a step with the images of each of the batches, ``[steps, ...]``."""
    keys = MemberKeys.of(member.key)
    steps_per_epoch = num_images // recipe.batch_size

    def step(carry, inputs):
        params, opt_state, active, failure, skipped, sums = carry
        index, batch = inputs
        step_index = state.epoch * steps_per_epoch + index
        (params, opt_state), report = train_step(
            model,
            recipe,
            params,
            opt_state,
            member,
            jax.random.fold_in(keys.step, step_index),
            images_of(batch),
            step_index,
            num_images,
            active,
        )
        finite = report.offender == 0
        own = EpochMetrics(report.terms, report.gradient_norm, jnp.float32(1))
        if recipe.on_non_finite == "skip":
            skipped = skipped + (active & ~finite)
            own = optax.tree.where(finite, own, EpochMetrics.empty())
        else:
            failure = _first(failure, active & ~finite, report.offender, index)
            active = active & finite
        sums = jax.tree.map(
            # With an epoch's first step ends what is left of the one before.
            lambda total, new: jnp.where(index == 0, new, total + new),
            sums,
            own,
        )
        return (params, opt_state, active, failure, skipped, sums), None

    (params, opt_state, active, failure, skipped, sums), _ = jax.lax.scan(
        step,
        (
            state.params,
            state.opt_state,
            state.active,
            state.failure,
            state.skipped,
            sums,
        ),
        (first_step + jnp.arange(len(batches)), batches),
    )
    ends_epoch = first_step + len(batches) == steps_per_epoch
    new_state = state._replace(
        params=params,
        opt_state=opt_state,
        epoch=state.epoch + (active & ends_epoch),
        active=active,
        failure=failure,
        skipped=skipped,
    )
    means = jax.tree.map(lambda total: total / sums.steps, sums)
    means = means._replace(steps=sums.steps)
    return new_state, optax.tree.where(ends_epoch, means, sums)


def _first(
    failure: Failure, failed: jax.Array, offender: jax.Array, batch: jax.Array
) -> Failure:
    """The failure, with what is given where the member failed just now."""
    return Failure(
        jnp.where(failed, offender, failure.offender),
        jnp.where(failed, batch, failure.batch),
    )


def validate(
    model: VAE,
    recipe: Recipe,
    state: TrainState,
    member: Member,
    validation_x: jax.Array,
) -> tuple[TrainState, Validation]:
    """Validates, keeps the best parameters, and stops a member without patience left.

    Args:
        model: the VAE, at the group's (padded) latent size.
        recipe: how it is trained.
        state: the state so far; one that is not active is not changed.
        member: this model's key and settings.
        validation_x: validation images in the likelihood's view, ``[M, D]``.
    """
    terms = validation_terms(model, recipe, state.params, member, validation_x)
    improved = state.active & (terms.bound > state.best_bound)
    best_epoch = jnp.where(improved, state.epoch, state.best_epoch)
    active = state.active & _has_patience(recipe, state.epoch - best_epoch)
    failure = state.failure
    if recipe.on_non_finite != "skip":
        finite = jnp.isfinite(terms.bound)
        failure = _first(
            failure,
            state.active & ~finite,
            jnp.int32(_VALIDATION_BOUND),
            jnp.int32(0),
        )
        active = active & finite
    new_state = state._replace(
        best_params=optax.tree.where(improved, state.params, state.best_params),
        best_bound=jnp.where(improved, terms.bound, state.best_bound),
        best_epoch=best_epoch,
        active=active,
        failure=failure,
    )
    return new_state, Validation(
        terms, new_state.best_bound, new_state.active, new_state.failure
    )


def _has_patience(recipe: Recipe, epochs_without_progress: jax.Array) -> jax.Array:
    if not recipe.patience:
        return jnp.bool_(True)
    return epochs_without_progress < recipe.patience


class StepKeys(NamedTuple):
    """The named children of a step's key."""

    view: jax.Array
    latent: jax.Array
    shared: jax.Array

    @classmethod
    def of(cls, key: jax.Array) -> "StepKeys":
        return cls(*jax.random.split(key, len(cls._fields)))


def training_terms(
    model: VAE,
    recipe: Recipe,
    params: Params,
    member: Member,
    key: jax.Array,
    x: jax.Array,
    kl_factor: jax.Array,
    num_images: int | None = None,
) -> Terms:
    """What a step maximises, of each image of x ``[batch, D]``, in nats.

    Args:
        model: the VAE.
        recipe: how it is trained.
        params: its parameters.
        member: this model's settings.
        key: of the latent noise.
        x: images in the likelihood's view.
        kl_factor: less than 1 while the KL is warmed up; of the capacity where there
            is one, otherwise of beta.
        num_images: of the training set, for an objective that needs it.
    """
    objective = OBJECTIVES[recipe.objective]
    options = {name: getattr(recipe, name) for name in objective.options}
    if objective.needs_num_images:
        options["num_images"] = num_images
    beta = member.beta * kl_factor
    if recipe.capacity:
        beta, options["capacity"] = member.beta, recipe.capacity * kl_factor
    return objective.terms(
        model,
        params,
        key,
        x,
        beta=beta,
        num_samples=recipe.num_samples,
        latent_mask=member.latent_mask,
        **options,
    )


def gradient(
    model: VAE,
    recipe: Recipe,
    params: Params,
    member: Member,
    keys: StepKeys,
    x: jax.Array,
    kl_factor: jax.Array,
    num_images: int,
) -> tuple[Params, Terms]:
    """Gradient of minus the mean bound of x ``[batch, D]``, and each image's terms.

    With m microbatches it is the mean of the gradients of m parts, taken one after
    another in the memory of one. The i-th part is images i, i + m, i + 2m, ..., so that
    of a batch that is split over devices each part is, too. Its noise is of the latent
    key folded with i: other noise than that of the batch as a whole.

    Arguments as for ``training_terms``.
    """

    def of_part(key, x):
        def loss(params):
            if model.likelihood.fits_shared:
                params = {**params, "shared": jax.lax.stop_gradient(params["shared"])}
            terms = training_terms(
                model, recipe, params, member, key, x, kl_factor, num_images
            )
            return -terms.bound.mean(), terms

        return jax.grad(loss, has_aux=True)(params)

    count = recipe.microbatches
    if count == 1:
        return of_part(keys.latent, x)

    def add(total, inputs):
        index, part = inputs
        own, terms = of_part(jax.random.fold_in(keys.latent, index), part)
        return jax.tree.map(jnp.add, total, own), terms

    zeros = jax.tree.map(jnp.zeros_like, params)
    parts = x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
    total, terms = jax.lax.scan(add, zeros, (jnp.arange(count), parts))
    return (
        jax.tree.map(lambda leaf: leaf / count, total),
        jax.tree.map(lambda term: term.T.reshape(-1), terms),
    )


class StepReport(NamedTuple):
    """What a step says of itself."""

    terms: Terms  # means over the batch, nats
    gradient_norm: jax.Array  # before clipping, []
    offender: jax.Array  # index into OFFENDERS of what is not finite; 0: all is, []


def train_step(
    model: VAE,
    recipe: Recipe,
    params: Params,
    opt_state: Any,
    member: Member,
    key: jax.Array,
    images: jax.Array,
    step_index: jax.Array,
    num_images: int,
    active: jax.Array | bool = True,
) -> tuple[tuple[Params, Any], StepReport]:
    """One update on one batch of integer images ``[batch, D]``.

    It is not taken, and parameters and optimizer keep every bit, where something is not
    finite or the member is not active.

    Args:
        model: the VAE.
        recipe: how it is trained.
        params: its parameters.
        opt_state: the optimizer's.
        member: this model's key and settings.
        key: the step's.
        images: the batch.
        step_index: steps taken before this one, ``[]``.
        num_images: of the training set that the batch is from.
        active: whether the member is still trained, ``[]``.

    Returns:
        ((params, opt_state), what the step says of itself).
    """
    keys = StepKeys.of(key)
    likelihood = model.likelihood
    recipe.check_likelihood(likelihood)
    images = split_batch(images)
    x = views.observe(likelihood.view, keys.view, images, likelihood.levels)
    steps_per_epoch = num_images // recipe.batch_size
    kl_factor = recipe.kl_factor(steps_per_epoch)(step_index)

    gradients, terms = gradient(
        model, recipe, params, member, keys, x, kl_factor, num_images
    )
    means = jax.tree.map(jnp.mean, terms)
    norm = optax.tree.norm(gradients)
    shared = params["shared"]
    if likelihood.fits_shared:
        shared = _fit_shared(model, params, keys.shared, x, member.latent_mask)
    finite = jnp.isfinite(
        jnp.stack([means.reconstruction, means.kl, means.bound, norm, shared.sum()])
    )
    offender = jnp.where(finite.all(), 0, 1 + jnp.argmin(finite))
    taken = active & (offender == 0)

    direction, opt_state = recipe.optimizer().update(
        gradients, opt_state, params, taken=taken
    )
    rate = member.learning_rate * recipe.learning_rate_factor(steps_per_epoch)(
        step_index
    )
    moved = jax.tree.map(lambda p, d: p - rate * d, params, direction)
    if likelihood.fits_shared:
        moved = {**moved, "shared": shared}
    params = optax.tree.where(taken, moved, params)
    return (params, opt_state), StepReport(means, norm, offender)


def _fit_shared(
    model: VAE, params: Params, key: jax.Array, x: jax.Array, latent_mask: jax.Array
) -> jax.Array:
    """Shared parameters, moved towards their closed-form optimum on this batch.

    A running M-step (Cappe & Moulines 2009): every bound that is reported belongs to
    a model with definite parameters, where a value computed from the very batch it
    scores would not be a density.
    """
    posterior, noise = posterior_and_noise(model, params, key, x, 1, latent_mask)
    z = posterior.sample(noise)
    optimum = model.likelihood.optimal_shared(model.decode(params, z, x[None]), x[None])
    shared = params["shared"]
    return shared + _SHARED_RATE * (optimum - shared)


def validation_terms(
    model: VAE,
    recipe: Recipe,
    params: Params,
    member: Member,
    x: jax.Array,
) -> Terms:
    """The objective's mean over x ``[M, D]``, with noise that is the same each time.

    At the member's full beta and capacity, whatever the KL warm-up, and without free
    bits: the bounds of all epochs are then of one kind. Images come one by one, so that
    what an objective says of the aggregated posterior is left out: 'mmd' is validated
    as 'elbo_log_weight', and 'beta_tc' as the 'elbo' of beta = 1.
    """

    without: dict[str, Any] = {
        name: neutral
        for name, (neutral, training_only) in _OBJECTIVE_OPTIONS.items()
        if training_only
    }
    recipe = dataclasses.replace(recipe, **without)

    def one_image(key, x):
        terms = training_terms(
            model, recipe, params, member, key, x[None], jnp.float32(1.0)
        )
        return jax.tree.map(lambda term: term[0], terms)

    keys = MemberKeys.of(member.key)
    terms = map_images(one_image, keys.evaluate, x, batch_size=_VALIDATION_BATCH)
    return jax.tree.map(jnp.mean, terms)
