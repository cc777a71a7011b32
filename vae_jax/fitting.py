"""Trains models on arrays: many members as one population, in one call."""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from vae_jax import views
from vae_jax.checks import is_keys, require_type
from vae_jax.model import VAE
from vae_jax.population import (
    Layout,
    Population,
    Snapshot,
    Validate,
    member,
    member_keys,
    param_shapes,
    unpad,
)
from vae_jax.trained import TrainedModel
from vae_jax.training import OFFENDERS, EpochMetrics, TrainingConfig


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The members after an epoch; valid until the next epoch begins.

    Attributes:
        population: the members.
        snapshot: their stacked state, and the metrics of the epoch.
        keeps_best: whether the parameters of the highest validation bound are kept.
    """

    population: Population
    snapshot: Snapshot
    keeps_best: bool

    @property
    def metrics(self) -> EpochMetrics:
        """Means over the epoch's steps, ``[members]``; zeros before the first epoch."""
        means: EpochMetrics = self.population.placement.fetch(self.snapshot.metrics)
        return means

    def trained(self) -> list[TrainedModel]:
        """Returns the members as trained models, in the order of the arguments.

        They have the parameters of the highest validation bound, or the last ones if
        there is no validation; where ``config.ema`` is not 0, the average of these.
        """
        population, state = self.population, self.snapshot.state
        params = state.best_params if self.keeps_best else state.candidate
        params, failure = population.placement.fetch((params, state.failure))
        found = []
        for i, model in enumerate(population.models):
            offender = int(failure.offender[i])
            found.append(
                TrainedModel(
                    model,
                    unpad(member(params, i), param_shapes(model)),
                    population.keys[i],
                    OFFENDERS[offender] if offender else "",
                )
            )
        return found


def fit(
    model: VAE,
    images: np.ndarray,
    config: TrainingConfig | None = None,
    *,
    seeds: int | Sequence[int] | jax.Array = 0,
    beta: float | Sequence[float] = 1.0,
    learning_rate: float | Sequence[float] = 1e-3,
    latent_dims: Sequence[int] | None = None,
    labels: ArrayLike | None = None,
    validation_images: np.ndarray | None = None,
    validation_labels: ArrayLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    execution: str = "auto",
) -> list[TrainedModel]:
    """Returns trained models; one program trains all members together.

    ``seeds``, ``beta``, ``learning_rate`` and ``latent_dims`` each have one value for
    all members, or one value for each member.

    Args:
        model: the VAE, as ``make_vae`` describes it.
        images: the training images: integers 0 ... levels - 1, ``[N, H, W]``,
            ``[N, H, W, C]`` or ``[N, D]``.
        config: the training configuration of all members; ``TrainingConfig()`` if None.
        seeds: seeds of the initial parameters, the order of images and the noise; or
            typed keys.
        beta: weight of the KL in training.
        learning_rate: Adam's peak learning rate.
        latent_dims: numbers of latents; the number of ``model`` if None.
        labels: the classes of the images, whole numbers 0 ... ``num_classes`` - 1,
            ``[N]``; None for a model without classes.
        validation_images: images on which each member's bound is measured after every
            epoch; the parameters of the highest bound are kept. If None, the last
            parameters are kept. Where ``config.ema`` is not 0, all this holds for
            their average.
        validation_labels: the classes of these images, ``[M]``, as ``labels``.
        devices: the devices that members are split over; all devices if None.
        execution: 'map' trains members together, 'loop' one after another, and 'auto'
            uses the one that was measured to be faster.

    Raises:
        ValueError: the images or labels do not fit the model, arguments have different
            numbers of members, a value is not allowed, or the objective is not defined
            for the model.
    """
    all_epochs = epochs(
        model,
        images,
        config,
        seeds=seeds,
        beta=beta,
        learning_rate=learning_rate,
        latent_dims=latent_dims,
        labels=labels,
        validation_images=validation_images,
        validation_labels=validation_labels,
        devices=devices,
        execution=execution,
    )
    (last,) = collections.deque(all_epochs, maxlen=1)
    return last.trained()


def epochs(
    model: VAE,
    images: np.ndarray,
    config: TrainingConfig | None = None,
    *,
    seeds: int | Sequence[int] | jax.Array = 0,
    beta: float | Sequence[float] = 1.0,
    learning_rate: float | Sequence[float] = 1e-3,
    latent_dims: Sequence[int] | None = None,
    labels: ArrayLike | None = None,
    validation_images: np.ndarray | None = None,
    validation_labels: ArrayLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    execution: str = "auto",
) -> Iterator[Epoch]:
    """Yields the members after each epoch; the arguments are those of ``fit``.

    The first value is of epoch 0, before any training.
    """
    config = TrainingConfig() if config is None else config
    require_type("model", model, VAE, "what make_vae returns")
    require_type("config", config, TrainingConfig, "TrainingConfig(num_epochs=100)")
    levels = model.likelihood.levels
    pixels = views.as_rows(images, model.image_shape, levels)
    train, held_out = model.rows.of(pixels, labels), None
    if validation_images is not None:
        name = "validation_images"
        held_out = views.as_rows(validation_images, model.image_shape, levels, name)
        held_out = model.rows.of(held_out, validation_labels, "validation_labels")
    elif validation_labels is not None:
        raise ValueError(
            "validation_labels is given: there are no validation_images. Give both, or "
            "leave it out."
        )
    given = {"seeds": seeds, "beta": beta, "learning_rate": learning_rate}
    if latent_dims is not None:
        given["latent_dims"] = latent_dims
    count, each = _per_member(given)
    keys = each["seeds"]
    if not is_keys(keys):
        keys = member_keys(keys.astype(np.uint32))
    population = Population(
        [model.with_latent_dim(int(size)) for size in each["latent_dims"]]
        if latent_dims is not None
        else [model] * count,
        config,
        len(train),
        keys=keys,
        beta=each["beta"],
        learning_rate=each["learning_rate"],
        layout=Layout.of(count, devices),
        execution=execution,
    )
    place, members = population.placement, population.placed_members
    statistics = (*views.pixel_statistics(pixels, levels), train)
    state = population.init(population.compile_init(*statistics), *statistics)
    on_device = place.place_shared(train)
    one_epoch = population.compile_epoch(on_device)
    validate: Validate | None = None
    if held_out is not None:
        x = place.place_shared(model.shared_draw(views.VALIDATION, held_out))
        validation = population.compile_validation(x)
        validate = lambda state: validation(state, members, x)  # noqa: E731
    keeps_best = validate is not None
    start = Snapshot(0, state, population.no_sums(), None)
    yield Epoch(population, start, keeps_best)
    for snapshot in population.epochs(
        lambda state: one_epoch(state, members, on_device), validate, state
    ):
        yield Epoch(population, snapshot, keeps_best)


_HUGE = float(np.finfo(np.float32).max)

# The values that each argument may have: in words, their type, and their bounds.
_ALLOWED: dict[str, tuple[str, str, float, float]] = {
    "seeds": ("integers from 0 to 4294967295, or typed keys", "iu", 0, 2**32 - 1),
    "latent_dims": ("integers of at least 1", "iu", 1, math.inf),
    "beta": ("finite numbers of at least 0", "iuf", 0, _HUGE),
    "learning_rate": ("finite numbers above 0", "iuf", math.ulp(0.0), _HUGE),
}


def _per_member(given: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Returns the number of members, and each argument with one value per member."""
    values = {name: _row(name, value) for name, value in given.items()}
    count = max(1, *map(len, values.values()))
    for name, value in values.items():
        if value.ndim != 1 or len(value) not in (1, count):
            raise ValueError(
                f"{name} has the shape {list(value.shape)}: there are {count} members. "
                f"Give one value for all, or a list of {count}."
            )
    rows = {name: np.arange(count) % len(value) for name, value in values.items()}
    return count, {name: value[rows[name]] for name, value in values.items()}


def _row(name: str, values: Any) -> Any:
    """Returns the value or values of an argument as an array ``[values]``."""
    if is_keys(values):
        return values if values.ndim else values[None]
    words, kinds, least, most = _ALLOWED[name]
    try:
        row = np.atleast_1d(values)
        allowed = row.size == 0 or (
            row.dtype.kind in kinds and bool(((row >= least) & (row <= most)).all())
        )
    except ValueError:  # Lists of different lengths.
        allowed = False
    if not allowed:
        raise ValueError(f"{name} is {' '.join(repr(values).split())}: give {words}.")
    return row
