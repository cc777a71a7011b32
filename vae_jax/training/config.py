"""How a model is trained: the settings that all members of a program share."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax.checks import Count, CountOrZero, Range, require_fields, require_type
from vae_jax.objectives import Elbo, Objective
from vae_jax.training.adam import scale_by_adam

SCHEDULES = ("constant", "cosine", "tripling_stages")

ON_NON_FINITE = ("stop", "skip", "reseed")


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """How a model is trained, without the objective.

    Attributes:
        batch_size: images of a training step.
        microbatches: parts of a batch whose gradients are computed one after another
            and added, to save memory; divides batch_size.
        num_epochs: the most epochs of training, and the length of the schedule.
        validate_every: epochs between two validations; the last epoch has one, too.
        patience: epochs without a better validation bound after which training stops;
            0: it never stops early.
        schedule: how the learning rate falls during training.
        kl_warmup_epochs: epochs over which beta, or a capacity, rises linearly from 0.
        clip_norm: largest global norm of the gradient; 0: no clipping.
        adam_b1: decay of Adam's mean of the gradient; adam_b1 ** 2 <= adam_b2.
        adam_b2: decay of Adam's mean of the squared gradient.
        adam_eps: added to Adam's denominator.
        ema: decay per step of a moving average of the parameters, over about the last
            1 / (1 - ema) steps (0.999: 1000), which is validated and kept in their
            place; 0: no average.
        on_non_finite: after a value that is not finite: 'stop' ends the training of
            this model, 'skip' leaves the update out and goes on with the next batch,
            'reseed' starts the model again with other random keys.
    """

    batch_size: Count = 64
    microbatches: Count = 1
    num_epochs: Count = 100
    validate_every: Count = 5
    patience: CountOrZero = 0
    schedule: Annotated[str, SCHEDULES] = "constant"
    kl_warmup_epochs: CountOrZero = 0
    clip_norm: Annotated[float, Range(at_least=0)] = 0.0
    adam_b1: Annotated[float, Range(at_least=0, below=1)] = 0.9
    adam_b2: Annotated[float, Range(at_least=0, below=1)] = 0.999
    adam_eps: Annotated[float, Range(above=0)] = 1e-8
    ema: Annotated[float, Range(at_least=0, below=1)] = 0.0
    on_non_finite: Annotated[str, ON_NON_FINITE] = "stop"

    def __post_init__(self) -> None:
        require_fields(self)
        if self.adam_b1**2 > self.adam_b2:
            raise ValueError(
                f"adam_b1 is {self.adam_b1}: Adam needs adam_b1 ** 2 <= adam_b2, and "
                f"adam_b2 is {self.adam_b2}. Change one of them."
            )
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"batch_size is {self.batch_size}: it is not a multiple of "
                f"microbatches, {self.microbatches}. Change one of them."
            )

    def validates_after(self, epoch: int) -> bool:
        """Returns whether a validation follows when so many epochs are finished."""
        return epoch % self.validate_every == 0 or epoch == self.num_epochs

    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """Returns Adam's direction; a step multiplies it by the learning rate."""
        clip = optax.clip_by_global_norm(self.clip_norm)
        adam = scale_by_adam(self.adam_b1, self.adam_b2, self.adam_eps)
        return optax.chain(clip, adam) if self.clip_norm else adam

    def learning_rate_factor(self, steps_per_epoch: int) -> optax.Schedule:
        """Returns the schedule as a factor in [0, 1] of the peak learning rate."""
        if self.schedule == "cosine":
            return optax.cosine_decay_schedule(1.0, self.num_epochs * steps_per_epoch)
        if self.schedule == "tripling_stages":
            return _tripling_stages(self.num_epochs * steps_per_epoch)
        return optax.constant_schedule(1.0)

    def warmup(self, steps_per_epoch: int) -> optax.Schedule:
        """Returns the factor in [0, 1] by which the KL's weight has risen.

        It multiplies beta (Bowman et al. 2016), or the capacity of an objective that
        has one (Burgess et al. 2018).
        """
        if not self.kl_warmup_epochs:
            return optax.constant_schedule(1.0)
        return optax.linear_schedule(0.0, 1.0, self.kl_warmup_epochs * steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class TrainingConfig(TrainingPlan):
    """How a model is trained; static under ``jit`` and shared by a group of members."""

    # An objective with its options.
    objective: Objective = dataclasses.field(default_factory=Elbo)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_type(
            "objective", self.objective, Objective, "one as OBJECTIVES.make('elbo') is"
        )
        if self.objective.depends_on_batch:
            name = self.objective.name
            if self.microbatches > 1:
                raise ValueError(
                    f"microbatches is {self.microbatches}: the objective {name} needs "
                    "the batch as a whole. Set microbatches=1."
                )
            if self.batch_size < 2:
                raise ValueError(
                    f"batch_size is {self.batch_size}: the objective {name} sees q(z) "
                    "in the batch. Set batch_size to 2 or more, or choose "
                    "'elbo_log_weight'."
                )


def _tripling_stages(num_steps: int) -> optax.Schedule:
    """Returns a factor that falls to a tenth in eight stages of equal ratio.

    Each stage is three times as long as the one before: over 3280 epochs, stage i = 0
    ... 7 lasts 3^i epochs at 10^(-i/7) of the rate (Burda et al. 2016, section 5). If
    there are so few steps that the first stages end together, the first step still has
    the whole rate, and the last step a tenth.
    """
    stages = 8
    lasting = (3 ** np.arange(1, stages) - 1) / (3**stages - 1)
    ends = np.maximum(1, np.floor(num_steps * lasting))

    def factor(step: jax.Array | int) -> jax.Array:
        return 10.0 ** (-jnp.sum(step >= ends) / (stages - 1))

    return factor
