"""Options of a model's parts: the fields of a configuration that reach each part.

A part (likelihood, network, posterior, prior, objective, sampler) takes options. Every
field that is marked with an ``Option`` goes to each part with an option of that name;
an option without a field is given by name, in ``KIND_options``.
"""

import dataclasses
import functools
import inspect
from collections.abc import Container, Sequence
from typing import Annotated, Any, TypeVar

from experiments.messages.errors import SettingsError
from experiments.settings.values import Options, convert, prefixed
from vae_jax.checks import require_declared
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.networks import NETWORKS
from vae_jax.objectives import OBJECTIVES
from vae_jax.posteriors import POSTERIORS
from vae_jax.priors import PRIORS, priors_of
from vae_jax.registry import Registry, refuse_option
from vae_jax.samplers import SAMPLERS

REGISTRIES: dict[str, Registry[Any]] = {
    "likelihood": LIKELIHOODS,
    "network": NETWORKS,
    "posterior": POSTERIORS,
    "prior": PRIORS,
    "objective": OBJECTIVES,
    "sampler": SAMPLERS,
}
KINDS = tuple(REGISTRIES)  # of parts


@dataclasses.dataclass(frozen=True)
class Option:
    """Marks a field as an option of parts.

    Attributes:
        name: of the option; '': that of the field.
        kinds: of the parts that may take it.
    """

    name: str = ""
    kinds: tuple[str, ...] = KINDS


_Type = TypeVar("_Type")
ForParts = Annotated[_Type, Option()]


def option_fields(cls: type) -> dict[str, Option]:
    """Returns the fields of a section that are options of parts."""
    return {
        field.name: dataclasses.replace(marker, name=marker.name or field.name)
        for field in dataclasses.fields(cls)
        for marker in getattr(field.type, "__metadata__", ())
        if isinstance(marker, Option)
    }


def takers(marker: Option) -> dict[tuple[str, str], inspect.Parameter]:
    """Returns the parts that take an option, by (kind, name), with its declaration."""
    return {
        (kind, name): REGISTRIES[kind].options(name)[marker.name]
        for kind in marker.kinds
        for name in REGISTRIES[kind].takers(marker.name)
    }


def part_options(section: Any, kind: str) -> dict[str, Any]:
    """Returns the options that a section gives to its part of a kind.

    These are the fields that the part takes, and those of ``KIND_options``.

    Raises:
        ValueError: an option by name that the part does not have, or that is a field.
    """
    registry, name = _registry(section, kind), getattr(section, kind)
    known = registry.options(name)
    fields = fields_of(type(section), kind, known)
    own = dict(getattr(section, f"{kind}_options"))
    for option, value in own.items():
        path = f"{kind}_options.{option}"
        if option not in known:
            refuse_option(option, value, [(registry, name)], field=path)
        if field := fields.get(option):
            raise ValueError(
                f"{path} is {value!r}: it is the field {field}. Set that instead."
            )
        usual = type(known[option].default)
        if usual in (bool, int, float, str):  # Others would fail within a program.
            try:
                own[option] = convert(value, usual, path)
            except SettingsError as error:  # The section stands before its field.
                raise ValueError(str(error)) from error
        require_declared(path, own[option], known[option].annotation)
    return {option: getattr(section, field) for option, field in fields.items()} | own


def fitted_prior_options(model: Any, prior: str) -> dict[str, Any]:
    """Returns the options of another prior that is fitted to a trained model."""
    fields = fields_of(type(model), "prior", PRIORS.options(prior))
    return {option: getattr(model, field) for option, field in fields.items()}


def fields_of(cls: type, kind: str, known: Container[str]) -> dict[str, str]:
    """Returns the known options of a part that are fields of a section, and these."""
    return {
        marker.name: field
        for field, marker in option_fields(cls).items()
        if kind in marker.kinds and marker.name in known
    }


def _registry(section: Any, kind: str) -> Registry[Any]:
    """Returns the registry in which a section names its part of a kind."""
    if kind == "prior":
        return priors_of(section.prior, (section.latent_dim, *section.upper_layers))
    return REGISTRIES[kind]


# --- fields without an effect ---------------------------------------------------------


@functools.lru_cache
def _without_effect(section: Any) -> dict[str, Any]:
    """Returns the fields of a section that none of its parts takes, with defaults.

    A field at its default counts as not given, and is left out.
    """
    taken: set[str] = set()
    for kind in KINDS:
        if hasattr(section, kind):
            known = _registry(section, kind).options(getattr(section, kind))
            taken.update(fields_of(type(section), kind, known).values())
    found = {}
    for field, marker in option_fields(type(section)).items():
        default = next(iter(takers(marker).values())).default
        if field not in taken and getattr(section, field) != default:
            found[field] = default
    return found


def same_model(settings: Any) -> Any:
    """Returns settings in which fields without an effect have their defaults.

    Settings of the same model and training are then equal.
    """
    sections = {name: getattr(settings, name) for name in ("model", "training")}
    changes = {
        name: dataclasses.replace(section, **unused)
        for name, section in sections.items()
        if (unused := _without_effect(section))
    }
    return dataclasses.replace(settings, **changes) if changes else settings


def refuse_unused(every: Sequence[Any]) -> None:
    """Refuses a field that is given, but that no run of a sweep takes.

    Args:
        every: the settings of each run.

    Raises:
        SettingsError: naming the first one, its parts, and the remedy.
    """
    for name in ("model", "training", "evaluation"):
        sections = {getattr(settings, name): None for settings in every}
        unused = [_without_effect(section) for section in sections]
        common = set(unused[0]).intersection(*unused[1:]) if unused else ()
        for field in sorted(common):
            marker = option_fields(type(next(iter(sections))))[field]
            kinds = dict.fromkeys(kind for kind, _ in takers(marker))
            used = {
                (kind, getattr(each, kind)): 0 for kind in kinds for each in sections
            }
            parts = [(REGISTRIES[kind], part) for kind, part in used]
            value = getattr(getattr(every[0], name), field)
            neutral = f"Leave it at {unused[0][field]!r}"
            with prefixed(f"config.{name}."):
                refuse_option(marker.name, value, parts, field=field, neutral=neutral)


# The fields of ``evaluation`` that say how a chain of latents is sampled.
OF_CHAINS = ("sampler", "sampler_steps", "sampler_options", "guidance")


def refuse_sampling(every: Sequence[Any]) -> None:
    """Refuses a sampler or guidance that is given, but that no run of a sweep allows.

    Args:
        every: the settings of each run.

    Raises:
        SettingsError: naming the first such field, and the remedy.
    """
    evaluation = every[0].evaluation
    values, defaults = (
        {name: getattr(owner, name) for name in OF_CHAINS}
        for owner in (evaluation, type(evaluation))
    )
    given = [name for name in OF_CHAINS if values[name] != defaults[name]]
    if not given:
        return
    models = (model.example for model in {settings.model for settings in every})
    chains = [model for model in models if not model.has_density]
    name, why = given[0], "no model of the sweep is a chain of latents"
    remedy = "set config.model.prior and config.training.objective to 'diffusion'"
    if chains:
        if "guidance" not in given or any(chain.can_be_guided for chain in chains):
            return
        name, why = "guidance", "no chain of the sweep learns to do without the class"
        remedy = (
            "set config.model.condition_on to 'label' and config.model.label_dropout "
            "to a share such as 0.1"
        )
    value, default = (
        dict(each[name]) if isinstance(each[name], Options) else each[name]
        for each in (values, defaults)
    )
    remedy = f"Leave it at {default!r}, or {remedy}"
    raise SettingsError.of(f"config.evaluation.{name}", value, why, remedy)
