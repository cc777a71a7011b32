"""Tests of experiments.runner.progress: the output on a terminal."""

import io

from rich.table import Table

from experiments.runner import progress

HOSTILE = "a\x1b[2Jb\rc\x9b1A\u202ed :cat: [red]"
HARMLESS = r"a\x1b[2Jb\rc\x9b1A\u202ed :cat: [red]"


def test_text_is_shown_as_it_is_and_never_obeyed(capsys):
    progress.CONSOLE.print(f"{HOSTILE}\nsecond  line", 3)
    assert capsys.readouterr().out == f"{HARMLESS}\nsecond  line 3\n"


def test_nor_is_that_of_warnings_and_tables(capsys):
    progress.warn(HOSTILE)
    assert capsys.readouterr().out == f"warning: {HARMLESS}\n"
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    progress.CONSOLE.print(table)
    shown = capsys.readouterr().out
    assert shown.count(HARMLESS) == 3
    assert shown.replace("\n", "").isprintable()


def test_styles_work_on_a_terminal():
    console = type(progress.CONSOLE)(
        file=io.StringIO(), force_terminal=True, color_system="standard", _environ={}
    )
    console.print(HOSTILE, style="yellow", markup=False, emoji=False, highlight=False)
    assert console.file.getvalue() == f"\x1b[33m{HARMLESS}\x1b[0m\n"
