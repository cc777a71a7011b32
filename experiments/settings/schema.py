"""Settings: a configuration checked once, at the boundary, and frozen.

``configs/`` holds the values, this module what they may be. Jitted code never sees a
ConfigDict, and nothing is computed before every value has passed.
"""

import dataclasses
import functools
import math
from collections.abc import Container, Iterable, Mapping, MutableMapping, Sequence, Set
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from experiments.data.settings import DataSettings
from experiments.messages.errors import SettingsError
from experiments.messages.wording import listed, suggest
from vae_jax import networks, population
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.model import VAE, make_vae
from vae_jax.networks import NETWORKS
from vae_jax.objectives import OBJECTIVES
from vae_jax.posteriors import POSTERIORS
from vae_jax.priors import PRIORS, priors_of
from vae_jax.registry import Registry
from vae_jax.training import ON_NON_FINITE, SCHEDULES, TrainingConfig, TrainingPlan

_TINY, _HUGE = (
    float(size) for size in (np.finfo(np.float32).tiny, np.finfo(np.float32).max)
)

_LARGEST_RATE = 1000.0
_LARGEST_COUNT = 1_000_000  # More is a slip, and would end in a lack of memory.


class Options(tuple[tuple[str, Any], ...]):
    """Options of a part by name, as sorted pairs: hashable, unlike a dictionary."""


_NO_OPTIONS = Options()


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
    posterior: str  # a name in vae_jax.posteriors.POSTERIORS
    upper_layers: tuple[int, ...]  # latents of further stochastic layers, upwards
    layer_widths: tuple[int, ...]  # hidden units between two of them
    prior: str  # a name in vae_jax.priors.PRIORS
    prior_components: int  # of a mixture, or pseudo-inputs of a VampPrior
    flow_steps: int  # transformations of a flow, in posterior or prior
    flow_widths: tuple[int, ...]  # hidden units of each
    precision: str  # what networks compute in, a name in vae_jax.networks.PRECISIONS
    rematerialize: bool  # encoder and decoder keep less for the backward pass
    # Options of a part that have no field above, by name.
    likelihood_options: Options = _NO_OPTIONS
    network_options: Options = _NO_OPTIONS
    posterior_options: Options = _NO_OPTIONS
    prior_options: Options = _NO_OPTIONS

    def __post_init__(self) -> None:
        for kind, registry in _REGISTRIES.items():
            if kind != "objective":
                _part(f"model.{kind}", getattr(self, kind), registry)
        _part("model.activation", self.activation, networks.ACTIVATIONS)
        _one_of("model.precision", self.precision, networks.PRECISIONS)
        _count("model.latent_dim", self.latent_dim, 1)
        for name in ("components", "prior_components", "flow_steps"):
            _count(f"model.{name}", getattr(self, name), 1)
        _at_least("model.fixed_scale", self.fixed_scale, 0, exclusive=True)
        for name in ("widths", "upper_layers", "layer_widths", "flow_widths"):
            for width in getattr(self, name):
                _count(f"model.{name}", width, 1)
        # Of images that are small enough for any network, and of any kind.
        self.build(image_shape=(8, 8, 1), levels=2)

    def build(self, image_shape: tuple[int, int, int], levels: int) -> VAE:
        """Returns the model, for images of a shape and a number of levels.

        Raises:
            SettingsError: parts or options that make no sense together.
        """
        try:
            return _make_vae(self, image_shape, levels)
        except ValueError as error:
            raise SettingsError(f"model: {error}") from error

    @property
    def can_be_padded(self) -> bool:
        """Whether models of different latent sizes can share a program."""
        return self.build(image_shape=(8, 8, 1), levels=2).can_be_padded


@functools.lru_cache(maxsize=1024)
def _make_vae(
    model: ModelSettings, image_shape: tuple[int, int, int], levels: int
) -> VAE:
    kinds = "likelihood", "network", "posterior", "prior"
    options = {kind: part_options(model, kind) for kind in kinds}
    return make_vae(
        LIKELIHOODS.make(model.likelihood, levels, **options["likelihood"]),
        image_shape=image_shape,
        latent_dim=model.latent_dim,
        network=model.network,
        posterior=model.posterior,
        prior=model.prior,
        upper_layers=model.upper_layers,
        ignore_x=model.ignore_x,
        network_options=options["network"],
        posterior_options=options["posterior"],
        prior_options=options["prior"],
    )


@dataclasses.dataclass(frozen=True)
class TrainingSettings(TrainingPlan):
    """A plan, an objective by name, and the settings that members may differ in."""

    objective: str = "elbo"  # a name in vae_jax.objectives.OBJECTIVES
    num_samples: int = 1  # latent samples per image
    free_bits: float = 0.0  # nats of each latent's KL that cost nothing in training
    capacity: float = 0.0  # nats that each image's KL is drawn to in training
    num_groups: int = 1  # of miwae and piwae: averages over so many bounds
    mixing: float = 0.0  # of ciwae: weight of the ELBO
    alpha: float = 0.0  # of renyi: order of the divergence
    partitions: int = 1  # of thermodynamic: points of the integral
    mmd_weight: float = 0.0  # of mmd: weight of the squared MMD of q(z) from the prior
    objective_options: Options = _NO_OPTIONS  # that have no field above, by name
    beta: float = 1.0  # the weight of the KL in training; never in what is reported
    learning_rate: float = 1e-3  # of Adam, where ``schedule`` starts from

    def __post_init__(self) -> None:
        _part("training.objective", self.objective, OBJECTIVES)
        _one_of("training.schedule", self.schedule, SCHEDULES)
        _one_of("training.on_non_finite", self.on_non_finite, ON_NON_FINITE)
        try:
            super().__post_init__()
            self.config()
        except ValueError as error:
            raise SettingsError(f"training.{error}") from error
        for field in dataclasses.fields(self):
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

    def config(self) -> TrainingConfig:
        """Returns the configuration that the members of a program share."""
        names = (field.name for field in dataclasses.fields(TrainingPlan))
        return TrainingConfig(
            **{name: getattr(self, name) for name in names},
            objective=OBJECTIVES.make(
                self.objective, **part_options(self, "objective")
            ),
        )


_REGISTRIES: dict[str, Registry[Any]] = {
    "likelihood": LIKELIHOODS,
    "network": NETWORKS,
    "posterior": POSTERIORS,
    "prior": PRIORS,
    "objective": OBJECTIVES,
}

KINDS = tuple(_REGISTRIES)  # of parts

# Fields that are options: of every part that has an option of this name.
_OPTION_FIELDS = (
    "fixed_scale",
    "components",
    "widths",
    "activation",
    "precision",
    "rematerialize",
    "layer_widths",
    "flow_steps",
    "flow_widths",
    "prior_components",
    "num_samples",
    "free_bits",
    "capacity",
    "num_groups",
    "mixing",
    "alpha",
    "partitions",
    "mmd_weight",
)


def _option(field: str, kind: str) -> str:
    """The option of parts of a kind that a field is."""
    if kind == "prior":  # 'components' are the likelihood's.
        return {"components": "", "prior_components": "components"}.get(field, field)
    return field


def _taken(section: Any, kind: str, known: Container[str]) -> dict[str, str]:
    """The fields of a section that are options of a part, and which."""
    fields = {field: _option(field, kind) for field in _OPTION_FIELDS}
    return {
        field: option
        for field, option in fields.items()
        if option in known and hasattr(section, field)
    }


def part_options(section: Any, kind: str) -> dict[str, Any]:
    """Returns the options that a section gives to its part of a kind.

    Every field that the part takes, and those of the field ``KIND_options``.
    """
    known = _parameters(section, kind)
    fields = _taken(section, kind, known)
    own = dict(getattr(section, f"{kind}_options"))
    for field, option in fields.items():
        if option in own:
            raise ValueError(
                f"{kind}_options has {option}, which is the field {field}: set "
                f"{field} instead."
            )
    for option, value in own.items():
        usual = type(known[option].default) if option in known else None
        if usual in (bool, int, float, str):  # Its part would fail within a program.
            own[option] = convert(value, usual, f"{kind}_options.{option}")
    return {option: getattr(section, field) for field, option in fields.items()} | own


def fitted_prior_options(model: ModelSettings, prior: str) -> dict[str, Any]:
    """Returns the options of another prior that is fitted to a trained model."""
    fields = _taken(model, "prior", PRIORS.options(prior))
    return {option: getattr(model, field) for field, option in fields.items()}


def _parameters(section: Any, kind: str) -> Mapping[str, Any]:
    """The options, by name, of a section's part of a kind."""
    name, registry = getattr(section, kind), _REGISTRIES[kind]
    if kind == "prior":
        registry = priors_of(name, (section.latent_dim, *section.upper_layers))
    return registry.options(name)


@functools.lru_cache
def _without_effect(section: Any) -> dict[str, Any]:
    """The fields of a section that no part of it takes, with their defaults.

    Of those that have another value: a field at its default counts as not given.
    """
    kinds = [kind for kind in _REGISTRIES if hasattr(section, kind)]
    taken = set().union(
        *(_taken(section, kind, _parameters(section, kind)) for kind in kinds)
    )
    return {
        field: default
        for field in _OPTION_FIELDS
        if hasattr(section, field)
        and field not in taken
        and getattr(section, field) != (default := _parts_with(field)[0][2])
    }


def _parts_with(field: str) -> list[tuple[str, str, Any]]:
    """The parts that take a field as an option: (kind, name, default)."""
    return [
        (kind, name, registry.options(name)[option].default)
        for kind, registry in _REGISTRIES.items()
        if (option := _option(field, kind))
        for name in registry.takers(option)
    ]


def same_model(settings: "Settings") -> "Settings":
    """Returns settings of which those of the same model and training are equal."""
    sections = {name: getattr(settings, name) for name in ("model", "training")}
    changes = {
        name: dataclasses.replace(section, **unused)
        for name, section in sections.items()
        if (unused := _without_effect(section))
    }
    return dataclasses.replace(settings, **changes) if changes else settings


def refuse_unused(every: Sequence["Settings"]) -> None:
    """Refuses a field that is given, but that no run of a sweep takes.

    Raises:
        SettingsError: naming the first one, its parts, and the remedy.
    """
    for name in ("model", "training"):
        sections = {getattr(settings, name) for settings in every}
        unused = [_without_effect(section) for section in sections]
        common = set(unused[0]).intersection(*unused[1:]) if unused else set()
        for field in sorted(common):
            able = _parts_with(field)
            kinds = dict.fromkeys(kind for kind, _, _ in able)
            used = {(kind, getattr(own, kind)) for own in sections for kind in kinds}
            parts = [f"{kind} {part!r}" for kind, part in sorted(used)]
            value = getattr(getattr(every[0], name), field)
            raise SettingsError(
                f"{name}.{field} is {value!r}: {listed(parts, ', ')} "
                f"{'has' if len(parts) == 1 else 'have'} no such option. Leave it at "
                f"{unused[0][field]!r}, or choose "
                f"{listed([f'{kind} {part!r}' for kind, part, _ in able], ' or ')}."
            )


@dataclasses.dataclass(frozen=True)
class DiagnosticsSettings:
    """Which diagnostics are computed of every model; columns of others are empty."""

    latents: bool  # the average KL in parts
    permutations: int  # of the two-sample test of q(z) against p(z); 0: no test
    floor: bool  # what a decoder without latents reaches, and the verdict on collapse
    probes: bool  # how much of a label the latents tell, where there are labels


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
    # The next group compiles while one trains. False where that slows training, as
    # where compiling tries out programs on the same GPU.
    compile_ahead: bool = True

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
    objective = training.config().objective
    try:
        objective.check(model.build(image_shape=(8, 8, 1), levels=2))
    except ValueError as error:
        name = type(objective).__name__
        line = str(error).replace(name, repr(training.objective), 1)
        raise SettingsError(f"training.{line}") from error


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
        if name not in mapping and hint is Options:
            continue
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
    if hint is Options:
        if not isinstance(value, Mapping) and value != ():
            raise SettingsError(f"{name} is {value!r}: it must be a group of options.")
        return Options(sorted(dict(value).items()))
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


def _part(name: str, value: str, registered: Iterable[str]) -> None:
    """Refuses the name of a part that is not registered."""
    try:
        _one_of(name, value, registered)
    except SettingsError as error:
        raise SettingsError(
            f"{error} If it is your own, name the module that registers it, as in "
            "--parts=my_parts.py."
        ) from None


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
