"""Tables of a run folder, as CSV files."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.files.sealed import cannot_read, read_bytes, write_atomically
from experiments.messages.errors import AnotherOwnerError


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as a CSV file; a field that a row lacks is left empty."""
    text = io.StringIO()
    fields = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: None if v != v else v for k, v in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def add_to_table(
    path: Path, rows: Sequence[Mapping[str, Any]], identity: Sequence[str]
) -> None:
    """Adds rows to a CSV file, in place of those that measured the same.

    Args:
        path: the file; begun where there is none.
        rows: the rows, each with the ``run`` that it is of and its ``fingerprint``.
        identity: fields that say what a row measured.

    Raises:
        FolderError: the file cannot be read or written, or holds a row of another
            run of the same name.
    """
    kept = read_table(path, {row["run"]: row["fingerprint"] for row in rows})
    replaced = {tuple(str(row[field]) for field in identity) for row in rows}
    others = [
        other
        for other in kept
        if tuple(other.get(field) for field in identity) not in replaced
    ]
    write_table(path, [*others, *rows])


def read_table(path: Path, owners: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns the rows of a CSV file; none where there is no file.

    Args:
        path: the file.
        owners: the fingerprint of runs by name, which their rows must have.

    Raises:
        FolderError: the file cannot be read, or holds a row of another run of the same
            name.
    """
    if not path.exists():
        return []
    try:
        text = read_bytes(path).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        if any(None in row for row in rows):
            raise ValueError("a row is longer than the header")
    except (OSError, ValueError, csv.Error) as error:
        raise cannot_read(path, error, "delete it") from error
    for row in rows:
        run = row.get("run", "")
        if row.get("fingerprint") != owners.get(run, row.get("fingerprint")):
            raise AnotherOwnerError(
                f"{path} holds a row of another run that is named {run!r} too: move "
                "the file out of the folder and repeat the command."
            )
    return rows
