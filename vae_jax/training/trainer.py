"""Binds once a model, its training configuration and the size of its training set.

The training set stays on the device, or comes to it in pieces. Shuffling, the draw of
each view and the latent noise come from keys alone, so a run is a function of
(configuration, seed).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vae_jax import views
from vae_jax.mesh import split_batch
from vae_jax.model import VAE, Params
from vae_jax.objectives import Batch, Terms
from vae_jax.per_image import map_images
from vae_jax.products import float32_products
from vae_jax.training.averaging import add_to_average
from vae_jax.training.config import TrainingConfig
from vae_jax.training.state import (
    OFFENDERS,
    EpochMetrics,
    Failure,
    Member,
    MemberKeys,
    StepKeys,
    StepReport,
    TrainState,
    Validation,
)

# Images validated together; bounds the memory, not the result.
_VALIDATION_BATCH = 500

# Weight of a batch in the running closed-form value of a shared parameter.
_SHARED_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Pure functions that train one member; hashable, and static under ``jit``.

    Attributes:
        model: the VAE, at the (padded) latent size of the member's group.
        config: how it is trained.
        num_images: of the training set.
    """

    model: VAE
    config: TrainingConfig
    num_images: int

    def __post_init__(self) -> None:
        if self.config.batch_size > self.num_images:
            raise ValueError(
                f"batch_size is {self.config.batch_size}: it is more than the "
                f"{self.num_images} images there are. Choose at most "
                f"{self.num_images}."
            )
        self.config.objective.check(self.model)

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in the training set."""
        return self.num_images // self.config.batch_size

    # --- the state ---

    def init(
        self,
        key: jax.Array,
        pixel_mean: jax.Array,
        pixel_std: jax.Array,
        images: jax.Array | None = None,
    ) -> TrainState:
        """Returns the state before the first step.

        Args:
            key: the member's.
            pixel_mean: as in ``VAE.init``.
            pixel_std: as in ``VAE.init``.
            images: as in ``VAE.init``.
        """
        init_key = MemberKeys.of(key).init
        return self.start(self.model.init(init_key, pixel_mean, pixel_std, images))

    def start(self, params: Params) -> TrainState:
        """Returns the state before the first step, with given parameters."""
        return TrainState(
            params=params,
            opt_state=self.config.optimizer().init(params),
            average=jax.tree.map(jnp.copy, params) if self.config.ema else None,
            epoch=jnp.int32(0),
            best_params=jax.tree.map(jnp.copy, params),
            best_bound=jnp.float32(-jnp.inf),
            best_epoch=jnp.int32(0),
            active=jnp.bool_(True),
            failure=Failure(jnp.int32(0), jnp.int32(0)),
            skipped=jnp.int32(0),
        )

    # --- epochs ---

    def batches(self, key: jax.Array, epoch: jax.Array | int) -> jax.Array:
        """Returns the indices of an epoch's images, ``[steps, batch]``.

        The batches are whole and in random order. At most ``batch_size - 1`` images are
        left over; these differ between epochs.

        Args:
            key: the member's.
            epoch: number of epochs before this one.
        """
        shuffle_key = jax.random.fold_in(MemberKeys.of(key).shuffle, epoch)
        order = jax.random.permutation(shuffle_key, self.num_images)
        whole = self.steps_per_epoch * self.config.batch_size
        return order[:whole].reshape(self.steps_per_epoch, self.config.batch_size)

    def epoch(
        self, state: TrainState, member: Member, images: jax.Array
    ) -> tuple[TrainState, EpochMetrics]:
        """Trains for one epoch; a member that is not active keeps every bit.

        So the result of a member does not depend on the other members: a member that
        has stopped is still computed until the last one stops, and the result is
        discarded.

        A step whose terms or gradient are not finite is not taken. Adam's step of a
        finite gradient is finite, so the state always is.

        Args:
            state: the state so far.
            member: this model's key and settings.
            images: the training images, rows of integers, ``[N, D]``, uint8.

        Returns:
            The new state and means over the steps.
        """
        batches = self.batches(member.key, state.epoch)
        return self._steps(
            state, EpochMetrics.empty(), member, batches, lambda batch: images[batch], 0
        )

    def piece(
        self,
        state: TrainState,
        sums: EpochMetrics,
        member: Member,
        images: jax.Array,
        first_step: jax.Array,
    ) -> tuple[TrainState, EpochMetrics]:
        """Trains for some steps of an epoch, on images that come from elsewhere.

        The pieces of an epoch take the steps of ``epoch``, with the same keys. The
        piece with the last step finishes the epoch and counts it.

        Args:
            state: the state so far.
            sums: over the epoch's steps so far; ignored at its first step.
            member: this model's key and settings.
            images: rows of integers, ``[steps, batch, D]``, uint8: those that
                ``batches`` gives for these steps.
            first_step: number of the first of these steps in the epoch, int32 ``[]``.

        Returns:
            The new state and the sums with these steps: means, if they end the epoch.
        """
        return self._steps(state, sums, member, images, lambda batch: batch, first_step)

    def _steps(
        self,
        state: TrainState,
        sums: EpochMetrics,
        member: Member,
        batches: jax.Array,
        images_of: Callable[[jax.Array], jax.Array],
        first_step: jax.Array | int,
    ) -> tuple[TrainState, EpochMetrics]:
        """Takes a step with the images of each of the batches, ``[steps, ...]``."""

        def step(carry: Any, inputs: Any) -> tuple[Any, None]:
            params, opt_state, average, active, failure, skipped, sums = carry
            index, batch = inputs
            step_index = state.epoch * self.steps_per_epoch + index
            (params, opt_state), report = self.step(
                params, opt_state, member, images_of(batch), step_index, active
            )
            finite = report.offender == 0
            if self.config.ema:
                count = step_index + 1 - skipped
                moved = add_to_average(
                    average, params, decay=self.config.ema, count=count
                )
                average = optax.tree.where(active & finite, moved, average)
            own = EpochMetrics(report.terms, report.gradient_norm, jnp.float32(1))
            if self.config.on_non_finite == "skip":
                skipped = skipped + (active & ~finite)
                own = optax.tree.where(finite, own, EpochMetrics.empty())
            else:
                failure = failure.where(active & ~finite, report.offender, index)
                active = active & finite
            sums = jax.tree.map(
                # The first step of an epoch resets the sums.
                lambda total, new: jnp.where(index == 0, new, total + new),
                sums,
                own,
            )
            return (params, opt_state, average, active, failure, skipped, sums), None

        start = state.params, state.opt_state, state.average, state.active
        (params, opt_state, average, active, failure, skipped, sums), _ = jax.lax.scan(
            step,
            (*start, state.failure, state.skipped, sums),
            (first_step + jnp.arange(len(batches)), batches),
        )
        ends_epoch = first_step + len(batches) == self.steps_per_epoch
        new_state = state._replace(
            params=params,
            opt_state=opt_state,
            average=average,
            epoch=state.epoch + (active & ends_epoch),
            active=active,
            failure=failure,
            skipped=skipped,
        )
        means = jax.tree.map(lambda total: total / sums.steps, sums)
        means = means._replace(steps=sums.steps)
        return new_state, optax.tree.where(ends_epoch, means, sums)

    # --- steps ---

    def step(
        self,
        params: Params,
        opt_state: Any,
        member: Member,
        images: jax.Array,
        step_index: jax.Array,
        active: jax.Array | bool = True,
    ) -> tuple[tuple[Params, Any], StepReport]:
        """Takes one step with one batch of images, rows of integers ``[batch, D]``.

        If something is not finite or the member is not active, the step is not taken,
        and parameters and optimizer keep every bit.

        Args:
            params: the model's parameters.
            opt_state: the optimizer's.
            member: this model's key and settings.
            images: the batch.
            step_index: steps taken before this one, ``[]``.
            active: whether the member is still trained, ``[]``.

        Returns:
            ((params, opt_state), the report of the step).
        """
        keys = self.step_keys(member, step_index)
        likelihood, steps_per_epoch = self.model.likelihood, self.steps_per_epoch
        x = self.observe(keys.view, split_batch(images))
        warmup = self.config.warmup(steps_per_epoch)(step_index)

        gradients, terms = self.gradient(params, member, keys.latent, x, warmup)
        means = jax.tree.map(jnp.mean, terms)
        norm = optax.tree.norm(gradients)
        shared = params["shared"]
        if likelihood.fits_shared:
            shared = self._fit_shared(params, keys.shared, x, member.latent_mask)
        finite = jnp.isfinite(
            jnp.stack([means.reconstruction, means.kl, means.bound, norm, shared.sum()])
        )
        offender = jnp.where(finite.all(), 0, 1 + jnp.argmin(finite))
        taken = active & (offender == 0)

        direction, opt_state = self.config.optimizer().update(
            gradients, opt_state, params, taken=taken
        )
        factor = self.config.learning_rate_factor(steps_per_epoch)(step_index)
        rate = member.learning_rate * factor
        moved = jax.tree.map(lambda p, d: p - rate * d, params, direction)
        if likelihood.fits_shared:
            moved = {**moved, "shared": shared}
        params = optax.tree.where(taken, moved, params)
        return (params, opt_state), StepReport(means, norm, offender)

    def observe(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Returns rows of integers as rows in the likelihood's view."""
        view, levels = self.model.likelihood.view, self.model.likelihood.levels
        return self.model.rows.map(
            lambda pixels: views.observe(view, key, pixels, levels), images
        )

    def step_keys(self, member: Member, step_index: jax.Array | int) -> StepKeys:
        """Returns the keys of a step of a member."""
        return StepKeys.of(
            jax.random.fold_in(MemberKeys.of(member.key).step, step_index)
        )

    def gradient(
        self,
        params: Params,
        member: Member,
        key: jax.Array,
        x: jax.Array,
        warmup: jax.Array | float = 1.0,
    ) -> tuple[Params, Terms]:
        """Returns the gradient of minus the mean bound, and the terms of each image.

        With m microbatches it is the mean of the gradients of m parts, computed one
        after another in the memory of one. The i-th part is images i, i + m, i + 2m,
        ..., so if devices split the batch, they also split each part. Its noise comes
        from the key folded with i, so it differs from the noise of the whole batch.

        Args:
            params: the model's parameters.
            member: this model's settings.
            key: of the latent noise.
            x: rows in the likelihood's view, ``[batch, D]``.
            warmup: factor in [0, 1] of beta or of the capacity.
        """

        def of_part(key: jax.Array, x: jax.Array) -> tuple[Params, Terms]:
            def loss(params: Params) -> tuple[jax.Array, Terms]:
                if self.model.likelihood.fits_shared:
                    constant = jax.lax.stop_gradient(params["shared"])
                    params = {**params, "shared": constant}
                terms = self.config.objective(
                    self.model,
                    params,
                    key,
                    x,
                    beta=member.beta,
                    warmup=warmup,
                    latent_mask=member.latent_mask,
                    num_images=self.num_images,
                )
                return -terms.bound.mean(), terms

            found: tuple[Params, Terms] = jax.grad(loss, has_aux=True)(params)
            return found

        count = self.config.microbatches
        if count == 1:
            return of_part(key, x)

        def add(total: Params, inputs: Any) -> tuple[Params, Terms]:
            index, part = inputs
            own, terms = of_part(jax.random.fold_in(key, index), part)
            return jax.tree.map(jnp.add, total, own), terms

        zeros = jax.tree.map(jnp.zeros_like, params)
        parts = x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
        total, terms = jax.lax.scan(add, zeros, (jnp.arange(count), parts))
        return (
            jax.tree.map(lambda leaf: leaf / count, total),
            jax.tree.map(lambda term: term.T.reshape(-1), terms),
        )

    def _fit_shared(
        self, params: Params, key: jax.Array, x: jax.Array, latent_mask: jax.Array
    ) -> jax.Array:
        """Moves shared parameters towards their closed-form optimum on this batch.

        This is a running M-step (Cappe & Moulines 2009): every reported bound belongs
        to a model with definite parameters. With a value computed from the same batch
        that it scores, p(x|z) would not be a density.
        """
        model = self.model
        shared: jax.Array = params["shared"]
        batch = Batch(model, params, key, x, latent_mask=latent_mask)
        outputs = model.decode(params, batch.posterior.sample(batch.noise), x[None])
        pixels, _ = model.rows.split(x)
        optimum = model.likelihood.optimal_shared(outputs, pixels[None])
        return shared + _SHARED_RATE * (optimum - shared)

    # --- validation ---

    def validate(
        self, state: TrainState, member: Member, x: jax.Array
    ) -> tuple[TrainState, Validation]:
        """Validates, keeps the best candidate, and stops a member out of patience.

        Args:
            state: the state so far; one that is not active is not changed.
            member: this model's key and settings.
            x: validation images, rows in the likelihood's view, ``[M, D]``.
        """
        terms = self.validation_terms(state.candidate, member, x)
        improved = state.active & (terms.bound > state.best_bound)
        best_epoch = jnp.where(improved, state.epoch, state.best_epoch)
        active, failure = state.active, state.failure
        if self.config.patience:
            active = active & (state.epoch - best_epoch < self.config.patience)
        if self.config.on_non_finite != "skip":
            finite = jnp.isfinite(terms.bound)
            offender = jnp.int32(OFFENDERS.index("validation bound"))
            failure = failure.where(state.active & ~finite, offender, jnp.int32(0))
            active = active & finite
        new_state = state._replace(
            best_params=optax.tree.where(improved, state.candidate, state.best_params),
            best_bound=jnp.where(improved, terms.bound, state.best_bound),
            best_epoch=best_epoch,
            active=active,
            failure=failure,
        )
        return new_state, Validation(terms, new_state.best_bound, active, failure)

    @float32_products
    def validation_terms(self, params: Params, member: Member, x: jax.Array) -> Terms:
        """Returns the objective's mean terms over x ``[M, D]``, with the same noise.

        They have the member's full beta and capacity, and not the options that only
        shape training (free bits), so the bounds of all epochs can be compared. Images
        come one by one, which leaves out the terms of the aggregated posterior: 'mmd'
        is validated as 'elbo_log_weight', and 'beta_tc' as the 'elbo' of beta = 1.
        """
        objective = self.config.objective.for_validation()

        def one_image(key: jax.Array, x: jax.Array) -> Terms:
            terms = objective(
                self.model,
                params,
                key,
                x[None],
                beta=member.beta,
                latent_mask=member.latent_mask,
            )
            return Terms(*(term[0] for term in terms))

        keys = MemberKeys.of(member.key)
        terms = map_images(one_image, keys.evaluate, x, batch_size=_VALIDATION_BATCH)
        return Terms(*map(jnp.mean, terms))
