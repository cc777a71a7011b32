"""Training one model, as pure functions of its state.

``config`` says how, ``state`` what is carried, and ``Trainer`` binds both to a model:
``init``, ``step``, ``epoch``, ``piece`` and ``validate`` of one *member*, a model with
its own key and settings. ``vae_jax.population`` maps them over many members.
"""

from vae_jax.training.config import (
    ON_NON_FINITE,
    SCHEDULES,
    TrainingConfig,
    TrainingPlan,
)
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
from vae_jax.training.trainer import Trainer

__all__ = [
    "OFFENDERS",
    "ON_NON_FINITE",
    "SCHEDULES",
    "EpochMetrics",
    "Failure",
    "Member",
    "MemberKeys",
    "StepKeys",
    "StepReport",
    "TrainState",
    "Trainer",
    "TrainingConfig",
    "TrainingPlan",
    "Validation",
]
