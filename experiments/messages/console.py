"""The console that every command prints to."""

from typing import Any

from rich.console import Console
from rich.text import Text

from experiments.messages.wording import printable


class _PlainConsole(Console):
    """Writes text without markup and control characters: names may be a stranger's."""

    def render_str(self, text: str, *args: Any, **kwargs: Any) -> Text:
        lines = map(printable, text.split("\n"))
        return super().render_str("\n".join(lines), *args, **kwargs)


CONSOLE = _PlainConsole(soft_wrap=True, highlight=False, markup=False, emoji=False)


def warn(line: str) -> None:
    """Prints a line that a person should not overlook."""
    CONSOLE.print(f"warning: {line}", style="yellow")
