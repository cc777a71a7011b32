"""Parts of a model by name: one registry class, and one policy for their options.

Likelihoods, posteriors, priors, networks and objectives are all made in the same way:
``REGISTRY.make(name, *bound, **options)``. The arguments of the library (the number
of levels, the latent sizes) come first; every other parameter of the part is an option,
but for those that the part names in ``set_by_model``. An option that the part does not
take is refused by name.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from vae_jax.checks import require_known

_Part = TypeVar("_Part")


class Registry(dict[str, Callable[..., _Part]], Generic[_Part]):
    """The parts of one kind, by name.

    An entry is a callable that returns a part: usually a frozen dataclass, or a
    ``functools.partial`` of one, whose keywords are then not options. To add your own
    part: ``LIKELIHOODS["name"] = MyLikelihood``.

    Args:
        kind: the kind of the parts, for messages: 'likelihood', 'network', ...
        num_bound: number of leading parameters that are not options.
    """

    def __init__(self, kind: str, num_bound: int = 0):
        super().__init__()
        self.kind, self._num_bound = kind, num_bound

    def __setitem__(self, name: str, part: Callable[..., _Part]) -> None:
        """Registers a part.

        Raises:
            ValueError: the entry makes no part, or takes options by position only.
        """
        shown = " ".join(repr(part).split())
        try:
            options = _options(part, self._num_bound)
        except (TypeError, ValueError):  # It is not callable, or has no signature.
            raise ValueError(
                f"{self.kind} {name!r} is {shown}: it makes no part when it is called. "
                "Register a class, or functools.partial(CLASS, OPTION=VALUE)."
            ) from None
        for option, parameter in options:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise ValueError(
                    f"{self.kind} {name!r} is {shown}: it takes {option} by position "
                    "alone, and options are given by name. Leave the '/' out."
                )
        super().__setitem__(name, part)

    def make(self, name: str, /, *bound: Any, **options: Any) -> _Part:
        """Returns the part of the given name.

        Args:
            name: a key of this registry.
            *bound: the arguments that the library gives to every part of this kind.
            **options: options of the part; a list becomes a tuple, because a part must
                be hashable.

        Raises:
            ValueError: the name is unknown, the part does not take an option, an option
                without a default is missing, or a value is not allowed.
        """
        self.require_name(name)
        known = self.options(name)
        for option, value in options.items():
            if option not in known and option not in _set_by_model(self[name]):
                refuse_option(option, value, [(self, name)])
        for option, parameter in known.items():
            if parameter.default is parameter.empty and option not in options:
                raise ValueError(
                    f"{option} is missing: {self.kind} {name!r} has no default for it. "
                    f"Give it, as in {{{option!r}: VALUE}}."
                )
        hashable = {
            option: tuple(value) if isinstance(value, list) else value
            for option, value in options.items()
        }
        return self[name](*bound, **hashable)

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """Returns the options of a part: its parameters, by their names.

        Raises:
            ValueError: the name is unknown.
        """
        self.require_name(name)
        return dict(_options(self[name], self._num_bound))

    def takers(self, option: str) -> list[str]:
        """Returns the names of the parts that take an option."""
        return [name for name in self if option in self.options(name)]

    def require_name(self, name: str) -> None:
        """Refuses a name that is not registered.

        Raises:
            ValueError: the name is unknown; the message gives the nearest known name.
        """
        require_known(self.kind, name, self)


def name_of(part: Any, *registries: Registry[Any]) -> str:
    """Returns the name of a part for messages, quoted; without one, that of its class.

    Args:
        part: the part, however it was made.
        registries: those that may name it.
    """
    named: list[tuple[int, str]] = []
    for name, entry in (item for each in registries for item in each.items()):
        fixed: dict[str, Any] = getattr(entry, "keywords", {})
        if getattr(entry, "func", entry) is type(part) and all(
            getattr(part, option, None) == value for option, value in fixed.items()
        ):
            named.append((len(fixed), repr(name)))
    # Of several names, that which says most.
    _, found = max(named, key=lambda each: each[0], default=(0, type(part).__name__))
    return found


def refuse_option(
    option: str,
    value: Any,
    parts: Sequence[tuple[Registry[Any], str]],
    *,
    field: str = "",
    neutral: str = "Leave it out",
) -> NoReturn:
    """Refuses an option that none of the given parts takes.

    Args:
        option: the name of the option.
        value: its value.
        parts: the registry and the name of each part.
        field: the name for the message, if it differs from that of the option.
        neutral: the remedy for the message: how to go on without the option.

    Raises:
        ValueError: always; the message names these parts, and parts that take the
            option.
    """
    names = ", ".join(f"{registry.kind} {name!r}" for registry, name in parts)
    registries = {registry.kind: registry for registry, _ in parts}
    able = "".join(
        f", or choose {f'{kind} ' * (len(registries) > 1)}"
        f"{' or '.join(map(repr, takers))}"
        for kind, registry in registries.items()
        if (takers := registry.takers(option))
    )
    has = "have" if len(parts) > 1 else "has"
    name = field or option
    raise ValueError(
        f"{name} is {value!r}: {names} {has} no such option. {neutral}{able}."
    )


@functools.lru_cache
def _options(
    part: Callable[..., Any], num_bound: int
) -> tuple[tuple[str, inspect.Parameter], ...]:
    fixed = {*_set_by_model(part)}
    if isinstance(part, functools.partial):
        fixed.update(part.keywords)
    parameters = list(inspect.signature(part).parameters.values())[num_bound:]
    return tuple(
        (parameter.name, parameter)
        for parameter in parameters
        if parameter.name not in fixed
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    )


def _set_by_model(part: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the parameters that a model gives to a part by name: they follow."""
    kind = part.func if isinstance(part, functools.partial) else part
    names: tuple[str, ...] = getattr(kind, "set_by_model", ())
    return names
