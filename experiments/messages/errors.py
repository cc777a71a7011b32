"""The errors that end a command with one line."""

from experiments.messages.wording import printable

_LONGEST = 160  # characters of a stranger's text in a message


class DataError(ValueError):
    """Images that cannot be used; the message says in one line what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # It quotes names of a stranger's files.


def one_line(value: object) -> str:
    """Returns the text of a value on one short line."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


class SettingsError(ValueError):
    """A value in the configuration that cannot be used; the message is one line."""


class FolderError(RuntimeError):
    """A run folder that cannot be used; the message is one line."""


class AnotherOwnerError(FolderError):
    """A file that is whole, but belongs to something else than its place says."""


class LaunchError(RuntimeError):
    """Jobs that cannot be launched, or that failed; the message is one line."""
