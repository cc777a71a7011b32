"""Prints ``docs/columns.md``, the page on the columns of all tables.

    python -m experiments.report.columns > docs/columns.md

``experiments/evaluation/columns.toml`` declares them.
"""

from pathlib import Path

from experiments.evaluation.columns import BY_SECTION
from experiments.files.templates import templates


def page() -> str:
    """Returns the page, in Markdown."""
    template = templates(Path(__file__).parent).get_template("columns.md.jinja")
    return template.render(sections=BY_SECTION)


if __name__ == "__main__":
    print(page(), end="")
