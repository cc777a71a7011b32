"""Pieces of the sentences that commands print."""

import re
from collections.abc import Sequence

_MOST_LISTED = 5

# Characters with a meaning in HTML, in Markdown or in a table's cell.
_MARKUP = frozenset("<>&\"'|`\\*[]")


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(parts: Sequence[str], separator: str) -> str:
    """Returns the first few parts, and how many more there are."""
    more = len(parts) - _MOST_LISTED
    text = separator.join(parts[:_MOST_LISTED])
    return f"{text} and {more} more" if more > 0 else text


def printable(text: str) -> str:
    """Returns text without control characters, which a terminal would act on.

    Every character that is not printable, except the space, is written as its Python
    escape, such as ``\\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def plain_name(text: str) -> str:
    """Returns a name that is safe wherever it is shown, and never empty.

    Characters with a meaning for a terminal, HTML, Markdown or a table become ``_``,
    and so do characters in front that start a formula in a spreadsheet.
    """
    plain = "".join(
        character if character.isprintable() and character not in _MARKUP else "_"
        for character in text
    ).strip()
    return re.sub(r"^[=+\-@]+", lambda found: "_" * len(found[0]), plain) or "unnamed"


def plain_label(text: str) -> str:
    """Returns the name of a class as a ``plain_name``; a number keeps its sign."""
    is_number = re.fullmatch(r"[+-]?\d+(\.\d+)?", text, re.ASCII)
    return text if is_number else plain_name(text)
