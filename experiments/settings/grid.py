"""A sweep's grid: named runs, and the groups of them that share a compiled program."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args

from experiments.files.digests import json_digest
from experiments.messages.errors import SettingsError, one_line
from experiments.messages.wording import counted, listed, plain_name
from experiments.settings.options import (
    KINDS,
    REGISTRIES,
    option_fields,
    refuse_sampling,
    refuse_unused,
    same_model,
    takers,
)
from experiments.settings.schema import Settings, build, field_types
from experiments.settings.values import (
    Options,
    convert,
    example,
    kind_of,
    plain,
    refuse_unknown,
)
from vae_jax.diffusion import SHARED_SCHEDULES

_SWEPT = ("model", "training")  # sections whose fields are axes
_SECTION_OF = {
    field: section
    for section in _SWEPT
    for field, hint in field_types(field_types(Settings)[section]).items()
    if hint is not Options
}
# The axes of a sweep: each has several values of the type of its field.
AXES: dict[str, Any] = {
    axis: tuple[hint, ...]  # type: ignore[valid-type]
    for cls in (Settings, *(field_types(Settings)[section] for section in _SWEPT))
    for axis, hint in field_types(cls).items()
    if axis == "seed" or axis in _SECTION_OF
}

# The axes that are options of a model's parts.
_OPTIONS = {
    axis: marker
    for section in _SWEPT
    for axis, marker in option_fields(field_types(Settings)[section]).items()
}

_MOST_RUNS = 100_000  # More is a slip, and would end in a lack of memory.
_LONGEST_NAME = 250  # File systems take 255 bytes.

# A run that meets values that are not finite is started at most so often.
MOST_ATTEMPTS = 4


@dataclasses.dataclass(frozen=True)
class Run:
    """One model to train: a name, unique in its sweep, and its resolved settings."""

    name: str
    settings: Settings


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that one compiled program trains."""

    runs: tuple[Run, ...]
    attempt: int = 0  # how often these runs were started before, with other keys

    @property
    def name(self) -> str:
        """A name for files, the same whenever these runs are grouped."""
        digest = json_digest([self.attempt, *(run.name for run in self.runs)])[:12]
        return f"{self.runs[0].settings.model.likelihood}-{digest}"

    @property
    def widest(self) -> Settings:
        """Settings of the run with the most latents: the shapes of the program."""
        members = [run.settings for run in self.runs]
        return max(members, key=lambda settings: settings.model.latent_dim)


def expand(config: Mapping[str, Any]) -> tuple[Run, ...]:
    """Returns the runs of a configuration: those of each grid of its sweep.

    Args:
        config: a whole configuration as a plain dictionary. ``sweep`` is a grid, or a
            sequence of grids. A grid maps axes to values, and its runs are their
            product; an axis is ``seed`` or any field of ``model`` or ``training``. An
            empty grid is one run. A run of several grids is counted once.

    Returns:
        Runs, named like ``likelihood=laplace,latent_dim=8,seed=0``, grid after grid.

    Raises:
        SettingsError: an unknown axis, one without values or with a value twice, any
            value that its field does not allow, or a run with two names.
    """
    hints = field_types(Settings)
    sections = [name for name, hint in hints.items() if dataclasses.is_dataclass(hint)]
    base = {name: value for name, value in config.items() if name != "sweep"}

    @functools.cache  # Many runs share a section, and checking it takes long.
    def section(name: str, **axes: Any) -> Any:
        given = base.get(name)
        own = {**given, **axes} if isinstance(given, Mapping) else given
        return build(own, hints[name], f"config.{name}")

    grids = _grids(config.get("sweep"))
    base |= {name: section(name) for name in sections if name not in _SWEPT}
    runs: dict[Settings, Run] = {}
    for place, grid in grids.items():
        for combination in itertools.product(*grid.values()):
            chosen = dict(zip(grid, combination, strict=True))
            whole = base | {axis: chosen[axis] for axis in chosen if axis == "seed"}
            for name in _SWEPT:
                axes = {a: v for a, v in chosen.items() if _SECTION_OF.get(a) == name}
                whole[name] = section(name, **axes)
            settings: Settings = build(whole, Settings, "config")
            run = Run(_name(place, grid, settings), settings)
            first = runs.setdefault(same_model(settings), run)
            if first.name != run.name:
                raise SettingsError(
                    f"{place} holds a run twice: {run.name} is the model of "
                    f"{first.name}. Leave one of them out, or give an axis that only "
                    "some parts take a grid of its own, config.sweep=[{...}, {...}]."
                )
    every = [run.settings for run in runs.values()]
    refuse_unused(every)
    refuse_sampling(every)
    return tuple(runs.values())


def _grids(sweep: Any) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Returns the checked grids of a sweep, by their places in the configuration."""
    if isinstance(sweep, Mapping):
        places = {"config.sweep": sweep}
    else:
        sweep = plain(sweep, "config.sweep")
        if not isinstance(sweep, tuple):
            given = "missing" if sweep is None else repr(sweep)
            raise SettingsError(
                f"config.sweep is {given}: it must be a group, or several."
            )
        places = {f"config.sweep[{index}]": grid for index, grid in enumerate(sweep)}
    example = "as in {'seed': (0, 1)}"
    if not places:
        raise SettingsError(
            f"config.sweep is empty: give at least one grid, {example}."
        )
    grids = {}
    for place, grid in places.items():
        if not isinstance(grid, Mapping):
            why = "it must be a grid, which maps axes to values"
            raise SettingsError.of(place, grid, why, f"Give it {example}")
        axes = sorted(grid, key=_axis_order)
        grids[place] = {axis: _values(f"{place}.", axis, grid[axis]) for axis in axes}
    count = sum(math.prod(map(len, grid.values())) for grid in grids.values())
    if count > _MOST_RUNS:
        raise SettingsError(
            f"config.sweep has {count:,} runs: give at most {_MOST_RUNS:,} at a time."
        )
    return grids


def _name(place: str, grid: Iterable[str], settings: Settings) -> str:
    """Returns the name of a run: its value on each axis of its grid."""
    name = ",".join(f"{axis}={_text(settings, axis)}" for axis in grid) or "model"
    if plain_name(name) != name or "/" in name:
        raise SettingsError(
            f"the name of a run is {name!r}: it holds characters with a meaning in "
            "file names or tables. Register the part by another name."
        )
    if len(name) > _LONGEST_NAME:
        raise SettingsError(
            f"the name of a run of {place} is {name}: it has {len(name)} letters, and "
            f"that of a folder at most {_LONGEST_NAME}. Sweep over fewer fields at a "
            "time."
        )
    return name


def setting(name: str) -> dict[str, str]:
    """Returns the axes in a run's name, without likelihood, latent size and seed.

    The values are as in the name. Runs with the same values, likelihood and latent size
    differ in their seed only.
    """
    pairs = (part.partition("=") for part in name.split(",") if "=" in part)
    return {
        axis: value
        for axis, _, value in pairs
        if axis not in ("likelihood", "latent_dim", "seed")
    }


def point(settings: Settings) -> dict[str, str]:
    """Returns the value on every axis that a sweep may have, as in a run's name."""
    return {axis: _text(settings, axis) for axis in AXES}


def has_effect(axis: str, values: Mapping[str, Any]) -> bool:
    """Returns whether a value on an axis reaches a model; True if that is not known.

    Args:
        axis: a field of ``model`` or ``training``.
        values: the names of the model's parts, by kind, as far as they are known.
    """
    marker = _OPTIONS.get(axis)
    if marker is None:
        return True
    taking = takers(marker)
    parts = [(kind, values.get(kind)) for kind in {kind for kind, _ in taking}]
    unknown = (name not in REGISTRIES[kind] for kind, name in parts)
    return any(unknown) or any(part in taking for part in parts)


def _axis_order(axis: str) -> tuple[int, str]:
    """Sorts likelihood and latent size first, seed last: names of all sweeps agree."""
    return {"likelihood": 0, "latent_dim": 1, "seed": 3}.get(axis, 2), str(axis)


def _values(path: str, axis: str, values: Any) -> tuple[Any, ...]:
    """Returns the values of an axis.

    Args:
        path: of its grid, for messages: 'config.sweep.'.
        axis: its name.
        values: one value or several.

    Raises:
        SettingsError: there is no such axis, or it has no values, or other ones.
    """
    name = f"{path}{axis}"
    if axis in (f"{kind}_options" for kind in KINDS if kind in AXES):
        raise SettingsError(
            f"{name} is no axis: options by name are the same in all runs. Register "
            "the part once more, as functools.partial(PART, OPTION=VALUE), and sweep "
            "over the names."
        )
    refuse_unknown([axis], AXES, path)
    values = plain(values, name)
    if not isinstance(values, tuple):
        values = (values,)
    # Names may be one text, 'beta,laplace': older configurations are stored so.
    parts: list[Any] = []
    for value in values:
        parts += map(str.strip, value.split(",")) if isinstance(value, str) else [value]
    values = tuple(parts)
    if not values:
        some = example(AXES[axis], None).strip("'\"")  # Only a shell needs quotes.
        raise SettingsError(f"{name} is empty: give at least one value, as in {some}.")
    is_of_tuples = kind_of(get_args(AXES[axis])[0]) is tuple
    if is_of_tuples and not all(isinstance(value, tuple) for value in values):
        why = "each of its values is a tuple itself"
        raise SettingsError.of(name, values, why, "Give it as in ((64, 64), (128,))")
    found: tuple[Any, ...] = convert(values, AXES[axis], name)
    if len(set(found)) < len(found):
        why, remedy = "a value occurs twice", "Give each value once"
        raise SettingsError.of(name, found, why, remedy)
    return found


def _text(settings: Settings, axis: str) -> str:
    value = _value(settings, axis)
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(settings: Settings, axis: str) -> Any:
    section = settings if axis == "seed" else getattr(settings, _SECTION_OF[axis])
    return getattr(section, axis)


def group(
    runs: Iterable[Run], attempts: Mapping[str, int] = MappingProxyType({})
) -> tuple[Group, ...]:
    """Returns runs in groups that share a program, in the order of their first runs.

    Args:
        runs: the runs.
        attempts: how often runs were started before, by name, where that is not 0.
    """
    groups: dict[tuple[int, Settings], list[Run]] = {}
    for run in runs:
        key = attempts.get(run.name, 0), _program(run.settings)
        groups.setdefault(key, []).append(run)
    return tuple(
        Group(tuple(members), attempt) for (attempt, _), members in groups.items()
    )


def _program(settings: Settings) -> Settings:
    """Returns the settings with every vmapped field reset.

    These are seed, beta, learning rate and, if it can be padded, the latent size: runs
    whose results are equal share a program (``vae_jax.training.Member``). And of a
    chain of latents its steps and a schedule that is linear or cosine.
    """
    model = settings.model
    if model.prior == "diffusion":
        model = _replaced(model, noise_steps=0)
        if model.noise_schedule in SHARED_SCHEDULES:
            model = _replaced(model, noise_schedule="linear")
    if model.can_be_padded:
        model = _replaced(model, latent_dim=1)
    training = _replaced(settings.training, beta=1.0, learning_rate=1.0)
    return dataclasses.replace(settings, seed=0, model=model, training=training)


# Many runs share a section, and checking it takes long.
_replaced = functools.lru_cache(dataclasses.replace)


def choose(runs: Sequence[Run], only: str, option: str = "--only") -> tuple[Run, ...]:
    """Returns the runs that a selection names.

    Args:
        runs: the runs of a sweep.
        only: terms separated by spaces, each an index as listed (``3``), a range
            (``0-11``) or a part of a name (``latent_dim=8``, several joined by commas
            must all hold); empty: all.
        option: the option that gives the selection, for messages.

    Raises:
        SettingsError: a term that fits no run.
    """
    if not only.strip():
        return tuple(runs)
    chosen: set[int] = set()
    places: dict[str, set[int]] = {}
    for index, run in enumerate(runs):
        for part in run.name.split(","):
            places.setdefault(part, set()).add(index)
    for term in only.split():
        first, dash, last = term.partition("-")
        if first.isdecimal() and (last.isdecimal() or not dash):
            # A float reads any number of digits.
            start, end = (
                int(min(float(digits), len(runs))) for digits in (first, last or first)
            )
            hits = set(range(start, min(end + 1, len(runs))))
        else:
            parts = (places.get(part, set()) for part in term.split(","))
            hits = set.intersection(*parts)
        if not hits:
            remedy = "Use an index, a range or a part of a name"
            if runs:
                remedy += f", such as 0-{len(runs) - 1} or {runs[0].name}"
            why = f"it fits none of the {len(runs)} runs"
            raise SettingsError.of(option, term, why, remedy)
        chosen |= hits
    return tuple(run for i, run in enumerate(runs) if i in chosen)


def one_of(runs: Sequence[Run], name: str, axes: Mapping[str, Any]) -> Run:
    """Returns the one run with a name, or with these values.

    Args:
        runs: the runs of a sweep.
        name: of the run; '' if the values say which it is.
        axes: values of ``seed`` and of fields of ``model`` and ``training``.

    Raises:
        SettingsError: an unknown field, no run that fits, or several.
    """
    if not isinstance(name, str):
        remedy = f"Give the name of a run, such as {runs[0].name!r}"
        raise SettingsError.of("run", name, "it is no name", remedy)
    refuse_unknown(axes, AXES, "")
    wanted = {
        axis: convert(value, get_args(AXES[axis])[0], axis)
        for axis, value in axes.items()
    }
    found = [
        run
        for run in runs
        if name in ("", run.name)
        and all(_value(run.settings, axis) == wanted[axis] for axis in wanted)
    ]
    if len(found) == 1:
        return found[0]
    named = [f"the run {one_line(name)}"] * bool(name)
    given = [*named, *(f"{axis}={wanted[axis]}" for axis in wanted)]
    among = listed([run.name for run in found or runs], " or ")
    raise SettingsError(
        f"{', '.join(given) or 'an empty choice'} fits {len(found)} of "
        f"{counted(len(runs), 'run')}. Choose {among}."
    )
