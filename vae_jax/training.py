"""Training one model: its state, and several epochs as one compiled program.

Everything here is a function of one *member*, a model with its own key and settings;
``population`` maps these functions over many. The training set stays on the device;
shuffling, the draw of each view and the latent noise come from keys inside the
program, so a run is a function of (configuration, seed) alone.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vae_jax import views
from vae_jax.model import VAE, Params
from vae_jax.objectives import OBJECTIVES, Terms, draw_posterior
from vae_jax.per_image import map_images

SCHEDULES = ("constant", "cosine")

# Images validated together; bounds the memory, not the result.
_VALIDATION_BATCH = 500

# Weight of a batch in the running closed-form value of a shared parameter.
_SHARED_RATE = 0.1


class Member(NamedTuple):
    """What may differ between models that share one compiled program: arrays only."""

    key: jax.Array  # typed key, []
    beta: jax.Array  # weight of the KL, []
    learning_rate: jax.Array  # peak learning rate, []
    latent_mask: jax.Array  # 1 for a latent in use, 0 for padding, [latent]


class TrainState(NamedTuple):
    """What training carries from epoch to epoch."""

    params: Params
    opt_state: Any
    epoch: jax.Array  # epochs finished, int32 []
    best_params: Params  # at the highest validation bound so far
    best_bound: jax.Array  # nats, []
    best_epoch: jax.Array  # int32 []
    active: jax.Array  # False once patience has run out, bool []


class Metrics(NamedTuple):
    """What a call of ``train_epochs`` reports: means over images, in nats."""

    train: Terms  # [epochs]; while parameters move and KL is warmed up
    gradient_norm: jax.Array  # mean over steps, before clipping, [epochs]
    validation: Terms  # []; full beta, after the last of the epochs
    best_bound: jax.Array  # []
    best_epoch: jax.Array  # []
    active: jax.Array  # []


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained; static under ``jit`` and shared by a group of members."""

    objective: str = "elbo"  # a name in OBJECTIVES
    num_samples: int = 1  # latent samples per image
    batch_size: int = 64
    num_epochs: int = 100  # the schedule's length, and the most that is trained
    validate_every: int = 5  # epochs of one compiled call, which ends in a validation
    patience: int = 0  # epochs without a better validation bound; 0: never stop
    schedule: str = "constant"  # of the learning rate: one of SCHEDULES
    kl_warmup_epochs: int = 0  # beta rises linearly from 0 over these
    clip_norm: float = 0.0  # global norm of the gradient; 0: no clipping
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8

    def __post_init__(self) -> None:
        for field, allowed in (("objective", OBJECTIVES), ("schedule", SCHEDULES)):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(
                    f"unknown {field} {value!r}: choose one of {', '.join(allowed)}."
                )
        if self.num_epochs % self.validate_every:
            raise ValueError(
                f"num_epochs={self.num_epochs} is not a multiple of "
                f"validate_every={self.validate_every}: change one of them."
            )

    def optimizer(self) -> optax.GradientTransformation:
        """Adam's direction; the step multiplies it by the member's learning rate."""
        clip = optax.clip_by_global_norm(self.clip_norm)
        adam = optax.scale_by_adam(self.adam_b1, self.adam_b2, self.adam_eps)
        return optax.chain(clip, adam) if self.clip_norm else adam

    def learning_rate_factor(self, steps_per_epoch: int) -> optax.Schedule:
        """The schedule as a factor in [0, 1] of the peak learning rate."""
        if self.schedule == "cosine":
            return optax.cosine_decay_schedule(1.0, self.num_epochs * steps_per_epoch)
        return optax.constant_schedule(1.0)

    def kl_factor(self, steps_per_epoch: int) -> optax.Schedule:
        """KL warm-up as a factor in [0, 1] of beta (Bowman et al. 2016)."""
        if not self.kl_warmup_epochs:
            return optax.constant_schedule(1.0)
        return optax.linear_schedule(0.0, 1.0, self.kl_warmup_epochs * steps_per_epoch)


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
    )


def train_epochs(
    model: VAE,
    recipe: Recipe,
    state: TrainState,
    member: Member,
    train_images: jax.Array,
    validation_x: jax.Array,
) -> tuple[TrainState, Metrics]:
    """Trains for ``recipe.validate_every`` epochs, then validates.

    An epoch visits the images in a fresh random order in whole batches; the at most
    ``batch_size - 1`` images left over are others in each epoch.

    Args:
        model: the VAE, at the group's (padded) latent size.
        recipe: how to train.
        state: the state so far.
        member: this model's key and settings.
        train_images: integers, ``[N, D]``, uint8.
        validation_x: validation images in the likelihood's view, ``[M, D]``.

    Returns:
        The new state, with the parameters of the best validation bound, and metrics.
    """
    keys = MemberKeys.of(member.key)
    num_images = train_images.shape[0]
    steps_per_epoch = num_images // recipe.batch_size

    def epoch(carry, _):
        params, opt_state, index = carry
        order = jax.random.permutation(
            jax.random.fold_in(keys.shuffle, index), num_images
        )
        batches = order[: steps_per_epoch * recipe.batch_size]
        batches = batches.reshape(steps_per_epoch, recipe.batch_size)
        first_step = index * steps_per_epoch

        def step(carry, inputs):
            params, opt_state = carry
            batch, step_index = inputs
            return train_step(
                model,
                recipe,
                params,
                opt_state,
                member,
                jax.random.fold_in(keys.step, step_index),
                train_images[batch],
                step_index,
                steps_per_epoch,
            )

        (params, opt_state), (terms, norm) = jax.lax.scan(
            step,
            (params, opt_state),
            (batches, first_step + jnp.arange(steps_per_epoch)),
        )
        means = jax.tree.map(jnp.mean, (terms, norm))
        return (params, opt_state, index + 1), means

    (params, opt_state, index), (train_terms, norm) = jax.lax.scan(
        epoch,
        (state.params, state.opt_state, state.epoch),
        length=recipe.validate_every,
    )
    validation = validate(model, recipe, params, member, keys.evaluate, validation_x)
    improved = validation.bound > state.best_bound
    best_epoch = jnp.where(improved, index, state.best_epoch)
    new_state = TrainState(
        params=params,
        opt_state=opt_state,
        epoch=index,
        best_params=jax.tree.map(
            lambda new, old: jnp.where(improved, new, old), params, state.best_params
        ),
        best_bound=jnp.where(improved, validation.bound, state.best_bound),
        best_epoch=best_epoch,
        active=_has_patience(recipe, index - best_epoch),
    )
    metrics = Metrics(
        train_terms,
        norm,
        validation,
        new_state.best_bound,
        new_state.best_epoch,
        new_state.active,
    )
    return new_state, metrics


def _has_patience(recipe: Recipe, epochs_without_progress: jax.Array) -> jax.Array:
    if not recipe.patience:
        return jnp.bool_(True)
    return epochs_without_progress < recipe.patience


def train_step(
    model: VAE,
    recipe: Recipe,
    params: Params,
    opt_state: Any,
    member: Member,
    key: jax.Array,
    images: jax.Array,
    step_index: jax.Array,
    steps_per_epoch: int,
) -> tuple[tuple[Params, Any], tuple[Terms, jax.Array]]:
    """One update on one batch of integer images ``[batch, D]``.

    Returns:
        ((params, opt_state), (terms averaged over the batch, gradient norm)).
    """
    view_key, latent_key, shared_key = jax.random.split(key, 3)
    likelihood = model.likelihood
    x = views.observe(likelihood.view, view_key, images, likelihood.levels)
    beta = member.beta * recipe.kl_factor(steps_per_epoch)(step_index)

    def loss(params):
        if likelihood.fits_shared:
            params = {**params, "shared": jax.lax.stop_gradient(params["shared"])}
        terms = OBJECTIVES[recipe.objective](
            model,
            params,
            latent_key,
            x,
            beta=beta,
            num_samples=recipe.num_samples,
            latent_mask=member.latent_mask,
        )
        means = jax.tree.map(jnp.mean, terms)
        return -means.bound, means

    gradients, means = jax.grad(loss, has_aux=True)(params)
    direction, opt_state = recipe.optimizer().update(gradients, opt_state, params)
    rate = member.learning_rate * recipe.learning_rate_factor(steps_per_epoch)(
        step_index
    )
    params = jax.tree.map(lambda p, d: p - rate * d, params, direction)
    if likelihood.fits_shared:
        params = _fit_shared(model, params, shared_key, x, member.latent_mask)
    return (params, opt_state), (means, optax.tree.norm(gradients))


def _fit_shared(
    model: VAE, params: Params, key: jax.Array, x: jax.Array, latent_mask: jax.Array
) -> Params:
    """Moves shared parameters towards their closed-form optimum on this batch.

    A running M-step (Cappe & Moulines 2009): every bound that is reported belongs to
    a model with definite parameters, where a value computed from the very batch it
    scores would not be a density.
    """
    _, z = draw_posterior(model, params, key, x, 1, latent_mask)
    optimum = model.likelihood.optimal_shared(model.decode(params, z), x[None])
    shared = params["shared"]
    return {**params, "shared": shared + _SHARED_RATE * (optimum - shared)}


def validate(
    model: VAE,
    recipe: Recipe,
    params: Params,
    member: Member,
    key: jax.Array,
    x: jax.Array,
) -> Terms:
    """The objective's mean over x ``[M, D]``, with noise that is the same each time.

    At the member's full beta, whatever the KL warm-up: the bounds of all epochs are
    then of one kind.
    """

    def one_image(key, x):
        terms = OBJECTIVES[recipe.objective](
            model,
            params,
            key,
            x[None],
            beta=member.beta,
            num_samples=recipe.num_samples,
            latent_mask=member.latent_mask,
        )
        return jax.tree.map(lambda term: term[0], terms)

    terms = map_images(one_image, key, x, batch_size=_VALIDATION_BATCH)
    return jax.tree.map(jnp.mean, terms)
