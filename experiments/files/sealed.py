"""Records: JSON files of facts, verified when they are read.

A record holds a digest of its own facts, so damage is found. A part of a run also says
which run it belongs to, its ``Owner``.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.files.digests import json_digest
from experiments.files.reading import read_object
from experiments.files.writing import write_atomically
from experiments.messages.errors import AnotherOwnerError

# The largest numbers of a record. Everything is measured in float32, which holds none
# that are larger; sums and charts of larger ones overflow.
LARGEST = float(np.finfo(np.float32).max)
LARGEST_INTEGER = 2**53


class Owner(NamedTuple):
    """The run, or group of runs, that a file belongs to.

    Attributes:
        name: its name.
        fingerprint: the digest of everything that decides its bits.
    """

    name: str
    fingerprint: str


def of_another(path: Path, found: str, name: str, remedy: str) -> AnotherOwnerError:
    """Returns the refusal of a whole file that belongs to another run.

    Args:
        path: the file.
        found: the name of the run that it belongs to.
        name: the name of the run that it should belong to.
        remedy: a clause on what to do if the right file is lost.
    """
    owner = "a run of the same name with another configuration or other images"
    if found != name:
        owner = f"another run, {found!r}"
    return AnotherOwnerError(
        f"{path} belongs to {owner}. Put back its own, or {remedy}."
    )


def seal(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns facts with their digest, which covers all of them but the wall time."""
    facts = without_nan(facts)
    lasting = {name: value for name, value in facts.items() if name != "seconds"}
    return {**facts, "sha256": json_digest(lasting)}


def is_sealed(facts: Mapping[str, Any]) -> bool:
    """Returns whether facts have the digest that ``seal`` gives them."""
    return seal({name: facts[name] for name in facts if name != "sha256"}) == facts


def write_record(path: Path, facts: Mapping[str, Any]) -> None:
    """Writes facts with their digest.

    Raises:
        FolderError: the file cannot be written.
    """
    write_atomically(path, to_json(seal(facts)))


def read_record(path: Path) -> dict[str, Any]:
    """Returns the facts of a record, which must be those that were written.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is damaged, or is no record.
    """
    facts = read_object(path)
    if not is_sealed(facts):
        raise ValueError("it is not what was saved")
    del facts["sha256"]
    return facts


def to_json(value: Any) -> str:
    """Returns JSON text, in which numbers that are not finite become null."""
    return json.dumps(without_nan(value), indent=2) + "\n"


def without_nan(value: Any) -> Any:
    """Returns a value, or a mapping of any depth, with None for non-finite numbers."""
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row that ``to_json`` wrote, with NaN for each null."""
    return {name: math.nan if value is None else value for name, value in row.items()}
