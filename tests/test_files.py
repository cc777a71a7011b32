"""Tests of experiments.files: writing, reading, records and arrays."""

import json
import os
import time

import numpy as np
import pytest
import safetensors.numpy

from experiments.files.reading import read_bytes, read_object, refusing
from experiments.files.sealed import read_record, seal, write_record
from experiments.files.tensors import load_arrays, save_arrays
from experiments.files.writing import write_atomically
from experiments.messages.errors import AnotherOwnerError, DataError, FolderError
from tests.folders import listing


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


# --- reading --------------------------------------------------------------------------


def assert_quick(function, *arguments):
    started = time.monotonic()
    with pytest.raises((OSError, ValueError)) as caught:
        function(*arguments)
    assert time.monotonic() - started < 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "place"


READERS = [read_bytes, read_object, read_record]


@pytest.mark.parametrize("read", READERS)
def test_a_pipe_is_refused_without_waiting_for_its_writer(place, read):
    os.mkfifo(place)
    assert "no regular file" in assert_quick(read, place)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_a_link_to_a_device_is_refused(place, read, device):
    place.symlink_to(device)
    assert "no regular file" in assert_quick(read, place)


@pytest.mark.parametrize("read", READERS)
def test_a_folder_or_nothing_is_an_error_of_the_system(place, read):
    with pytest.raises(FileNotFoundError):
        read(place)
    place.mkdir()
    with pytest.raises((IsADirectoryError, ValueError)):
        read(place)


@pytest.mark.parametrize("read", READERS)
def test_a_file_too_large_is_refused_unread(place, read):
    with place.open("wb") as file:
        file.truncate(2**40)  # Without a block on disk.
    assert "it has 1,099,511,627,776 bytes, of at most 67,108,864" in (
        assert_quick(read, place)
    )


def test_a_file_of_just_the_size_permitted_is_read(place):
    place.write_bytes(b"12345")
    assert read_bytes(place, 5) == b"12345"
    assert "5 bytes, of at most 4" in assert_quick(read_bytes, place, 4)


def test_a_file_that_grows_while_it_is_read_is_refused(place, monkeypatch):
    place.write_bytes(b"12345")
    fstat = os.fstat

    def before(descriptor):
        found = list(fstat(descriptor))
        found[6] = 4  # Its size, which another process may change.
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", before)
    assert "more than 4 bytes" in assert_quick(read_bytes, place, 4)


@pytest.mark.parametrize("read", [read_object, read_record])
@pytest.mark.parametrize(
    "text",
    [
        "[" * 60 + "]" * 60,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 60 + "1" + "}" * 60,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
    ],
    ids=["lists", "many lists", "objects", "many objects"],
)
def test_deep_nesting_is_refused(place, read, text):
    place.write_text(text)
    assert "nested too deeply" in assert_quick(read, place)


def test_nesting_that_records_have_is_read(place):
    place.write_text('{"a":' + "[" * 40 + "]" * 40 + "}")
    assert read_object(place)


# --- records --------------------------------------------------------------------------


def test_a_record_comes_back_without_its_digest(place):
    facts = {"b": [1, 2.5, None, "ü"], "a": {"x": float("nan")}, "seconds": 1.0}
    write_record(place, facts)
    assert read_record(place) == {**facts, "a": {"x": None}}


@pytest.mark.parametrize("change", ["value", "name", "more", "less", "digest"])
def test_a_record_that_was_changed_is_refused(place, change):
    write_record(place, {"a": 1, "b": 2, "seconds": 1.0})
    facts = json.loads(place.read_text())
    if change == "less":
        del facts["b"]
    else:
        facts |= {
            "value": {"a": 2},
            "name": {"c": facts.pop("b") if change == "name" else 0},
            "more": {"c": 3},
            "digest": {"sha256": "0" * 64},
        }[change]
    place.write_text(json.dumps(facts))
    assert "not what was saved" in assert_quick(read_record, place)


@pytest.mark.parametrize("text", ["3", "[]", "null", '"text"'])
def test_a_record_that_is_no_object_is_refused(place, text):
    place.write_text(text)
    assert "no object" in assert_quick(read_record, place)


# --- arrays ---------------------------------------------------------------------------

OWNER = {"name": "a", "fingerprint": "0" * 64}


def assert_arrays_refused(place, *words, kind=FolderError, memory_mapped=False):
    started = time.monotonic()
    with pytest.raises(FolderError) as caught:
        load_arrays(place, OWNER, "delete it", memory_mapped=memory_mapped)
    assert type(caught.value) is kind
    assert time.monotonic() - started < 5
    line = str(caught.value)
    assert "\n" not in line
    for word in (str(place), "delete it", *words):
        assert word in line


def test_arrays_and_facts_come_back(place):
    arrays = {"x": np.arange(6.0).reshape(2, 3).T, "y": np.array(True)}
    save_arrays(place, arrays, OWNER)
    loaded, facts = load_arrays(place, OWNER)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
    assert {name: facts[name] for name in OWNER} == OWNER


def test_arrays_are_read_by_the_same_people_as_other_files(place):
    place.touch()
    mode = place.stat().st_mode
    save_arrays(place, {"x": np.ones(2)}, OWNER)
    assert place.stat().st_mode == mode


def test_arrays_give_the_same_bytes_each_time(tmp_path):
    arrays = {name: np.ones(3) for name in "dbca"}
    for name in ("first", "second"):
        save_arrays(tmp_path / name, arrays, OWNER)
    first, second = ((tmp_path / name).read_bytes() for name in ("first", "second"))
    assert first == second


def test_arrays_of_another_owner_are_refused_by_its_name(place):
    save_arrays(place, {"x": np.ones(2)}, {**OWNER, "name": "b"})
    assert_arrays_refused(place, "another run, 'b'", kind=AnotherOwnerError)
    save_arrays(place, {"x": np.ones(2)}, {**OWNER, "fingerprint": "1" * 64})
    assert_arrays_refused(place, "of the same name", kind=AnotherOwnerError)


def test_arrays_that_say_not_whose_they_are_are_refused(place):
    save_arrays(place, {"x": np.ones(2)}, {"name": "a"})
    assert_arrays_refused(place, "not what was saved")
    safetensors.numpy.save_file({"x": np.ones(2)}, place)
    assert_arrays_refused(place, "not what was saved")


@pytest.mark.parametrize(
    "text", ["", "{", "3", "[]", "null", "[" * 100_000, '{"arrays": []}', '"\ud83d"']
)
def test_arrays_with_an_odd_description_are_refused(place, text):
    metadata = {"sealed": text.encode("utf-8", "replace").decode()}
    safetensors.numpy.save_file({"x": np.ones(2)}, place, metadata)
    assert_arrays_refused(place)


def test_arrays_that_are_no_file_are_refused(place):
    assert_arrays_refused(place)
    place.mkdir()
    assert_arrays_refused(place, "no regular file")
    place.rmdir()
    os.mkfifo(place)
    assert_arrays_refused(place, "no regular file")
    place.unlink()
    place.symlink_to("/dev/zero")
    assert_arrays_refused(place, "no regular file")


def test_a_large_file_that_holds_no_arrays_is_refused_unread(place):
    with place.open("wb") as file:
        file.truncate(2**40)
    assert_arrays_refused(place)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "F16", "I8", "BOOL"])
@pytest.mark.parametrize("memory_mapped", [False, True])
def test_arrays_of_a_type_that_none_of_ours_has_are_refused(
    place, dtype, memory_mapped
):
    """NumPy has no such types, or the digest differs."""
    sealed = seal({**OWNER, "arrays": "0" * 64})
    size = 2 if dtype in ("BF16", "F16") else 1
    header = json.dumps(
        {
            "__metadata__": {"sealed": json.dumps(sealed, sort_keys=True)},
            "x": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]},
        }
    ).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(4 * size)
    place.write_bytes(content)
    assert_arrays_refused(place, memory_mapped=memory_mapped)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("x"), "cannot read a: 'x'. Repair it."),
        (MemoryError(), "cannot read a: the memory is full. Use fewer or smaller"),
        (DataError("b is bad. Remove it."), "b is bad. Remove it."),
    ],
)
def test_an_error_of_any_class_becomes_a_refusal(error, line):
    with pytest.raises(DataError) as caught, refusing("cannot read a", "Repair it"):
        raise error
    assert str(caught.value).startswith(line)


def test_text_of_any_encoding_is_written(tmp_path):
    path = tmp_path / "page"
    write_atomically(path, "name \udcff")
    assert path.read_text() == "name \\udcff"


def test_arrays_that_fill_the_memory_are_not_loaded(tmp_path, monkeypatch):
    path = tmp_path / "a"
    save_arrays(path, {"x": np.zeros(99)}, {"name": "a"})
    monkeypatch.setattr(os, "sysconf", lambda name: 40)
    with pytest.raises(FolderError, match="fill the memory"):
        load_arrays(path, {"name": "a"})
