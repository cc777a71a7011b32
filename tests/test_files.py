"""Tests of experiments.files."""

import os

import pytest

from experiments.files import FolderError, write_atomically
from tests.test_run_folder import listing


def test_writing_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert listing(tmp_path) == ["a/b.txt"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(28, "No space left on device"), FolderError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["full", "interrupted"],
)
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path, monkeypatch, call, failure, raised
):
    path = tmp_path / "results.csv"
    write_atomically(path, "old")

    def fail(*arguments):
        raise failure

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(raised) as caught:
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["results.csv"]
    if raised is FolderError:
        assert "No space left on device" in str(caught.value)
        assert str(path) in str(caught.value)
