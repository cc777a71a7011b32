"""Prints docs/configuration.md: every field, its values, default and meaning.

    python -m experiments.settings.page > docs/configuration.md

The sections of ``schema`` declare all of it: types hold the values, docstrings the
meanings. Defaults are those of ``configs/digits.py``.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from experiments.settings import configuration
from experiments.settings.options import KINDS, REGISTRIES, option_fields, takers
from experiments.settings.schema import Settings, field_types
from experiments.settings.values import Options, bare, declared, kind_of
from vae_jax.checks import Count, Range

_DEFAULT = "configs/digits.py"
(_LARGE,) = declared(Count)
_LARGEST = _LARGE.at_most

_INTRODUCTION = f"""\
# Configuration

Every field of a configuration: the values that it may have, its default and its
meaning. The defaults are those of [{_DEFAULT}](../{_DEFAULT}), the configuration that
commands use if they are given none. Printed from the code by
`python -m experiments.settings.page > docs/configuration.md`.

- [Setting a field](#setting-a-field): files, the command line, run folders
- [sweep](#sweep): which models are trained
- [seed](#seed), [data](#data), [model](#model), [training](#training),
  [evaluation](#evaluation), [parallel](#parallel), [checkpoint](#checkpoint),
  [diagnostics](#diagnostics): the model, its training, and the computation
- [Parts and their options](#parts-and-their-options): the names of likelihoods,
  networks, posteriors, priors and objectives

A value that a field does not allow is refused in one line before anything is computed.
An integer with a lower bound alone is at most {_LARGEST:,}, except in `data`.

## Setting a field

A configuration is a file of Python with a function `get_config()`, such as
[{_DEFAULT}](../{_DEFAULT}). Its argument is the variant, which is `tiny` below. Fields
are set in the file, or overridden on the command line; the last of several values
counts:

```bash
python -m experiments.train --config={_DEFAULT}:tiny --config.model.latent_dim=3
python -m experiments.train --config.model.widths=64,64 --config.training.beta=0.5
python -m experiments.train --config.data.stream --noconfig.data.download
python -m experiments.train --config.model.network=conv \\
    --config.model.network_options="{{'convolutions': 'grouped'}}"
python -m experiments.sweep --config.sweep.latent_dim=2,8 --config.sweep.beta=1.0,4.0
python -m experiments.sweep --config.sweep.widths="((64, 64), (128,))"
```

`--config=runs/one/config.json` repeats the configuration of a run folder. Such a folder
may come from somebody else: its paths, downloads and devices are shown, and not used.

## sweep

A grid maps axes to one value or several; its runs are all their combinations. `seed`
and every field of [model](#model) and [training](#training) is an axis, except options
by name. An empty grid is one run. Several grids are united:

```python
config.sweep = (
    {{"likelihood": ("laplace", "beta"), "seed": (0, 1)}},
    {{"likelihood": "gaussian_fixed", "fixed_scale": (0.05, 0.1), "seed": (0, 1)}},
)
```

`--config.sweep.seed=0,1,2` sets the axis in each grid that has it, and
`--config.sweep.1.seed=0,1,2` in the second grid. A sweep is refused if no run takes a
field that it sets, or if two of its runs are the same model.

"""
_PARTS = """\
## Parts and their options

The fields above that are marked *for …* are options of these parts: a part gets each
field that it takes. Its other options are given by name, such as
`config.model.network_options = {"convolutions": "grouped"}`. Names and options of your
own: [docs/extending.md](extending.md).
"""


def page() -> str:
    """Returns docs/configuration.md."""
    fields = configuration.read([], _DEFAULT).fields
    sections = [name for name in field_types(Settings) if name != "seed"]
    axes = [(f"`{axis}`", f"`{values!r}`") for axis, values in fields["sweep"].items()]
    seed = _table(Settings, {"seed": fields["seed"]})
    parts = [_INTRODUCTION + _as_table(("Axis", "Default"), axes), "## seed\n", seed]
    for name in sections:
        cls = field_types(Settings)[name]
        options = [field for field, hint in field_types(cls).items() if hint is Options]
        table = _table(cls, fields[name] | {field: {} for field in options})
        parts += [f"## {name}\n", f"{summary(cls)}\n", table]
    parts.append(_PARTS)
    for kind in KINDS:
        parts += [f"### {kind.capitalize()}s\n", _parts(kind)]
    return "\n".join(parts)


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


def _table(cls: type, defaults: Mapping[str, Any]) -> str:
    """Returns the table of the fields of a section that have defaults."""
    about = meanings(cls)
    rows = [
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
    return _as_table(("Field", "Values", "Default", "Meaning"), rows)


def _values(cls: type, name: str) -> str:
    """Returns the values that a field may have."""
    hint = field_types(cls)[name]
    marker = option_fields(cls).get(name)
    if marker and kind_of(hint) in (int, float) and not declared(hint):
        # The parts that take the option declare its values.
        hint = next((p.annotation for p in takers(marker).values()), hint)
    if kind_of(hint) is tuple:
        return f"tuple of integers, each {_allowed(get_args(bare(hint))[0])}"
    words = {int: "integer", float: "number", bool: "`True` or `False`", str: "text"}
    allowed = _allowed(hint)
    if name in KINDS:
        return f"a name in [{name}s](#{name}s)"
    if kind_of(hint) is str and allowed:
        return allowed
    return ", ".join(
        filter(None, (words.get(kind_of(hint), "options by name"), allowed))
    )


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


def _parts(kind: str) -> str:
    """Returns the table of the parts of a kind, with their options."""
    section = field_types(Settings)["training" if kind == "objective" else "model"]
    fields = {
        marker.name: field
        for field, marker in option_fields(section).items()
        if kind in marker.kinds
    }
    rows = []
    for name, part in REGISTRIES[kind].items():
        if isinstance(part, functools.partial):
            bound = ", ".join(
                f"{key}={value!r}" for key, value in part.keywords.items()
            )
            about = f"{summary(part.func)} Here `{bound}`."
        else:
            about = summary(part)
        options = REGISTRIES[kind].options(name)
        taken = [f"`{fields[option]}`" for option in options if option in fields]
        own = [
            f"`{option}`: {_allowed(each.annotation)}; default `{each.default!r}`"
            for option, each in options.items()
            if option not in fields
        ]
        rows.append((f"`{name}`", about, ", ".join(taken), ". ".join(own)))
    return _as_table(("Name", "Meaning", "Fields it takes", "Options by name"), rows)


def _markdown(text: str) -> str:
    """Returns the text of a docstring as one line of Markdown."""
    return " ".join(text.replace("``", "`").split())


def _as_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a table of Markdown; columns without any text are left out."""
    columns = zip(header, *rows, strict=True)
    kept = [column for column in columns if any(column[1:])]
    cells = [
        [cell.replace("|", r"\|") for cell in row] for row in zip(*kept, strict=True)
    ]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, "|---" * len(kept) + "|")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
