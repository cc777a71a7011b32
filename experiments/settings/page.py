"""Prints docs/configuration.md: every field, its values, default and meaning.

    python -m experiments.settings.page > docs/configuration.md

``page.md.jinja`` is the text between the tables. The sections of ``schema`` declare the
rows: types hold the values, docstrings the meanings. Defaults are those of
``configs/digits.py``.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from experiments.files.templates import templates
from experiments.settings import configuration
from experiments.settings.options import (
    KINDS,
    REGISTRIES,
    fields_of,
    option_fields,
    takers,
)
from experiments.settings.schema import Settings, field_types
from experiments.settings.values import bare, declared, kind_of
from vae_jax.checks import Count, Range

_DEFAULT = "configs/digits.py"
_SINGLES = ("seed", "trackers")  # fields outside sections
(_LARGE,) = declared(Count)
_LARGEST = _LARGE.at_most


def page() -> str:
    """Returns docs/configuration.md."""
    given = configuration.read([], _DEFAULT).fields
    sections = [
        # A configuration may leave out options by name: {}.
        (name, summary(cls), _fields(cls, {key: {} for key in field_types(cls)} | own))
        for name, cls in field_types(Settings).items()
        if isinstance(own := given[name], dict)
    ]
    template = templates(Path(__file__).parent).get_template("page.md.jinja")
    return template.render(
        largest=_LARGEST,
        axes=[(f"`{axis}`", f"`{own!r}`") for axis, own in given["sweep"].items()],
        singles={name: _fields(Settings, {name: given[name]}) for name in _SINGLES},
        sections=sections,
        parts=[(kind, _parts(kind)) for kind in KINDS],
        table=_table,
    )


def summary(cls: Any) -> str:
    """Returns the first paragraph of a docstring, as Markdown."""
    return _markdown((inspect.getdoc(cls) or "").partition("\n\n")[0])


def meanings(cls: type) -> dict[str, str]:
    """Returns the meanings of a class's fields, of its and its bases' docstrings."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")[2]
        text = text.partition("\n\n")[0]
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
        found |= {name: _markdown(meaning) for name, meaning in entries}
    return found


def _fields(cls: type, defaults: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row for each field of a section that has a default."""
    about = meanings(cls)
    return [
        (
            f"`{name}`",
            _values(cls, name),
            f"`{defaults[name]!r}`",
            about[name] + _for_parts(cls, name),
        )
        # The fields of the class before those of its bases.
        for name in dict.fromkeys([*cls.__annotations__, *field_types(cls)])
        if name in defaults
    ]


def _values(cls: type, name: str) -> str:
    """Returns the values that a field may have."""
    hint = field_types(cls)[name]
    marker = option_fields(cls).get(name)
    if marker and kind_of(hint) in (int, float) and not declared(hint):
        # The parts that take the option declare its values.
        hint = next((p.annotation for p in takers(marker).values()), hint)
    if kind_of(hint) is tuple:
        item = get_args(bare(hint))[0]
        noun = "names, each one of" if kind_of(item) is str else "integers, each"
        return f"tuple of {noun} {_allowed(item)}"
    if name in KINDS:
        return f"a name in [{name}s](#{name}s)"
    words = {int: "integer", float: "number", bool: "`True` or `False`", str: "text"}
    kind, allowed = words.get(kind_of(hint), "options by name"), _allowed(hint)
    if not allowed:
        return kind
    return allowed if kind == "text" else f"{kind}, {allowed}"


def _allowed(hint: Any) -> str:
    """Returns the values that a type declares: bounds, or names."""
    texts = []
    for allowed in declared(hint):
        if isinstance(allowed, Range):
            if allowed.at_most == _LARGEST:
                allowed = dataclasses.replace(allowed, at_most=None)
            texts.append(str(allowed))
        else:
            texts.append(", ".join(f"`{name}`" if name else "`''`" for name in allowed))
    return "; ".join(texts)


def _for_parts(cls: type, field: str) -> str:
    """Returns the parts that take a field as an option."""
    marker = option_fields(cls).get(field)
    able = takers(marker) if marker else {}
    texts = []
    for kind in KINDS:
        names = [name for each, name in able if each == kind]
        if names == list(REGISTRIES[kind]):
            texts.append(f"every {kind}")
        elif names:
            texts.append(f"{kind} {', '.join(f'`{name}`' for name in names)}")
    return f" *For {'; '.join(texts)}.*" if texts else ""


def _parts(kind: str) -> list[tuple[str, ...]]:
    """Returns a row for each part of a kind, with its options."""
    sections: Iterable[Any] = field_types(Settings).values()
    (section,) = (
        cls for cls in sections if kind in getattr(cls, "__dataclass_fields__", ())
    )
    rows: list[tuple[str, ...]] = []
    for name, part in REGISTRIES[kind].items():
        about = summary(getattr(part, "func", part))
        if isinstance(part, functools.partial):
            bound = [f"{option}={value!r}" for option, value in part.keywords.items()]
            about += f" Here `{', '.join(bound)}`."
        options = REGISTRIES[kind].options(name)
        fields = fields_of(section, kind, options)
        taken = [f"`{fields[option]}`" for option in options if option in fields]
        own = [
            f"`{option}`: "
            + "; ".join(
                filter(None, (_allowed(each.annotation), f"default `{each.default!r}`"))
            )
            for option, each in options.items()
            if option not in fields
        ]
        rows.append((f"`{name}`", about, ", ".join(taken), ". ".join(own)))
    return rows


def _markdown(text: str) -> str:
    """Returns the text of a docstring as one line of Markdown."""
    return " ".join(text.replace("``", "`").split())


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a table of Markdown; columns without any text are left out."""
    columns = zip(header, *rows, strict=True)
    kept = [column for column in columns if any(column[1:])]
    cells = [
        [cell.replace("|", r"\|") for cell in row] for row in zip(*kept, strict=True)
    ]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, "|---" * len(kept) + "|")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
