"""Tables of scores, one for each group, for the terminal, LaTeX and Markdown."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.evaluation.status import LOST
from experiments.messages.wording import counted
from experiments.report import findings
from experiments.report.groups import Group
from experiments.report.members import LIKELIHOOD, Value


class Entry(NamedTuple):
    """A number of a table as text, and whether it is the lowest score."""

    text: str = ""
    is_best: bool = False


class ScoreTable(NamedTuple):
    """The texts of a table of scores.

    Attributes:
        title: the quantity, the images and the unit.
        rows: name of each axis whose values tell the lines apart.
        columns: name of the axis whose values tell the columns apart.
        heads: label of each column.
        lines: labels and entries of each line, that of the lowest score first.
        notes: the meaning of the marks.
    """

    title: str
    rows: Sequence[str]
    columns: str
    heads: Sequence[str]
    lines: Sequence[tuple[Sequence[str], Sequence[Entry]]]
    notes: Sequence[str]


def score_table(group: Group, mark: str) -> ScoreTable:
    """Returns the table of a group: a line for each setting, means over seeds.

    It has the axes that tell the settings apart; a note names the others.

    Args:
        group: the members.
        mark: how the lowest score is marked, for its note.
    """
    columns = group.layout.columns
    rows = [
        axis
        for axis in group.axes.values()
        if axis != columns and (axis in group.telling or axis.name == LIKELIHOOD)
    ]
    best = group.best if len(group.ranking) > 1 else None
    lines: dict[tuple[str, ...], dict[Value, Entry]] = {}
    for cell in group.ranking:
        line = tuple(group.label(axis, cell.point[axis.name]) for axis in rows)
        entry = Entry(group.number(cell), cell is best)
        lines.setdefault(line, {})[cell.point[columns.name]] = entry
    where = " where no seed is missing" * group.has_gaps
    lowest = f"{mark} lowest {group.ranked}{where}"
    implied = ", ".join(axis.name for axis in group.implied)
    notes = [
        f"± {group.spread}" if group.spread else "",
        lowest if best else "",
        "† upper bound, from a density" if group.upper_bounds else "",
        "means leave out runs that failed or diverged" if group.has_losses else "",
        f"other axes follow from these: {implied}" if implied else "",
    ]
    first = group.members[0]
    return ScoreTable(
        f"{group.quantity} of {counted(first.num_test_images, 'test image')} of "
        f"{first.dataset}, {group.unit}, smaller is better",
        [axis.name for axis in rows],
        columns.name,
        list(group.labels(columns).values()),
        [
            (line, [entries.get(value, Entry()) for value in columns.values])
            for line, entries in lines.items()
        ],
        list(filter(None, notes)),
    )


# --- tables that are read without the report ------------------------------------------


def _notes(group: Group, table: ScoreTable) -> Iterable[str]:
    """Yields sentences on the marks, the words and the doubts of a table."""
    yield "; ".join(table.notes)
    for status, meaning in LOST.items():
        if any(member.status == status for member in group.members):
            yield f"{status.capitalize()}: {meaning}."
    yield from findings.warn(group.members)


def markdown(groups: Iterable[Group]) -> str:
    """Returns the tables of groups in Markdown."""
    return "\n".join(map(_markdown, groups))


def _markdown(group: Group) -> str:
    table = score_table(group, "bold:")
    heads = [*table.rows, *(f"{table.columns} {head}" for head in table.heads)]
    rows = [[*map(_for_markdown, heads)]]
    rows.append([":---"] * len(table.rows) + ["---:"] * len(table.heads))
    for labels, entries in table.lines:
        texts = [(_for_markdown(text), is_best) for text, is_best in entries]
        numbers = [f"**{text}**" if is_best else text for text, is_best in texts]
        rows.append([*map(_for_markdown, labels), *numbers])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    title, *notes = map(_for_markdown, [table.title, *_notes(group, table)])
    paragraphs = [f"**{title}**", "\n".join(lines), *filter(None, notes)]
    return "\n\n".join(paragraphs) + "\n"


def _for_markdown(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", text)


def latex(groups: Iterable[Group]) -> str:
    """Returns the tables of groups in LaTeX, for the package ``booktabs``."""
    tables = "\n".join(map(_latex, groups))
    return f"% \\usepackage{{booktabs}}\n{tables}"


def _latex(group: Group) -> str:
    table = score_table(group, "bold:")
    first, last = len(table.rows) + 1, len(table.rows) + len(table.heads)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_for_latex(table.title)}.}}",
        rf"  \label{{tab:scores-{group.key}}}",
        rf"  \begin{{tabular}}{{{'l' * len(table.rows)}{'r' * len(table.heads)}}}",
        r"    \toprule",
        rf"    {'& ' * len(table.rows)}\multicolumn{{{len(table.heads)}}}{{c}}"
        rf"{{{_for_latex(table.columns)}}} \\",
        rf"    \cmidrule(lr){{{first}-{last}}}",
        _latex_row([*table.rows, *table.heads]),
        r"    \midrule",
        *(_latex_row([*labels, *entries]) for labels, entries in table.lines),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(
            rf"  \par\smallskip{{\footnotesize {_for_latex(note)}\par}}"
            for note in _notes(group, table)
            if note
        ),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Iterable[str | Entry]) -> str:
    texts = [cell if isinstance(cell, Entry) else Entry(cell) for cell in cells]
    shown = [
        rf"\textbf{{{_for_latex(text)}}}" if is_best else _for_latex(text)
        for text, is_best in texts
    ]
    return f"    {' & '.join(shown)} \\\\"


_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "†": r"$^\dagger$",
        "β": r"$\beta$",
        "–": "--",
        "−": "$-$",
        "‖": r"$\Vert$",
    }
)


def _for_latex(text: str) -> str:
    return re.sub(r"-log (p\(x(\|y)?\))", r"$-\\log \1$", text.translate(_LATEX))
