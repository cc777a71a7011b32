"""The arguments of a command line, with the contents of files of options."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.files.paths import expand_user
from experiments.files.reading import read_bytes
from experiments.messages.errors import DataError, SettingsError

_LARGEST_FILE = 1_000_000  # bytes
_QUOTES = "\"'"


class Argument(NamedTuple):
    """An argument, and where it stands."""

    text: str
    place: str = ""  # 'FILE, line 3: ', for messages; '': on the command line itself

    def option(self) -> tuple[str, str | None] | None:
        """Returns name and value of ``--name=value``; None: it is no option.

        A value of None is the next argument, unless the option needs none.
        """
        found = re.fullmatch(r"--?([A-Za-z][^=]*)(?:=(.*))?", self.text, re.DOTALL)
        return (found[1], found[2]) if found else None


def expanded(
    arguments: Iterable[Argument], inside: Sequence[Path] = ()
) -> Iterator[Argument]:
    """Yields arguments, with the options of a file in place of ``--flagfile``.

    A file has one option in each line, as absl reads it. Quotes around a whole value
    are removed, as a shell does.

    Args:
        arguments: of a command line, or of a file.
        inside: the files that include these arguments.

    Raises:
        SettingsError: a file cannot be read, includes itself, or has a line that is no
            option.
    """
    rest = iter(arguments)
    for argument in rest:
        name, value = argument.option() or ("", None)
        if argument.text == "--":  # Options end here.
            yield argument
            yield from rest
        elif name == "flagfile":
            path = next(rest, Argument("")).text if value is None else value.strip()
            lines = _lines(path, argument.place, inside)
            yield from expanded(lines, (*inside, expand_user(path).resolve()))
        else:
            yield argument


def _lines(path: str, place: str, inside: Sequence[Path]) -> list[Argument]:
    """Returns the options in a file, without blank lines and comments."""
    try:
        file = expand_user(path)
        text = read_bytes(file, _LARGEST_FILE).decode("utf-8-sig")
        if file.resolve() in inside:
            raise ValueError("it includes itself")
        if "\0" in text:
            raise ValueError("it is no text")
    except (DataError, OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        remedy = "Name a text file with one option in each line"
        why = why or "it cannot be read"
        raise SettingsError.of(f"{place}--flagfile", path, why, remedy) from error
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
                f"{argument.place}{line!r} is not understood. Write one option in each "
                "line, as --name=value."
            )
        found.append(_unquoted(argument))
    return found


def _unquoted(argument: Argument) -> Argument:
    """Returns an argument of a file without the quotes around its value.

    Raises:
        SettingsError: there are several arguments, or a quote is not closed.
    """
    _, value = argument.option() or ("", argument.text)
    quote = value[0] if value and value[0] in _QUOTES else '"'
    if argument.text.count(quote) % 2:
        raise SettingsError(
            f"{argument.place}{argument.text!r} has a quote that is not closed. Close "
            "it, or leave it out: a value needs no quotes."
        )
    if value and value[0] == value[-1] == quote and value.count(quote) == 2:
        return argument._replace(text=argument.text.removesuffix(value) + value[1:-1])
    if re.search(r"\s(--[A-Za-z]|#)", argument.text):
        raise SettingsError(
            f"{argument.place}{argument.text!r} is more than an option. Write each "
            "option and each comment in a line of its own, or quotes around the value."
        )
    return argument
