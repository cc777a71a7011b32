"""The errors that end a command with one line."""

from typing import Self

from experiments.messages.wording import printable

_LONGEST = 160  # characters of a stranger's text in a message


class CommandError(Exception):
    """An error whose message is one line for the user, without a traceback."""

    @classmethod
    def of(cls, field: str, value: object, why: str, remedy: str = "") -> Self:
        """Returns a refusal, ``FIELD is VALUE: WHY. REMEDY.``: all have this form.

        Args:
            field: the option, configuration field or file that cannot be used.
            value: its value, shown as Python writes it.
            why: a clause, without a full stop, such as 'it must be at least 1'.
            remedy: a sentence, without a full stop, that works when followed literally.
        """
        sentences = filter(None, (f"{field} is {value!r}: {why}", remedy))
        return cls(". ".join(sentences) + ".")


class DataError(CommandError, ValueError):
    """Images that cannot be used."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # It quotes names of a stranger's files.


class SettingsError(CommandError, ValueError):
    """A value in the configuration or on the command line that cannot be used."""


class FolderError(CommandError, RuntimeError):
    """A run folder that cannot be used."""


class AnotherOwnerError(FolderError):
    """A complete file that does not belong to its place."""


class LaunchError(CommandError, RuntimeError):
    """Jobs that cannot be launched, or that failed."""


def one_line(value: object) -> str:
    """Returns the text of a value on one short line."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
