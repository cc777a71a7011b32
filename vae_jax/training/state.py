"""Arrays that training reads and writes: members, states, keys and reports."""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from vae_jax.model import Params
from vae_jax.objectives import Terms


class Member(NamedTuple):
    """The arrays that may differ between models of one compiled program."""

    key: jax.Array  # typed key, []
    beta: jax.Array  # weight of the KL, []
    learning_rate: jax.Array  # peak learning rate, []
    latent_mask: jax.Array  # 1 for a latent in use, 0 for padding, [latent]


# Where a non-finite value can first be seen; ``Failure.offender`` is the index.
OFFENDERS = (
    "nothing",
    "reconstruction",
    "KL",
    "bound",
    "gradient",
    "shared parameters",
    "validation bound",
)


class Failure(NamedTuple):
    """The place of a value that is not finite; the member stopped before the update."""

    offender: jax.Array  # index into OFFENDERS, 0 while all is well, int32 []
    batch: jax.Array  # of the epoch that was not finished, int32 []

    def where(self, failed: jax.Array, offender: Any, batch: Any) -> "Failure":
        """Returns the failure, replaced by a new one where the member failed."""
        return Failure(
            jnp.where(failed, offender, self.offender),
            jnp.where(failed, batch, self.batch),
        )


class TrainState(NamedTuple):
    """The state of training between epochs; finite, except for ``best_bound``."""

    params: Params
    opt_state: Any
    average: Params | None  # of the params after each step; None without an average
    epoch: jax.Array  # epochs finished, int32 []
    best_params: Params  # the candidate of the highest validation bound so far
    best_bound: jax.Array  # nats; -inf before the first validation, []
    best_epoch: jax.Array  # int32 []
    active: jax.Array  # False once patience has run out or a value was not finite, []
    failure: Failure
    skipped: jax.Array  # updates left out because they were not finite, int32 []

    @property
    def candidate(self) -> Params:
        """The parameters that a validation measures: the average, if there is one."""
        return self.params if self.average is None else self.average


class EpochMetrics(NamedTuple):
    """Means over an epoch's steps, while parameters move and KL is warmed up.

    Before the epoch's last step they are sums, so that an epoch in pieces gives the
    same bits. They are NaN if every step was left out.
    """

    terms: Terms  # [], nats
    gradient_norm: jax.Array  # before clipping, []
    steps: jax.Array  # number of steps in the means: those not left out, []

    @classmethod
    def empty(cls) -> "EpochMetrics":
        """Returns the sums before any step."""
        zero = jnp.float32(0)
        return cls(Terms(zero, zero, zero), zero, zero)


class StepReport(NamedTuple):
    """The report of one step."""

    terms: Terms  # means over the batch, nats
    gradient_norm: jax.Array  # before clipping, []
    offender: jax.Array  # index into OFFENDERS, 0 if all is finite, []


class Validation(NamedTuple):
    """The report of a validation: means over images, nats, and how training stands."""

    terms: Terms  # [], at full beta
    best_bound: jax.Array  # []
    active: jax.Array  # []
    failure: Failure


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
    def of(cls, key: jax.Array) -> Self:
        """Returns the children of a member's key."""
        return cls(*(jax.random.fold_in(key, i) for i in range(len(cls._fields))))


class StepKeys(NamedTuple):
    """The named children of a step's key."""

    view: jax.Array
    latent: jax.Array
    shared: jax.Array

    @classmethod
    def of(cls, key: jax.Array) -> Self:
        """Returns the children of a step's key."""
        return cls(*jax.random.split(key, len(cls._fields)))
