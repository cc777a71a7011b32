"""Values of a configuration: of Python, JSON or a command line, converted by type.

A field declares its type and the values that it may have, such as
``Annotated[int, Range(at_least=1)]``: ``convert`` refuses others, ``parse`` reads the
text of a command line, and docs/configuration.md is printed from the same types.
"""

import ast
import contextlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple, get_args, get_origin

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_dict

from experiments.files.sealed import LARGEST
from experiments.messages.errors import SettingsError
from vae_jax.checks import Range, nearest, require_declared

_TINY = float(np.finfo(np.float32).tiny)

_MOST_VALUES = 1_000_000

_EXAMPLES = {
    int: "Give an integer, as in 8",
    float: "Give a number, as in 0.5",
    bool: "Give True or False",
    str: "Give text in quotes, as in 'digits'",
}

_OWN_PARTS = (
    " If it is your own, name the module that registers it, as in --parts=my_parts.py."
)


class Options(tuple[tuple[str, Any], ...]):
    """Options of a part by name, as sorted pairs: hashable, unlike a dictionary."""


@contextlib.contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Turns a refusal of the library into one of the settings.

    Args:
        prefix: stands before the library's name of a value, as 'config.model.'.

    Raises:
        SettingsError: the library raises a ``ValueError``.
    """
    try:
        yield
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"{prefix}{error}") from error


def bare(hint: Any) -> Any:
    """Returns a type without the values that it declares."""
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint


def plain(value: Any, name: str) -> Any:
    """Returns a value as JSON has it.

    Arrays (all that have a ``tolist()``), lists and ranges become tuples, numbers of
    NumPy those of Python, at any depth of groups of fields and of tuples.

    Args:
        value: of a configuration, or a whole one.
        name: of its field, for messages.

    Raises:
        SettingsError: several values without an order, or that can be read only once;
            or a field without a value.
    """
    if isinstance(value, (Mapping, ConfigDict)):
        return {key: _field(value, key, f"{name}.{shown(key)}") for key in value}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple, range)):
        if value[_MOST_VALUES:]:
            raise SettingsError(
                f"{name} has {len(value)} values: these are too many. Give at most "
                f"{_MOST_VALUES}."
            )
        return tuple(
            plain(item, f"{name}[{i}]" if isinstance(item, Mapping) else name)
            for i, item in enumerate(value)
        )
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        is_set = isinstance(value, Set)
        why = "a set has no order" if is_set else "it can be read only once"
        call = "sorted" if is_set else "list"
        raise SettingsError.of(name, value, why, f"Write {call}(...) around it")
    return value


def _field(group: Any, key: Any, name: str) -> Any:
    """Returns the ``plain`` value of a field, which a file may leave to an option."""
    try:
        return plain(group[key], name)
    except config_dict.RequiredValueError as error:
        raise SettingsError(f"{name} has no value: give --{name}=VALUE.") from error


def convert(value: Any, hint: Any, name: str) -> Any:
    """Returns a value as the type of its field, if the type allows it.

    An int passes for a float, and several ``plain`` values for a tuple; nothing else is
    converted.

    Raises:
        SettingsError: another type, a value that the type does not declare, or a float
            that is not finite.
    """
    value, kind = plain(value, name), bare(hint)
    if kind is Options:
        if not isinstance(value, Mapping) and value != ():
            raise SettingsError.of(name, value, "it must be a group of options")
        return _hashable(dict(value))
    if kind_of(kind) is tuple:
        if not isinstance(value, tuple):
            names = next(iter(declared(get_args(kind)[0])), None)
            some = tuple(names)[:2] if isinstance(names, Collection) else (64, 64)
            remedy = f"Give one, as in {some}"
            raise SettingsError.of(name, value, "it must be a tuple", remedy)
        return tuple(convert(item, get_args(kind)[0], name) for item in value)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) <= LARGEST else math.inf
    if type(value) is not kind:
        why = f"it must be of type {kind.__name__}, not {type(value).__name__}"
        raise SettingsError.of(name, value, why, _EXAMPLES.get(kind, ""))
    if kind is float and not _TINY <= (abs(value) or 1) <= LARGEST:  # NaN included.
        why = (
            "it must be finite, and 0 or of a size that float32 holds, "
            f"{_TINY:.1e} to {LARGEST:.1e}"
        )
        raise SettingsError.of(name, value, why)
    try:
        require_declared(name, value, hint)
    except ValueError as error:
        is_registered = any(isinstance(each, dict) for each in declared(hint))
        raise SettingsError(f"{error}{_OWN_PARTS * is_registered}") from error
    return value


def _hashable(value: Any) -> Any:
    """Returns a ``plain`` value with ``Options`` for its groups, at any depth."""
    if isinstance(value, Mapping):
        pairs = ((name, _hashable(each)) for name, each in value.items())
        return Options(sorted(pairs, key=lambda pair: str(pair[0])))
    return tuple(map(_hashable, value)) if isinstance(value, tuple) else value


def declared(hint: Any) -> list[Any]:
    """Returns the values that a type declares: a ``Range``, or names."""
    kinds = (Range, Collection)
    return [
        each for each in getattr(hint, "__metadata__", ()) if isinstance(each, kinds)
    ]


def refuse_unknown(names: Iterable[Any], allowed: Iterable[str], path: str) -> None:
    """Refuses names of fields that are not allowed.

    Args:
        names: of fields.
        allowed: the names of all fields.
        path: stands before a name, in messages.

    Raises:
        SettingsError: naming the first unknown one, and the nearest.
    """
    allowed = dict.fromkeys(allowed)
    for name in names:
        if name not in allowed:
            raise SettingsError(
                f"{path}{shown(name)} is unknown{nearest(name, allowed)}. Choose one "
                f"of {', '.join(allowed)}."
            )


def shown(name: Any) -> str:
    """Returns the name of a field for messages: in quotes if it cannot be a name."""
    return name if isinstance(name, str) and name.isidentifier() else repr(name)


# --- text of a command line -----------------------------------------------------------


class _Kind(NamedTuple):
    """How a command line writes a type."""

    words: str
    example: str  # of several values
    parse: Callable[[str], Any] | None = None  # None: as Python reads it


_KINDS = {
    int: _Kind("an integer", "1,2", flags.IntegerParser().parse),
    float: _Kind("a number", "1.0,2.0", flags.FloatParser().parse),
    bool: _Kind("true or false", "true,false", flags.BooleanParser().parse),
    str: _Kind("text", "NAME,NAME", str),
    Options: _Kind("options by name", "\"{'depth': 2}\""),
    tuple: _Kind("a tuple of integers", "'((64, 64), (128,))'"),
}


def kind_of(hint: Any) -> Any:
    """Returns the class of a type's values, such as tuple or int."""
    return get_origin(bare(hint)) or bare(hint)


def parse(option: str, text: str, hint: Any, now: Any, *, is_axis: bool) -> Any:
    """Returns the value that the text of an option stands for.

    Args:
        option: its name, with the dashes.
        text: its value; names need no quotes, nor do true and false.
        hint: the type of its field; of an axis, a tuple of values.
        now: the value that the field has, as an example.
        is_axis: whether one value may stand for a tuple of one.

    Raises:
        SettingsError: the text is no such value.
    """
    kind = kind_of(hint)
    try:
        if parser := _KINDS[kind].parse:
            return parser(text)
        value = _literal(text)
        if kind is Options:
            return dict(value)
        if isinstance(value, (set, dict)):
            raise ValueError("it has no order")
        return value if is_axis or isinstance(value, (tuple, list)) else (value,)
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        words = "one or more values" if is_axis else _words(hint)
        remedy = f"Give it as in {option}={example(hint, now)}"
        raise SettingsError.of(option, text, f"it must be {words}", remedy) from None


def _words(hint: Any) -> str:
    """Returns what a type's values are, for messages."""
    kind = kind_of(hint)
    is_of_names = kind is tuple and kind_of(get_args(bare(hint))[0]) is str
    return "one or more names" if is_of_names else _KINDS[kind].words


def example(hint: Any, now: Any) -> str:
    """Returns a value of a type as it is typed; the present one if there is one."""
    kind = kind_of(hint)
    if kind is Options:
        return _KINDS[kind].example
    if kind is not tuple:
        return _KINDS[kind].example.partition(",")[0] if now is None else str(now)
    item, *_ = get_args(bare(hint))
    for names in declared(item):
        if not isinstance(names, Range) and "" in names:  # It needs its quotes.
            return f'"{tuple(names)}"'
    item = kind_of(item)
    several = isinstance(now, (tuple, list)) and now and item is not tuple
    return ",".join(map(str, now[:2])) if several else _KINDS[item].example


def _literal(text: str) -> Any:
    """Returns the value of a text that Python reads; names need no quotes.

    Raises:
        ValueError: brackets or quotes that make no value, or a comment.
    """
    if "#" in text:
        raise ValueError("Python would leave out the rest, as a comment")
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        parts = [part.strip() for part in text.split(",")]
        if not all(re.fullmatch(r"[^\s()\[\]{}'\"]+", part) for part in parts):
            raise
    return tuple(map(_word, parts))


def _word(text: str) -> Any:
    """Returns a truth value, a number, or else a name."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
