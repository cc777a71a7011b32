"""The columns of the tables in a run folder, as ``columns.toml`` declares them.

From there come the files' columns and their order, the tables of the report and of the
terminal, and ``docs/columns.md``.
"""

import dataclasses
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_KINDS = {"text": str, "count": int, "number": float, "mean": float}
# The types of values in a record, where None stands for NaN.
_TYPES: dict[type, tuple[type, ...]] = {
    str: (str,),
    int: (int,),
    float: (int, float, type(None)),
}
# A link of a meaning leads to another part of docs/columns.md.
_LINK = re.compile(r" \[[^]]*\]\([^)]*\)")
# Of results.csv, in the order of the file.
SECTIONS = ("run", "reached", "training", "latents", "owner")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table; ``columns.toml`` explains the fields.

    Attributes:
        kind: type of its values: ``str``, ``int`` or ``float``.
    """

    name: str
    meaning: str
    kind: type
    unit: str = ""
    header: str = ""
    format: str = ""
    setting: bool = False
    key: bool = False
    certain: bool = False

    @property
    def plain_meaning(self) -> str:
        """The meaning without the marks of Markdown, and without its links."""
        return _LINK.sub("", self.meaning).replace("`", "")

    @property
    def types(self) -> tuple[type, ...]:
        """The types that its values may have in a record."""
        return _TYPES[self.kind]

    def read(self, row: Mapping[str, Any]) -> Any:
        """Returns the value in a row; '' or NaN if the row has none. None is NaN.

        Raises:
            OverflowError, TypeError, ValueError: the value has another type, or a whole
                number among the settings is missing.
        """
        missing = "" if self.kind is str else math.nan
        value = row.get(self.name, missing)
        is_nan = value != value or (value is None and self.kind is float)
        may_be_nan = not (self.kind is int and self.setting)
        return missing if is_nan and may_be_nan else self.kind(value)


def _read() -> dict[str, tuple[Column, ...]]:
    """Returns the columns by section of the file."""
    declared = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    sections: dict[str, list[Column]] = {name: [] for name in declared}
    for section, columns in declared.items():
        for name, facts in columns.items():
            kind = facts.pop("kind", "number")
            error = {"header": facts.pop("error_header", ""), "unit": ""}
            column = Column(name, kind=_KINDS[kind], **facts)
            sections[section].append(column)
            if kind == "mean":
                own = {"name": f"{name}_se", "meaning": f"standard error of `{name}`"}
                error |= {"certain": False, **own}
                sections[section].append(dataclasses.replace(column, **error))
    return {name: tuple(columns) for name, columns in sections.items()}


BY_SECTION = _read()
RESULTS = tuple(column for section in SECTIONS for column in BY_SECTION[section])
# Those that the report shows, in its order.
SHOWN = tuple(
    column
    for section in ("run", "reached", "latents", "training")
    for column in BY_SECTION[section]
    if column.header
)
_BY_NAME = {column.name: column for column in RESULTS}


def _with(names: Sequence[str], section: str) -> tuple[Column, ...]:
    """Returns columns of results.csv, and those of a section."""
    return tuple(_BY_NAME[name] for name in names) + BY_SECTION[section]


_BOUND = ("run", "fingerprint", "view", "unit", "bound", "bound_se")
_CHAIN = ("num_importance_samples", *(n for n in _BY_NAME if n.startswith("chain_")))
TABLES = {
    "results.csv": RESULTS,
    "evaluation.csv": RESULTS,
    "fitted_prior.csv": RESULTS + BY_SECTION["fitted_prior"],
    "sandwich.csv": _with(("run", "fingerprint", "view"), "sandwich"),
    "noise_steps.csv": _with((*_BOUND, *_CHAIN), "noise_steps"),
    "flow.csv": _with(_BOUND, "flow"),
}


def keys(table: str) -> tuple[str, ...]:
    """Returns the key columns of a table: a row replaces the row with the same keys."""
    return tuple(column.name for column in TABLES[table] if column.key)


def in_order(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a result with its columns in the order of ``results.csv``."""
    return {name: row[name] for name in _BY_NAME if name in row} | dict(row)
