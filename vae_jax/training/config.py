"""How a model is trained: the settings that all members of a program share."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax.checks import require_count, require_type
from vae_jax.objectives import Elbo, Objective
from vae_jax.registry import require_known
from vae_jax.training.adam import scale_by_adam

SCHEDULES = ("constant", "cosine", "tripling_stages")

# After a value that is not finite, the member stops; or the update is left out and the
# next batch tried; or the member stops and its run is started again with another key.
ON_NON_FINITE = ("stop", "skip", "reseed")

_SMALLEST = {
    **dict.fromkeys(("batch_size", "microbatches", "num_epochs", "validate_every"), 1),
    **dict.fromkeys(("patience", "kl_warmup_epochs"), 0),
}


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """How a model is trained, without the objective."""

    batch_size: int = 64
    microbatches: int = 1  # parts of a batch whose gradients are taken one by one
    num_epochs: int = 100  # the schedule's length, and the most that is trained
    validate_every: int = 5  # epochs between validations; the last has one, too
    patience: int = 0  # epochs without a better validation bound; 0: never stop
    schedule: str = "constant"  # of the learning rate: one of SCHEDULES
    kl_warmup_epochs: int = 0  # beta, or a capacity, rises linearly from 0 over these
    clip_norm: float = 0.0  # global norm of the gradient; 0: no clipping
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-8
    on_non_finite: str = "stop"  # one of ON_NON_FINITE

    def __post_init__(self) -> None:
        require_known("schedule", self.schedule, SCHEDULES)
        require_known("on_non_finite", self.on_non_finite, ON_NON_FINITE)
        for field, smallest in _SMALLEST.items():
            require_count(field, getattr(self, field), smallest)
        if not self.clip_norm >= 0:  # NaN included.
            raise ValueError(f"clip_norm is {self.clip_norm}: it must be at least 0.")
        for field in ("clip_norm", "adam_b1", "adam_b2", "adam_eps"):
            value = getattr(self, field)
            if not math.isfinite(value):
                raise ValueError(f"{field} is {value}: it must be finite.")
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

        Of beta (Bowman et al. 2016), or of the capacity of an objective that has one
        (Burgess et al. 2018).
        """
        if not self.kl_warmup_epochs:
            return optax.constant_schedule(1.0)
        return optax.linear_schedule(0.0, 1.0, self.kl_warmup_epochs * steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class TrainingConfig(TrainingPlan):
    """How a model is trained; static under ``jit`` and shared by a group of members."""

    # With its options.
    objective: Objective = dataclasses.field(default_factory=Elbo)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_type(
            "objective", self.objective, Objective, "one as OBJECTIVES.make('elbo') is"
        )
        if self.objective.depends_on_batch:
            name = type(self.objective).__name__
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
