"""Pieces of the sentences that commands say."""

import difflib
import re
from collections.abc import Iterable, Sequence

_MOST_LISTED = 5
_LONGEST_NAME = 100  # characters of a name that are compared with others

# What has a meaning in HTML, in Markdown or in a table's cell.
_MARKUP = frozenset("<>&\"'|`\\*[]")


def refusal(field: str, value: object, why: str, remedy: str = "") -> str:
    """Returns a refusal, ``FIELD is VALUE: WHY. REMEDY.``: every message has this form.

    Args:
        field: the option, configuration field or file that cannot be used.
        value: its value, shown as Python writes it.
        why: a clause, without a full stop, such as 'it must be at least 1'.
        remedy: a sentence, without a full stop, that works when followed literally.
    """
    return ". ".join(filter(None, (f"{field} is {value!r}: {why}", remedy))) + "."


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(parts: Sequence[str], separator: str) -> str:
    """The first few parts, and how many more there are."""
    more = len(parts) - _MOST_LISTED
    text = separator.join(parts[:_MOST_LISTED])
    return f"{text} and {more} more" if more > 0 else text


def printable(text: str) -> str:
    """Returns text without anything that a terminal obeys.

    Every character that is not printable, but for the space, is written as its Python
    escape, such as ``\\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def suggest(name: object, allowed: Iterable[str]) -> str:
    """A suggestion, then the names there are."""
    allowed = sorted(allowed)
    # Of a long text, which is no name, a comparison takes for ever.
    near = difflib.get_close_matches(str(name)[:_LONGEST_NAME], allowed, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ";"
    return f"{hint} the names there are: {', '.join(allowed)}"


def plain_name(text: str) -> str:
    """Returns a name that means itself wherever it is shown.

    Characters that a terminal, HTML, Markdown or a table gives a meaning become ``_``,
    and so do those in front that a spreadsheet takes for a formula. It is never empty.
    """
    plain = "".join(
        character if character.isprintable() and character not in _MARKUP else "_"
        for character in text
    ).strip()
    return re.sub(r"^[=+\-@]+", lambda found: "_" * len(found[0]), plain) or "unnamed"
