"""Tables of a run folder: CSV files."""

import csv
import io
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.files.reading import cannot_read, read_bytes
from experiments.files.writing import write_atomically
from experiments.messages.errors import AnotherOwnerError


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as a CSV file; a field that a row lacks, or that is NaN, is empty."""
    text = io.StringIO()
    fields = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: None if v != v else v for k, v in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def starts_table(content: bytes, columns: Sequence[str]) -> bool:
    """Returns whether the start of a file is that of a table.

    Args:
        content: the first bytes of the file, more than those of the columns.
        columns: the first ones of the table.
    """
    return content.removeprefix(BOM_UTF8).startswith(",".join(columns).encode())


def add_to_table(
    path: Path, rows: Sequence[Mapping[str, Any]], identity: Sequence[str]
) -> None:
    """Adds rows to a CSV file; a new row replaces the row with the same key.

    Args:
        path: the file, which is created if it is missing.
        rows: the rows, each with its ``run`` and the run's ``fingerprint``.
        identity: the key columns.

    Raises:
        FolderError: the file cannot be read or written, or holds a row of another
            run with the same name.
    """

    def key(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row.get(field)) for field in identity)

    kept = read_table(path, {row["run"]: row["fingerprint"] for row in rows})
    replaced = set(map(key, rows))
    write_table(path, [*(row for row in kept if key(row) not in replaced), *rows])


def read_table(path: Path, owners: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns the rows of a CSV file; none if there is no file.

    Args:
        path: the file.
        owners: fingerprints by the name of the run, which the rows must have.

    Raises:
        FolderError: the file cannot be read, or holds a row of another run with the
            same name.
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
                f"{path} holds a row of another run that is named {run!r} too. Move"
                " the file out of the folder and repeat the command."
            )
    return rows
