"""Pieces of the sentences that commands say."""

import difflib
from collections.abc import Iterable, Sequence

_MOST_LISTED = 5


def plain_name(text: str) -> str:
    import re

    return re.sub(r"[^\w .,()+=/:-]", "_", text).lstrip("=+-@ ") or "unnamed"


def counted(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(parts: Sequence[str], separator: str) -> str:
    """The first few parts, and how many more there are."""
    more = len(parts) - _MOST_LISTED
    text = separator.join(parts[:_MOST_LISTED])
    return f"{text} and {more} more" if more > 0 else text


def suggest(name: object, allowed: Iterable[str]) -> str:
    """A suggestion, then the names there are."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(str(name), allowed, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ";"
    return f"{hint} the names there are: {', '.join(allowed)}"
