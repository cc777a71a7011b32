"""The error of images that cannot be used."""

from experiments.wording import printable

_LONGEST = 160  # characters of a stranger's text in a message


class DataError(ValueError):
    """Images that cannot be used; the message says in one line what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # It quotes names of a stranger's files.


def one_line(value: object) -> str:
    """Returns the text of a value on one short line."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
