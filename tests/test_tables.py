"""Tests of experiments.files.tables."""

import concurrent.futures
import os

import pytest

from experiments.files.tables import add_to_table, write_table
from experiments.runs.folder import RunFolder
from tests.folders import create, refusal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.csv"


def row(run, steps=5, fingerprint="f", **fields):
    return {"run": run, "fingerprint": fingerprint, "steps": steps, **fields}


IDENTITY = ("run", "steps")


def test_tables_have_the_fields_of_all_rows(path):
    """A folder from an older version holds results with fewer fields."""
    rows = [{"run": "a", "score": 1.5}, {"run": "b", "added": 2, "score": 3}]
    write_table(path, rows)
    assert path.read_text() == "run,score,added\na,1.5,\nb,3,2\n"


def test_tables_quote_what_they_must(path):
    rows = [
        {"run": "likelihood=beta,seed=0", "score": 1.5, "note": None},
        {"run": 'a "b"', "score": float("nan"), "note": ""},
    ]
    write_table(path, rows)
    assert path.read_text() == (
        'run,score,note\n"likelihood=beta,seed=0",1.5,\n"a ""b""",,\n'
    )


def test_rows_replace_those_that_measured_the_same(path):
    add_to_table(path, [row("a", score=1.0), row("b", score=1.0)], IDENTITY)
    add_to_table(path, [row("a", 50, score=1.0), row("b", score=2.0)], IDENTITY)
    assert path.read_text() == (
        "run,fingerprint,steps,score\na,f,5,1.0\na,f,50,1.0\nb,f,5,2.0\n"
    )


def test_a_row_of_another_run_of_the_same_name_is_refused(path):
    add_to_table(path, [row("a"), row("b")], IDENTITY)
    before = path.read_bytes()
    # This also holds if it measured something else, or is one of several.
    for rows in (
        [row("a", fingerprint="g")],
        [row("a", 50, fingerprint="g")],
        [row("c", fingerprint="g"), row("b", fingerprint="g")],
    ):
        line = refusal(add_to_table, path, rows, IDENTITY)
        assert str(path) in line
        assert repr(rows[-1]["run"]) in line
        assert "Move the file out of the folder and repeat the command" in line
        assert path.read_bytes() == before
    add_to_table(path, [row("c", fingerprint="g")], IDENTITY)
    assert path.read_text().count("\n") == 4


def test_a_table_of_rows_without_a_fingerprint_is_not_mixed_in(path):
    """Earlier versions wrote such rows."""
    path.write_text("run,steps\na,5\n")
    assert "another run" in refusal(add_to_table, path, [row("a", 50)], IDENTITY)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_that_a_spreadsheet_saved_is_added_to(path, mark, end):
    path.write_bytes(
        (mark + "run,fingerprint,steps\na,f,5\n".replace("\n", end)).encode()
    )
    add_to_table(path, [row("b")], IDENTITY)
    assert path.read_text() == "run,fingerprint,steps\na,f,5\nb,f,5\n"


def test_a_value_of_several_lines_is_kept(path):
    add_to_table(path, [row("a", note='one\n"two",\r\nthree')], IDENTITY)
    before = path.read_bytes()
    add_to_table(path, [row("b", note="")], IDENTITY)
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    "content",
    [
        b"run,fingerprint,steps\na,f,5,6\n",
        b'run,fingerprint,steps\n"a,f,5\n',
        "run,fingerprint\na,f\n".encode("utf-16"),
        b"\xff\xff",
    ],
    ids=["longer than its header", "quote", "UTF-16", "bytes"],
)
def test_a_damaged_table_is_refused(path, content):
    path.write_bytes(content)
    line = refusal(add_to_table, path, [row("b")], IDENTITY)
    assert str(path) in line
    assert "delete it" in line
    assert path.read_bytes() == content


def test_what_is_no_table_is_refused(path):
    os.mkfifo(path)
    assert "no regular file" in refusal(add_to_table, path, [row("b")], IDENTITY)
    path.unlink()
    path.mkdir()
    assert str(path) in refusal(add_to_table, path, [row("b")], IDENTITY)


def test_rows_that_several_add_at_once_are_all_kept(tmp_path):
    """Each one opens the folder itself, as evaluating processes do."""
    folder = create(tmp_path / "run")
    path = folder.path / "table.csv"

    def add(number):
        with RunFolder.open(folder.path).writing():
            add_to_table(path, [row(str(number))], IDENTITY)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(100)))
    header, *rows = path.read_text().split()
    assert header == "run,fingerprint,steps"
    assert sorted(rows) == sorted(f"{number},f,5" for number in range(100))
