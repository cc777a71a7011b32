"""How the templates of all pages are read."""

from pathlib import Path

import jinja2


def templates(*folders: Path, autoescape: bool = False) -> jinja2.Environment:
    """Returns the templates in folders; a name without a value is an error.

    Args:
        *folders: the folders; the first that has a template counts.
        autoescape: whether text is escaped, as a page of HTML needs it.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
