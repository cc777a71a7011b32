"""The templates of pages, all read alike."""

from pathlib import Path

import jinja2


def templates(folder: Path, *, autoescape: bool = False) -> jinja2.Environment:
    """Those beside the code in a folder; a name that is not given is an error.

    Args:
        folder: the folder.
        autoescape: whether text is escaped, as in a page of HTML.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
