"""Tests of experiments.runs.notes."""

import concurrent.futures
import json
import shutil

import pytest

from experiments.files.sealed import write_record
from experiments.runs.notes import GroupNotes, Note
from experiments.settings.fingerprint import group_fingerprint
from tests.folders import OWNERS, create, listing, refusal, reseal

NOTE = Note("beta-12", ("a", "b"), 1)


@pytest.fixture
def folder(tmp_path):
    return create(tmp_path / "run")


@pytest.fixture
def path(folder):
    """Returns the path of the note on a group that is begun."""
    folder.groups.begin(NOTE)
    return folder.path / "checkpoints" / "beta-12.json"


def begun(folder, finished=frozenset()):
    return folder.groups.begun(set(finished), pytest.fail)


def test_a_group_is_noted_until_it_ends(folder):
    path = folder.groups.begin(NOTE)
    assert path == folder.path / "checkpoints" / "beta-12"
    path.mkdir()
    (path / "10.safetensors").write_text("weights")
    assert begun(folder) == [NOTE]
    assert folder.groups.runs() == {"a", "b"}
    folder.groups.end("beta-12")
    assert begun(folder) == []
    assert folder.groups.runs() == set()
    assert list((folder.path / "checkpoints").iterdir()) == []


def test_a_group_of_finished_runs_ends(folder, path):
    (folder.path / "checkpoints" / "beta-12").mkdir()
    assert begun(folder, {"a"}) == [NOTE]
    assert path.exists()
    assert begun(folder, {"a", "b", "c"}) == []
    assert list(path.parent.iterdir()) == []


def test_several_commands_end_a_group_at_once(folder, path):
    checkpoints = path.with_suffix("")
    checkpoints.mkdir()
    for epoch in range(100):
        (checkpoints / f"{epoch}.safetensors").touch()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(folder.groups.end, ["beta-12"] * 4))
    assert list(path.parent.iterdir()) == []


def test_a_note_that_another_command_has_just_ended_is_none(folder, path, monkeypatch):
    monkeypatch.setattr(GroupNotes, "_files", lambda self: [path])
    folder.groups.end("beta-12")
    assert begun(folder) == []
    assert folder.groups.runs() == set()


def test_checkpoints_belong_to_the_runs_in_their_order(folder):
    name, fingerprint = folder.groups.owner(NOTE)
    assert name == "beta-12"
    assert fingerprint == group_fingerprint([OWNERS["a"], OWNERS["b"]], 1)


def assert_dropped(folder, path, reason=""):
    told = []
    assert folder.groups.begun(set(), told.append) == []
    (line,) = told
    assert "\n" not in line
    assert f"{path} is damaged" in line
    assert reason in line
    assert "grouped again" in line
    assert not path.exists()


@pytest.mark.parametrize(
    "text", ["", '{"runs": ', "3", "[]", "{}", '{"runs": ["a"]}', "\0", "[" * 100_000]
)
def test_a_damaged_note_on_a_group_is_dropped(folder, path, text):
    path.write_text(text)
    assert folder.groups.runs() == set()
    assert_dropped(folder, path)


@pytest.mark.parametrize(
    "fields",
    [
        {"runs": 3},
        {"runs": ["a"]},
        {"runs": [{}]},
        {"runs": None},
        {"attempt": "0"},
        {"attempt": None},
        {"attempt": True},
        {"attempt": 1.0},
        {"name": 3},
        {"name": None},
    ],
    ids=str,
)
def test_a_sealed_note_with_odd_fields_is_dropped(folder, path, fields):
    """Its seal is valid, as a user may make it."""
    reseal(path, {**json.loads(path.read_text()), **fields})
    assert folder.groups.runs() <= {"a", "b"}
    assert_dropped(folder, path)


@pytest.mark.parametrize("field", ["name", "runs", "attempt"])
def test_a_sealed_note_without_a_field_is_dropped(folder, path, field):
    facts = json.loads(path.read_text())
    del facts[field]
    reseal(path, facts)
    assert_dropped(folder, path)


def test_a_note_whose_attempt_was_edited_is_dropped(folder, path):
    text = path.read_text()
    assert '"attempt": 1' in text
    path.write_text(text.replace('"attempt": 1', '"attempt": 2'))
    assert_dropped(folder, path, "not what was saved")


def test_a_note_copied_from_another_group_is_dropped(folder, path):
    other = Note("beta-34", ("c",), 0)
    folder.groups.begin(other)
    shutil.copy(path.with_name("beta-34.json"), path)
    told = []
    assert folder.groups.begun(set(), told.append) == [other]
    (line,) = told
    assert f"{path} is damaged (it belongs to another group)" in line
    assert not path.exists()


@pytest.mark.parametrize(
    "runs",
    [
        {"a": OWNERS["a"], "b": "0" * 64},
        {"a": OWNERS["b"], "b": OWNERS["a"]},
        {"b": OWNERS["b"], "z": OWNERS["a"]},
        {"b": None},
    ],
    ids=["changed", "swapped", "unknown", "null"],
)
def test_a_note_on_runs_of_another_configuration_is_refused(folder, path, runs):
    """Its checkpoints may be valuable, so nothing is removed."""
    facts = json.loads(path.read_text())
    reseal(path, {**facts, "runs": runs})
    before = listing(folder.path)
    line = refusal(begun, folder)
    assert str(path) in line
    assert "another configuration or other images" in line
    assert "Delete it to group its runs again, or put back its own" in line
    (first, *_) = (run for run, own in runs.items() if OWNERS.get(run) != own)
    assert repr(first) in line
    assert listing(folder.path) == before


def test_every_run_that_is_noted_is_told_whatever_it_is_of(folder, path):
    facts = {"name": "x", "runs": {"z": "0" * 64}, "attempt": 0}
    write_record(path.with_name("x.json"), facts)
    path.with_name("y.json").write_text("{")
    assert folder.groups.runs() == {"a", "b", "z"}


def test_a_folder_is_no_note_on_a_group(folder):
    path = folder.path / "checkpoints" / "beta-12.json"
    path.mkdir(parents=True)
    assert begun(folder) == []
    assert str(path) in refusal(folder.groups.begin, NOTE)


@pytest.mark.parametrize("name", ["..", ".", "...", "-"])
def test_a_note_named_like_another_folder_deletes_nothing(folder, name):
    precious = folder.path / "checkpoints" / "beta-12" / "10.safetensors"
    precious.parent.mkdir(parents=True)
    precious.write_text("weights")
    path = folder.path / "checkpoints" / f"{name}.json"
    write_record(path, {"name": name, "runs": {}, "attempt": 0})
    before, lines = set(listing(folder.path)), []
    assert folder.groups.begun({"a"}, lines.append) == []
    assert "it belongs to no group" in lines[0]
    assert before - set(listing(folder.path)) == {f"checkpoints/{name}.json"}


def test_a_note_on_no_runs_ends_no_group(folder):
    precious = folder.path / "checkpoints" / "beta-12" / "10.safetensors"
    precious.parent.mkdir(parents=True)
    precious.write_text("weights")
    path = folder.path / "checkpoints" / "beta-12.json"
    write_record(path, {"name": "beta-12", "runs": {}, "attempt": 0})
    lines = []
    assert folder.groups.begun({"a"}, lines.append) == []
    assert "it belongs to no group" in lines[0]
    assert precious.exists()


def test_a_link_in_the_place_of_checkpoints_is_removed_alone(folder, path):
    target = folder.path / "figures"
    target.mkdir()
    (target / "a.svg").write_text("precious")
    (folder.path / "checkpoints" / "beta-12").symlink_to("../figures")
    folder.groups.end("beta-12")
    assert not path.exists()
    assert [each.name for each in target.iterdir()] == ["a.svg"]
