"""Settings: a configuration checked once, at the boundary, and frozen.

``configs/`` holds the values, this module what they may be. Jitted code never sees a
ConfigDict, and nothing is computed before every value has passed.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, MutableMapping, Set
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from experiments.data import DataSettings
from experiments.diagnosis import DiagnosticsSettings
from experiments.wording import suggest
from vae_jax import likelihoods, networks, population
from vae_jax.objectives import OBJECTIVES
from vae_jax.posteriors import PosteriorFamily, make_posterior
from vae_jax.priors import PriorFamily, make_prior
from vae_jax.training import ON_NON_FINITE, SCHEDULES, Recipe

_TINY, _HUGE = (
    float(size) for size in (np.finfo(np.float32).tiny, np.finfo(np.float32).max)
)

_LARGEST_RATE = 1000.0
_LARGEST_COUNT = 1_000_000  # More is a slip, and would end in a lack of memory.


class SettingsError(ValueError):
    """A value in the configuration that cannot be used; the message is one line."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    likelihood: str  # a name in vae_jax.likelihoods.LIKELIHOODS
    latent_dim: int
    network: str  # a name in vae_jax.networks.NETWORKS
    widths: tuple[int, ...]  # hidden units or channels, from the image inwards
    activation: str  # a name in vae_jax.networks.ACTIVATIONS
    fixed_scale: float  # standard deviation of gaussian_fixed, in units of [0, 1]
    components: int  # of logistic_mixture
    ignore_x: bool  # q(z) in place of q(z|x): a lesson, not a model
    posterior: str  # a name in vae_jax.posteriors.POSTERIORS or .HIERARCHICAL
    upper_layers: tuple[int, ...]  # latents of further stochastic layers, upwards
    layer_widths: tuple[int, ...]  # hidden units between two of them
    prior: str  # a name in vae_jax.priors.PRIORS
    prior_components: int  # of a mixture, or pseudo-inputs of a VampPrior
    flow_steps: int  # transformations of a flow, in posterior or prior
    flow_widths: tuple[int, ...]  # hidden units of each
    precision: str  # what networks compute in, a name in vae_jax.networks.PRECISIONS
    rematerialize: bool  # encoder and decoder keep less for the backward pass

    def __post_init__(self) -> None:
        _one_of("model.likelihood", self.likelihood, likelihoods.LIKELIHOODS)
        _one_of("model.network", self.network, networks.NETWORKS)
        _one_of("model.activation", self.activation, networks.ACTIVATIONS)
        _one_of("model.precision", self.precision, networks.PRECISIONS)
        _count("model.latent_dim", self.latent_dim, 1)
        for name in ("components", "prior_components", "flow_steps"):
            _count(f"model.{name}", getattr(self, name), 1)
        _at_least("model.fixed_scale", self.fixed_scale, 0, exclusive=True)
        for name in ("widths", "upper_layers", "layer_widths", "flow_widths"):
            for width in getattr(self, name):
                _count(f"model.{name}", width, 1)
        try:
            networks.NETWORKS.make(self.network, **self.network_options())
            self.families()
        except ValueError as error:
            raise SettingsError(f"model: {error}") from error

    def network_options(self) -> dict[str, Any]:
        """The fields above that this network has."""
        known = networks.NETWORKS.options(self.network)
        return {name: getattr(self, name) for name in known if hasattr(self, name)}

    def families(self) -> tuple[PosteriorFamily, PriorFamily]:
        """The posterior's and the prior's."""
        layers = (self.latent_dim, *self.upper_layers)
        options = {
            "activation": self.activation,
            "layer_widths": self.layer_widths,
            "flow_steps": self.flow_steps,
            "flow_widths": self.flow_widths,
            "components": self.prior_components,
        }
        return (
            make_posterior(self.posterior, layers, **options),
            make_prior(self.prior, layers, **options),
        )

    @property
    def can_be_padded(self) -> bool:
        """Whether models of different latent sizes can share a program."""
        return (self.posterior, self.prior) == ("diagonal", "standard_normal")

    def likelihood_options(self) -> dict[str, Any]:
        """The fields above that this likelihood has."""
        options: dict[str, dict[str, Any]] = {
            "gaussian_fixed": {"fixed_scale": self.fixed_scale},
            "logistic_mixture": {"components": self.components},
        }
        return options.get(self.likelihood, {})


@dataclasses.dataclass(frozen=True)
class TrainingSettings(Recipe):
    """A recipe, and the two settings that members of one program may differ in."""

    beta: float = 1.0  # the weight of the KL in training; never in what is reported
    learning_rate: float = 1e-3  # of Adam, where ``schedule`` starts from

    def __post_init__(self) -> None:
        _one_of("training.objective", self.objective, OBJECTIVES)
        _one_of("training.schedule", self.schedule, SCHEDULES)
        _one_of("training.on_non_finite", self.on_non_finite, ON_NON_FINITE)
        try:
            super().__post_init__()
        except ValueError as error:
            raise SettingsError(f"training.{error}") from error
        for field in dataclasses.fields(Recipe):
            value = getattr(self, field.name)
            if isinstance(value, int):
                _count(f"training.{field.name}", value, 0)
        _at_least("training.beta", self.beta, 0)
        _at_least("training.learning_rate", self.learning_rate, 0, exclusive=True)
        # Else a finite gradient could give a step that is not.
        if self.learning_rate > _LARGEST_RATE:
            raise SettingsError(
                f"training.learning_rate is {self.learning_rate}: it must be at most "
                f"{_LARGEST_RATE}."
            )

    def recipe(self) -> Recipe:
        names = (field.name for field in dataclasses.fields(Recipe))
        return Recipe(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    num_samples: int  # importance samples per test image
    chunk: int  # samples decoded together
    batch_size: int  # images evaluated together

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _count(f"evaluation.{field.name}", getattr(self, field.name), 1)


@dataclasses.dataclass(frozen=True)
class ParallelSettings:
    member_execution: str  # 'map', 'loop' or 'auto'
    members: int  # devices, or columns of them, that members are split over; 0: all
    batch: int  # devices that share the images of each batch
    memory_gib: float  # that a program may take on each device; 0: most of what it has

    def __post_init__(self) -> None:
        allowed = ("auto", *population.EXECUTIONS)
        _one_of("parallel.member_execution", self.member_execution, allowed)
        _count("parallel.members", self.members, 0)
        _count("parallel.batch", self.batch, 1)
        _at_least("parallel.memory_gib", self.memory_gib, 0)


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    # Both 0: only when a group has trained, or is asked to stop.
    every_epochs: int  # 0: by time alone
    every_seconds: float  # 0: by epochs alone
    keep: int  # number of checkpoints, of which a damaged one can be done without

    def __post_init__(self) -> None:
        _count("checkpoint.every_epochs", self.every_epochs, 0)
        _at_least("checkpoint.every_seconds", self.every_seconds, 0)
        _count("checkpoint.keep", self.keep, 1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything a run depends on."""

    seed: int
    data: DataSettings
    model: ModelSettings
    training: TrainingSettings
    evaluation: EvaluationSettings
    parallel: ParallelSettings
    checkpoint: CheckpointSettings
    diagnostics: DiagnosticsSettings

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"seed is {self.seed}: it must be in [0, 2**32).")
        _count("diagnostics.permutations", self.diagnostics.permutations, 0)
        if self.training.batch_size % self.parallel.batch:
            raise SettingsError(
                f"training.batch_size is {self.training.batch_size} and parallel.batch "
                f"is {self.parallel.batch}, which does not divide it: change one of "
                "them."
            )
        _check_objective(self.model, self.training)

    @classmethod
    def from_mapping(
        cls,
        mapping: Mapping[str, Any],
        checked: MutableMapping[int, Any] | None = None,
    ) -> "Settings":
        """Checked settings of a configuration without its ``sweep``.

        Args:
            mapping: the configuration.
            checked: groups of fields that were checked before, by the identity of their
                mappings, which the caller keeps; what is checked now is added.

        Raises:
            SettingsError: a field that is unknown, missing, of another type or out of
                range.
        """
        return _build(cls, mapping, "", {} if checked is None else checked)


@functools.lru_cache
def _check_objective(model: ModelSettings, training: TrainingSettings) -> None:
    """Refuses an objective that a model does not allow."""
    objective = training.objective
    if OBJECTIVES[objective].needs_closed_form_kl and not all(
        family.has_closed_form_kl for family in model.families()
    ):
        raise SettingsError(
            f"training.objective {objective!r} needs the KL in closed form, which "
            f"posterior {model.posterior!r} and prior {model.prior!r} do not have: "
            "choose 'elbo_log_weight', which estimates it."
        )
    if OBJECTIVES[objective].needs_diagonal_posterior and model.posterior != "diagonal":
        raise SettingsError(
            f"training.objective {objective!r} needs independent latents, which "
            f"posterior {model.posterior!r} does not have: choose 'diagonal', or "
            "the objective 'mmd'."
        )
    likelihood = likelihoods.make_likelihood(
        model.likelihood, levels=2, **model.likelihood_options()
    )
    try:
        training.check_likelihood(likelihood)
    except ValueError as error:
        raise SettingsError(f"training.{error}") from error


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The types of a class's fields, in their order."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _build(
    cls: type, mapping: Mapping[str, Any], path: str, checked: MutableMapping[int, Any]
) -> Any:
    hints = field_types(cls)
    refuse_unknown(mapping, hints, f"config.{path}")
    values = {}
    for name, hint in hints.items():
        if name not in mapping:
            raise SettingsError(f"config.{path}{name} is missing: give it a value.")
        value = mapping[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, Mapping):
                raise SettingsError(f"config.{path}{name} must be a group of fields.")
            if id(value) not in checked:
                checked[id(value)] = _build(hint, value, f"{path}{name}.", checked)
            values[name] = checked[id(value)]
        else:
            values[name] = convert(value, hint, f"config.{path}{name}")
    return cls(**values)


def plain(value: Any, name: str) -> Any:
    """Returns a value without what only Python files can give: it is as JSON has it.

    Arrays (all that have a ``tolist()``), lists and ranges become tuples, numbers of
    NumPy those of Python, at any depth of groups of fields and of tuples.

    Args:
        value: of a configuration, or a whole one.
        name: of its field, for messages.

    Raises:
        SettingsError: several values that have no order, or can be read but once.
    """
    if isinstance(value, Mapping):
        return {key: plain(value[key], f"{name}.{shown(key)}") for key in value}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple, range)):
        if value[_LARGEST_COUNT:]:
            raise SettingsError(
                f"{name} has too many values: give at most {_LARGEST_COUNT}."
            )
        return tuple(
            plain(item, f"{name}[{i}]" if isinstance(item, Mapping) else name)
            for i, item in enumerate(value)
        )
    if isinstance(value, Set):
        raise SettingsError(
            f"{name} is {value!r}, which has no order: write sorted(...) around it."
        )
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        raise SettingsError(
            f"{name} is {value!r}, of type {type(value).__name__}: write list(...) "
            "around it."
        )
    return value


def convert(value: Any, hint: Any, name: str) -> Any:
    """The value as the type a field declares.

    An int passes for a float, and what is ``plain`` for a tuple; nothing else is
    converted.

    Raises:
        SettingsError: another type, or a float that is not finite.
    """
    value = plain(value, name)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            raise SettingsError(f"{name} is {value!r}: give a tuple, as in (64, 64).")
        return tuple(convert(item, get_args(hint)[0], name) for item in value)
    if hint is float and type(value) in (int, float):
        if not -math.inf < value < math.inf or not _TINY <= (abs(value) or 1) <= _HUGE:
            raise SettingsError(
                f"{name} is {value}: it must be finite, and 0 or of a size that "
                f"float32 holds, {_TINY:.1e} to {_HUGE:.1e}."
            )
        return float(value)
    if type(value) is not hint:
        raise SettingsError(
            f"{name} is {value!r}, of type {type(value).__name__}: "
            f"it must be of type {hint.__name__}."
        )
    return value


def refuse_unknown(names: Iterable[Any], allowed: Iterable[str], path: str) -> None:
    """Refuses names that are not allowed.

    Args:
        names: of fields.
        allowed: those that there are.
        path: what stands before a name, in messages.

    Raises:
        SettingsError: naming the first unknown one, and the nearest.
    """
    allowed = set(allowed)
    for name in names:
        if name not in allowed:
            raise SettingsError(
                f"{path}{shown(name)} is unknown{suggest(name, allowed)}."
            )


def shown(name: Any) -> str:
    """The name of a field as messages have it: in quotes where it can be no name."""
    return name if isinstance(name, str) and name.isidentifier() else repr(name)


def _one_of(name: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise SettingsError(f"{name} {value!r} is unknown{suggest(value, allowed)}.")


def _count(name: str, value: int, smallest: int) -> None:
    _at_least(name, value, smallest)
    if value > _LARGEST_COUNT:
        raise SettingsError(f"{name} is {value}: it must be at most {_LARGEST_COUNT}.")


def _at_least(
    name: str, value: float, smallest: float, *, exclusive: bool = False
) -> None:
    if value < smallest or (exclusive and value == smallest):
        word = "above" if exclusive else "at least"
        raise SettingsError(f"{name} is {value}: it must be {word} {smallest}.")
