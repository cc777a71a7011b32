"""The arguments of a command line, with what files of options hold in their place."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from experiments.files.paths import expand_user
from experiments.files.sealed import read_bytes
from experiments.messages.errors import DataError, SettingsError

_LARGEST_FILE = 1_000_000  # bytes
_QUOTES = "\"'"


class Argument(NamedTuple):
    """An argument, and where it stands."""

    text: str
    place: str = ""  # 'FILE, line 3: ', for messages; '': on the command line itself

    def option(self) -> tuple[str, str | None] | None:
        """Returns name and value of ``--name=value``; None where there is none.

        A value that is None may be the next argument, or none be needed.
        """
        found = re.fullmatch(r"--?([A-Za-z][^=]*)(?:=(.*))?", self.text, re.DOTALL)
        return (found[1], found[2]) if found else None


def expanded(arguments: Iterable[str]) -> list[Argument]:
    """Returns arguments with what a file holds in place of ``--flagfile``.

    As absl has it, with one option in each line, but that quotes around a whole value
    are left out, as a shell does, and whatever is wrong with a file is refused.

    Args:
        arguments: of a command line.

    Raises:
        SettingsError: a file that cannot be read, that includes itself, or holds what
            is no option.
    """
    return list(_expanded(map(Argument, arguments), ()))


def _expanded(
    arguments: Iterable[Argument], inside: Sequence[str]
) -> Iterator[Argument]:
    """As ``expanded``, inside of files of which each is included by the one before."""
    rest = iter(arguments)
    for argument in rest:
        name, value = argument.option() or ("", None)
        if argument.text == "--":  # What follows is no option.
            yield argument
            yield from rest
        elif name == "flagfile":
            path = next(rest, Argument("")).text if value is None else value.strip()
            lines = _lines(path, argument.place, inside)
            yield from _expanded(lines, (*inside, _identity(path)))
        else:
            yield argument


def _lines(path: str, place: str, inside: Sequence[str]) -> list[Argument]:
    """The options in a file, without blank lines and comments."""
    try:
        if _identity(path) in inside:
            raise ValueError("it includes itself")
        text = read_bytes(expand_user(path), _LARGEST_FILE).decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it is no text")
    except (DataError, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"{place}--flagfile is {path!r}: {reason}. Name a file of text with one "
            "option in each line."
        ) from error
    found: list[Argument] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith(("#", "//")):
            continue
        argument = Argument(line, f"{path}, line {number}: ")
        option = argument.option()
        # A value may stand in the line after its name.
        waits = found and (found[-1].option() or ("", ""))[1] is None
        if " " in option[0] if option else line != "--" and not waits:
            raise SettingsError(
                f"{argument.place}{line!r} is not understood: write one option in each "
                "line, as --name=value."
            )
        found.append(_unquoted(argument))
    return found


def _unquoted(argument: Argument) -> Argument:
    """An argument of a file, as a shell would have given it.

    Raises:
        SettingsError: it is several, or a quote is not closed.
    """
    _, value = argument.option() or ("", argument.text)
    quote = value[0] if value and value[0] in _QUOTES else '"'
    if argument.text.count(quote) % 2:
        raise SettingsError(
            f"{argument.place}{argument.text!r} has a quote that is not closed: close "
            "it, or leave it out, as none is needed around a value."
        )
    if value and value[0] == value[-1] == quote and value.count(quote) == 2:
        return argument._replace(text=argument.text.removesuffix(value) + value[1:-1])
    if re.search(r"\s(--[A-Za-z]|#)", argument.text):
        raise SettingsError(
            f"{argument.place}{argument.text!r} is more than an option: write each "
            "option and each comment in a line of its own, or quotes around the value."
        )
    return argument


def _identity(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))
