"""A sweep's grid: named runs, and the groups of them that share a compiled program."""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_origin

from experiments.messages.errors import SettingsError
from experiments.messages.wording import plain_name
from experiments.settings.schema import (
    KINDS,
    ModelSettings,
    Options,
    Settings,
    TrainingSettings,
    convert,
    field_types,
    plain,
    refuse_unknown,
    refuse_unused,
    same_model,
)

_MOST_RUNS = 100_000  # More is a slip, and would end in a lack of memory.
_LONGEST_NAME = 250  # File systems take 255 bytes.

# So often a run that meets values that are not finite is begun, with other keys.
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
    attempt: int = 0  # how often these runs were begun before, with other keys

    @property
    def name(self) -> str:
        """A name for files, the same whenever these runs are grouped."""
        text = json.dumps([self.attempt, *(run.name for run in self.runs)])
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.runs[0].settings.model.likelihood}-{digest}"

    @property
    def widest(self) -> Settings:
        """Settings of the run with the most latents: the shapes of the program."""
        return max(
            (run.settings for run in self.runs), key=lambda s: s.model.latent_dim
        )


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
    given = _grids(config.get("sweep"))
    for name in ("model", "training"):
        if not isinstance(config.get(name), Mapping):
            raise SettingsError(f"config.{name} is missing: it must be a group.")
    grids = {
        place: {
            axis: _values(f"{place}.", axis, grid[axis])
            for axis in sorted(grid, key=_axis_order)
        }
        for place, grid in given.items()
    }
    count = sum(math.prod(map(len, grid.values())) for grid in grids.values())
    if count > _MOST_RUNS:
        raise SettingsError(
            f"config.sweep has {count:,} runs: give at most {_MOST_RUNS:,} at a time."
        )
    base = {name: value for name, value in config.items() if name != "sweep"}
    runs: dict[Settings, Run] = {}
    checked: dict[int, Any] = {}
    # What combinations share is one object, and checked once: that is what takes long.
    sections: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for place, grid in grids.items():
        names: set[str] = set()
        for combination in itertools.product(*map(enumerate, grid.values())):
            chosen = dict(zip(grid, combination, strict=True))
            whole = dict(base)
            for section in ("model", "training"):
                own = [axis for axis in grid if _SECTION_OF.get(axis) == section]
                key = place, section, *(chosen[axis][0] for axis in own)
                if key not in sections:
                    values = {axis: chosen[axis][1] for axis in own}
                    sections[key] = {**base[section], **values}
                whole[section] = sections[key]
            if "seed" in chosen:
                _, whole["seed"] = chosen["seed"]
            settings = Settings.from_mapping(whole, checked)
            name = _name(place, grid, settings)
            if name in names:
                raise SettingsError(
                    f"{place} holds a value twice: {name} occurs again; give each "
                    "value once."
                )
            names.add(name)
            first = runs.setdefault(same_model(settings), Run(name, settings))
            if first.name != name:
                raise SettingsError(
                    f"{place} holds a run twice: {name} is the model of {first.name}. "
                    "Leave one of them out; give an axis that only some parts take in "
                    "a grid of its own, config.sweep=[{...}, {...}]."
                )
    refuse_unused([run.settings for run in runs.values()])
    return tuple(runs.values())


def _grids(sweep: Any) -> dict[str, Mapping[str, Any]]:
    """Returns the grids of a sweep by their places in the configuration."""
    if isinstance(sweep, Mapping):
        return {"config.sweep": sweep}
    sweep = plain(sweep, "config.sweep")
    if not isinstance(sweep, tuple):
        given = "missing" if sweep is None else repr(sweep)
        raise SettingsError(f"config.sweep is {given}: it must be a group, or several.")
    if not sweep:
        raise SettingsError(
            "config.sweep is empty: give at least one grid, as in {'seed': (0, 1)}."
        )
    for index, grid in enumerate(sweep):
        if not isinstance(grid, Mapping):
            raise SettingsError(
                f"config.sweep[{index}] is {grid!r}: it must be a grid, which maps "
                "axes to values. Give it as in {'seed': (0, 1)}."
            )
    return {f"config.sweep[{index}]": grid for index, grid in enumerate(sweep)}


def _name(place: str, grid: Iterable[str], settings: Settings) -> str:
    """Returns the name of a run: its value on each axis of its grid."""
    name = ",".join(f"{axis}={_text(settings, axis)}" for axis in grid) or "model"
    if plain_name(name) != name or "/" in name:
        raise SettingsError(
            f"the run's name {name!r} holds characters that have a meaning in file "
            "names or tables: give the part that it names another name."
        )
    if len(name) > _LONGEST_NAME:
        raise SettingsError(
            f"{place} has so many axes that a run's name, {name}, has "
            f"{len(name)} letters: folders bear it, so at most {_LONGEST_NAME} "
            "are allowed; sweep over fewer fields at a time."
        )
    return name


_SECTION_OF = {
    field: section
    for section, cls in (("model", ModelSettings), ("training", TrainingSettings))
    for field, hint in field_types(cls).items()
    if hint is not Options
}


# Of a sweep.
AXES = ("seed", *_SECTION_OF)


def setting(name: str) -> dict[str, str]:
    """What a run's name says besides likelihood, latent size and seed.

    Returns:
        Values by axis, as they are written in the name: runs that agree in them, in
        likelihood and in latent size differ in their seed only.
    """
    pairs = (part.partition("=") for part in name.split(",") if "=" in part)
    return {
        axis: value
        for axis, _, value in pairs
        if axis not in ("likelihood", "latent_dim", "seed")
    }


def _axis_order(axis: str) -> tuple[int, str]:
    """Likelihood and latent size first, seed last: names read alike in every sweep."""
    return {"likelihood": 0, "latent_dim": 1, "seed": 3}.get(axis, 2), str(axis)


def _values(path: str, axis: str, values: Any) -> tuple[Any, ...]:
    if axis in (f"{kind}_options" for kind in KINDS):
        raise SettingsError(
            f"{path}{axis} is no axis: options by name are the same in all runs. "
            "Register the part once more, as functools.partial(PART, OPTION=VALUE), "
            "and sweep over the names."
        )
    refuse_unknown([axis], AXES, path)
    name = f"{path}{axis}"
    values = plain(values, name)
    if not isinstance(values, tuple):
        values = (values,)
    # Names may be one text, beta,laplace: configurations of before are stored so.
    values = tuple(
        part
        for value in values
        for part in (
            map(str.strip, value.split(",")) if isinstance(value, str) else (value,)
        )
    )
    if not values:
        raise SettingsError(
            f"{name} is empty: give at least one value, as in "
            f"{'((64, 64), (128,))' if _is_tuple(axis) else '(1, 2)'}."
        )
    if _is_tuple(axis) and not all(isinstance(value, tuple) for value in values):
        if any(isinstance(value, tuple) for value in values):
            meant = tuple(v if isinstance(v, tuple) else (v,) for v in values)
        else:  # One value, without the brackets around it.
            meant = (values,)
        numbers = all(type(number) is int for value in meant for number in value)
        raise SettingsError(
            f"{name} is {values}: each of its values is a tuple itself. "
            f"Give {f'{meant}, or others, as in ' * numbers}((64, 64), (128,))."
        )
    return tuple(convert(value, _hint(axis), name) for value in values)


def _is_tuple(axis: str) -> bool:
    """Whether each value of an axis is one of several numbers."""
    return get_origin(_hint(axis)) is tuple


def _hint(axis: str) -> Any:
    """The type of each value of an axis."""
    sections = {"model": ModelSettings, "training": TrainingSettings}
    owner = sections[_SECTION_OF[axis]] if axis in _SECTION_OF else Settings
    return field_types(owner)[axis]


def _text(settings: Settings, axis: str) -> str:
    section = settings if axis == "seed" else getattr(settings, _SECTION_OF[axis])
    value = getattr(section, axis)
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def group(
    runs: Iterable[Run], attempts: Mapping[str, int] = MappingProxyType({})
) -> tuple[Group, ...]:
    """Runs gathered by the program they share, in the order they first appear.

    Args:
        runs: the runs.
        attempts: how often runs were begun before, by name; if not 0.
    """
    groups: dict[tuple[int, Settings], list[Run]] = {}
    for run in runs:
        key = attempts.get(run.name, 0), _program(run.settings)
        groups.setdefault(key, []).append(run)
    return tuple(
        Group(tuple(members), attempt) for (attempt, _), members in groups.items()
    )


def _program(settings: Settings) -> Settings:
    """The settings with everything neutral that is an array in the compiled program.

    Runs that differ in these alone form one group; see ``vae_jax.training.Member``.
    """
    return dataclasses.replace(
        settings,
        seed=0,
        model=_neutral_model(settings.model),
        training=_neutral_training(settings.training),
    )


@functools.lru_cache
def _neutral_model(model: ModelSettings) -> ModelSettings:
    return dataclasses.replace(model, latent_dim=1) if model.can_be_padded else model


@functools.lru_cache
def _neutral_training(training: TrainingSettings) -> TrainingSettings:
    return dataclasses.replace(training, beta=1.0, learning_rate=1.0)


def choose(runs: Sequence[Run], only: str) -> tuple[Run, ...]:
    """The runs that a selection names.

    Args:
        runs: the runs of a sweep.
        only: terms separated by spaces, each an index as listed (``3``), a range
            (``0-11``) or a part of a name (``latent_dim=8``, several joined by commas
            must all hold); empty: all.

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
        hits = _hits(term, places, len(runs))
        if not hits:
            raise SettingsError(
                f"--only: {term!r} fits none of the {len(runs)} runs; use an index, a "
                "range such as 0-11, or a part of a name; python -m experiments.sweep "
                "--list shows them."
            )
        chosen |= hits
    return tuple(run for i, run in enumerate(runs) if i in chosen)


def _hits(term: str, places: Mapping[str, set[int]], num_runs: int) -> set[int]:
    """The indices of the runs that a term names.

    Args:
        term: an index, a range, or parts of a name.
        places: the indices of the runs whose names have a part.
        num_runs: how many runs there are.
    """
    first, dash, last = term.partition("-")
    if first.isdecimal() and (last.isdecimal() or not dash):
        start, end = (_bounded(text, num_runs) for text in (first, last or first))
        return set(range(start, min(end + 1, num_runs)))
    return set.intersection(*(places.get(part, set()) for part in term.split(",")))


def _bounded(digits: str, most: int) -> int:
    """The number, or a limit it exceeds: Python reads no more than 4300 digits."""
    digits = digits.lstrip("0") or "0"
    return min(int(digits), most) if len(digits) <= len(str(most)) else most
