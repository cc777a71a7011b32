"""Tests of experiments.runs.metrics."""

import json
import math
from pathlib import Path

import pytest

from tests.folders import OWNERS, create, refusal


@pytest.fixture
def folder(tmp_path):
    folder = create(tmp_path / "run")
    folder.metrics.restore(["a", "b"], [])
    yield folder
    folder.metrics.close()


def row(run, epoch):
    return {"run": run, "epoch": epoch, "validation/bound": -1.5 * epoch}


def text_of(*epochs, run="a", **fields):
    """Returns the lines as they are on disk."""
    own = {"run": run, "fingerprint": OWNERS[run]}
    return "".join(
        json.dumps({**own, **row(run, epoch), **fields}) + "\n" for epoch in epochs
    )


def epochs_read(folder, content, run="a"):
    """Returns the epochs of the rows read from a content, and the printed lines."""
    folder.metrics.path(run).write_bytes(content)
    told = []
    rows = folder.metrics.read(run, told.append)
    assert all(found["run"] == run for found in rows)
    return [found["epoch"] for found in rows], told


def test_rows_come_back_in_their_order(folder):
    folder.metrics.log([row("a", 1), row("b", 1)])
    folder.metrics.log([row("a", 3), {**row("a", 2), "train/bound": math.nan}])
    rows = folder.metrics.read("a", pytest.fail)
    assert rows[:2] == [row("a", 1), row("a", 3)]
    assert math.isnan(rows[2].pop("train/bound"))
    assert rows[2] == row("a", 2)
    assert folder.metrics.read("b", pytest.fail) == [row("b", 1)]
    assert folder.metrics.path("a").read_text().splitlines()[0] == (
        text_of(1).rstrip("\n")
    )


def test_any_json_reader_takes_what_is_logged(folder):
    folder.metrics.log([{**row("a", 1), "train/bound": -math.inf}])
    (line,) = folder.metrics.path("a").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["train/bound"] is None


def test_a_run_without_rows_has_none(folder):
    assert folder.metrics.read("c", pytest.fail) == []


def test_metrics_of_runs_trained_again_are_dropped_and_no_others(folder):
    folder.metrics.log([row("a", 1), row("b", 1)])
    folder.metrics.log([row("a", 2)])
    path = folder.metrics.path("a")
    with path.open("a") as file:
        file.write('{"run": "a", "epoch": 3}')  # No end of line: half a row.
    kept = path.read_bytes()
    folder.metrics.restore(["b"], [])
    assert path.read_bytes() == kept
    assert folder.metrics.read("b", pytest.fail) == []
    folder.metrics.restore(["a"], [row("a", 1)])
    assert path.read_text() == text_of(1)


@pytest.mark.parametrize(
    "half", ["", '{"run": "a", "ep', "\0\0", "3\n", "{}\n", '{"run": {}}\n']
)
def test_half_a_row_is_dropped(folder, half):
    folder.metrics.log([row("a", 1)])
    content = folder.metrics.path("a").read_bytes() + half.encode()
    epochs, told = epochs_read(folder, content)
    assert epochs == [1]
    assert len(told) == bool(half)
    folder.metrics.restore(["a"], [row("a", 1)])
    assert folder.metrics.path("a").read_text() == text_of(1)


@pytest.mark.parametrize("name", ["gs:", "s3:runs"])
def test_events_of_a_folder_with_a_colon_lie_in_it(name, tmp_path, monkeypatch):
    """The package that writes them takes a relative path for an address."""
    monkeypatch.chdir(tmp_path)
    folder = create(Path(name) / "run")
    folder.metrics.restore(["a"], [])
    folder.metrics.log([row("a", 1)])
    folder.metrics.close()
    assert len(list((folder.path / "tensorboard" / "a").iterdir())) == 1


@pytest.mark.parametrize("closed", [True, False])
def test_a_run_trained_again_replaces_its_events(folder, closed):
    for _ in range(2):
        folder.metrics.restore(["a"], [])
        folder.metrics.log([row("a", 1)])
        if closed:
            folder.metrics.close()
    assert len(list((folder.path / "tensorboard" / "a").iterdir())) == 1
    assert len(folder.metrics.path("a").read_text().splitlines()) == 1


def test_metrics_that_cannot_be_written_are_refused(folder):
    path = folder.metrics.path("a")
    path.unlink()
    path.mkdir()
    assert str(path) in refusal(folder.metrics.log, [row("a", 1)])
    assert str(path) in refusal(folder.metrics.restore, ["a"], [])
    told = []
    assert folder.metrics.read("a", told.append) == []
    (line,) = told
    assert str(path) in line
    assert "do without its learning curve" in line


def test_a_folder_that_has_vanished_is_not_made_again(folder):
    path = folder.metrics.path("a")
    path.unlink()
    path.parent.rmdir()
    assert str(path) in refusal(folder.metrics.log, [row("a", 1)])
    assert not path.parent.exists()


# --- files after editors, power cuts and other runs -----------------------------------


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_saved_by_an_editor_are_all_read(folder, encoding, end):
    content = text_of(1, 2, 3).replace("\n", end).encode(encoding)
    assert epochs_read(folder, content) == ([1, 2, 3], [])


def test_a_mark_amid_the_file_is_no_obstacle(folder):
    """Two files are joined, each with the mark that an editor writes at the start."""
    content = text_of(1).encode("utf-8-sig") + text_of(2).encode("utf-8-sig")
    assert epochs_read(folder, content) == ([1, 2], [])


@pytest.mark.parametrize("nulls", [1, 3, 4, 4096])
def test_rows_beside_nul_bytes_are_read(folder, nulls):
    """A power cut leaves them in the place of blocks that were not written."""
    zeros, first, second = b"\0" * nulls, text_of(1).encode(), text_of(2).encode()
    for content in (zeros + first + second, first + zeros + second):
        assert epochs_read(folder, content) == ([1, 2], [])
    epochs, told = epochs_read(folder, first + second + zeros)
    assert epochs == [1, 2]
    assert len(told) == 1


def assert_all_but_one_are_read(folder, bad):
    content = text_of(1).encode() + bad + b"\n" + text_of(2, 3).encode()
    epochs, told = epochs_read(folder, content)
    assert epochs == [1, 2, 3]
    (line,) = told
    assert "\n" not in line
    assert f"1 row of {folder.metrics.path('a')} cannot be read" in line
    assert "the other 3 are used" in line


@pytest.mark.parametrize(
    "bad",
    [
        text_of(4, run="b").encode(),
        text_of(4, fingerprint="0" * 64).encode(),
        text_of(4, fingerprint=None).encode(),
        json.dumps(row("a", 4)).encode(),
        text_of(4).encode()[:40],
        text_of(4).encode()[40:],
        b"\xff\xfe\x80",
        b"null",
        b"[1]",
        b'"run"',
        b"[" * 100_000,
        b"1" * 5_000,
    ],
    ids=[
        "another run",
        "another configuration",
        "null owner",
        "no fingerprint",
        "cut",
        "end",
        "bytes",
        "null",
        "list",
        "text",
        "deep",
        "digits",
    ],
)
def test_rows_that_are_none_are_counted_and_the_others_used(folder, bad):
    assert_all_but_one_are_read(folder, bad.rstrip(b"\n"))


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": "4"},
        {"epoch": 4.0},
        {"epoch": None},
        {"epoch": True},
        {"epoch": 10**400},
        {"train/bound": "=1+1"},
        {"train/bound": [1.0]},
        {"train/bound": {}},
        {"train/bound": True},
        {"train/bound": float("inf")},
        {"train/bound": float("nan")},
        {"train/bound": 10**400},
        {"train/bound": -(10**400)},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_rows_with_odd_values_are_counted_and_the_others_used(folder, fields):
    """Numbers that no float holds would end the report that draws them."""
    assert_all_but_one_are_read(folder, text_of(4, **fields).rstrip("\n").encode())


def test_numbers_as_large_as_they_get_are_read(folder):
    content = text_of(1, **{"train/bound": -1e308, "train/kl": 2**63}).encode()
    assert epochs_read(folder, content) == ([1], [])


def test_many_bad_rows_are_told_in_one_line(folder):
    content = text_of(1, 2) + "{\n" * 50 + text_of(3)
    epochs, told = epochs_read(folder, content.encode())
    assert epochs == [1, 2, 3]
    (line,) = told
    assert "50 rows" in line


def test_a_file_too_large_is_not_read(folder):
    path = folder.metrics.path("a")
    with path.open("r+b") as file:
        file.truncate(2**40)  # Without a block on disk.
    told = []
    assert folder.metrics.read("a", told.append) == []
    (line,) = told
    assert "1,099,511,627,776 bytes" in line


def test_rows_of_a_run_that_is_none_are_written_nowhere(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("metrics.jsonl", "events.1"):
        (outside / name).write_text("precious")
    run = f"../../{outside.name}"
    assert "is no run of" in refusal(folder.metrics.restore, [run], [])
    assert "is no run of" in refusal(folder.metrics.read, run, print)
    assert [path.read_text() for path in outside.iterdir()] == ["precious"] * 2


def test_a_folder_among_events_is_left(folder):
    place = folder.path / "tensorboard" / "a" / "events.x"
    place.mkdir(parents=True)
    folder.metrics.restore(["a"], [])
    assert place.is_dir()


def test_more_lines_than_there_can_be_rows_are_not_parsed(folder):
    folder.metrics.restore(["a"], [])
    folder.metrics.path("a").write_bytes(b"\n" * 2_000_000)
    lines = []
    assert folder.metrics.read("a", lines.append) == []
    assert "it has more than 1,000,000 lines" in lines[0]
