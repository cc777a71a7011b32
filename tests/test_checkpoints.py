"""Tests of experiments.runs.checkpoints; damage of every kind is in tests/faults."""

import contextlib
import os
import shutil

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from experiments.files.sealed import Owner
from experiments.files.tensors import load_arrays, save_arrays
from experiments.runs.checkpoints import Checkpoints
from tests.folders import refusal

OWNER = Owner("beta-12", "0123" * 16)

NAN_WITH_PAYLOAD = np.array([0x7FC0BEEF, 0xFF800001], np.uint32).view(np.float32)
ARRAYS = {
    "epoch": np.int32(7),
    "seconds": np.float64(1 / 3),
    "state/active": np.array([True, False, True]),
    "state/count": np.array([0, 2**32 - 1], np.uint32),
    "state/awkward": np.array([-0.0, 1e-45, np.inf, -np.inf, 3.4e38], np.float32),
    "state/nan": NAN_WITH_PAYLOAD,
    "state/deep/name/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "state/transposed": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "state/empty": np.zeros((3, 0), np.float32),
    "history/none": np.zeros((0, 4), np.int32),
}


def assert_same(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype, name
        assert arrays[name].shape == array.shape, name
        assert arrays[name].tobytes() == array.tobytes(), name


def arrays_of(epoch):
    return {**ARRAYS, "epoch": np.int32(epoch)}


@pytest.fixture
def open_folder(tmp_path):
    """Returns a function that opens the folder as a new command would."""
    with contextlib.ExitStack() as opened:

        def open_again(keep=3, owner=OWNER):
            checkpoints = Checkpoints(tmp_path / "group", keep, owner)
            opened.callback(checkpoints.close)
            return checkpoints

        yield open_again


def save(checkpoints, *epochs):
    for epoch in epochs:
        checkpoints.save(epoch, arrays_of(epoch))
    checkpoints.wait()


def file_of(checkpoints, epoch):
    return checkpoints.path / f"{epoch}.safetensors"


def damage(checkpoints, *epochs):
    for epoch in epochs:
        path = file_of(checkpoints, epoch)
        path.write_bytes(path.read_bytes().replace(b"sha256", b"sha255", 1))


def test_there_is_none_at_first(open_folder):
    assert open_folder().latest(pytest.fail) is None


def test_arrays_come_back_bit_for_bit(open_folder):
    save(open_folder(), 7)
    epoch, arrays = open_folder().latest(pytest.fail)
    assert epoch == 7
    assert_same(arrays, ARRAYS)


def test_the_latest_comes_back_and_so_many_are_kept(open_folder):
    checkpoints = open_folder(keep=2)
    save(checkpoints, 5, 9, 10, 100)
    assert {path.name for path in checkpoints.path.iterdir()} == {
        "10.safetensors",
        "100.safetensors",
    }
    assert checkpoints.epochs() == [10, 100]
    epoch, arrays = open_folder().latest(pytest.fail)
    assert epoch == 100
    assert_same(arrays, arrays_of(100))


def test_what_changes_after_saving_is_not_saved(open_folder):
    checkpoints = open_folder()
    arrays = arrays_of(1)
    checkpoints.save(1, {name: np.array(array) for name, array in arrays.items()})
    arrays["state/count"][0] = 5
    checkpoints.wait()
    loaded = open_folder().latest(pytest.fail)[1]
    assert loaded["state/count"][0] == 0
    arrays["state/count"][0] = 0


def test_a_damaged_one_is_moved_aside_and_the_one_before_used(open_folder):
    checkpoints = open_folder()
    save(checkpoints, 1, 2, 3)
    damage(checkpoints, 2, 3)
    reports = []
    again = open_folder()
    epoch, arrays = again.latest(reports.append)
    assert epoch == 1
    assert_same(arrays, arrays_of(1))
    for report, damaged in zip(reports, (3, 2), strict=True):
        assert "\n" not in report
        assert str(file_of(again, damaged)) in report
        assert "its description is not what was saved" in report
        assert f"moved to {damaged}.damaged, the one before is used" in report
        assert (again.path / f"{damaged}.damaged").is_file()
        assert not file_of(again, damaged).exists()


def test_epochs_that_were_damaged_are_saved_again(open_folder):
    for _ in range(2):  # And damaged once more.
        save(open_folder(), 1, 2)
        damage(open_folder(), 2)
        again = open_folder()
        assert again.latest(str)[0] == 1
        save(again, 2)
        epoch, arrays = open_folder().latest(pytest.fail)
        assert epoch == 2
        assert_same(arrays, arrays_of(2))
        shutil.rmtree(again.path)


def test_all_damaged_is_as_good_as_none(open_folder):
    save(open_folder(), 1, 2)
    damage(open_folder(), 1, 2)
    reports = []
    again = open_folder()
    assert again.latest(reports.append) is None
    assert len(reports) == 2
    save(again, 1)
    assert open_folder().latest(pytest.fail)[0] == 1


def test_another_epochs_checkpoint_is_moved_aside(open_folder):
    checkpoints = open_folder()
    save(checkpoints, 1, 2)
    shutil.copy(file_of(checkpoints, 1), file_of(checkpoints, 2))
    reports = []
    assert open_folder().latest(reports.append)[0] == 1
    (report,) = reports
    assert "it is of epoch 1" in report
    assert (checkpoints.path / "2.damaged").is_file()


@pytest.mark.parametrize("name", ["state/active", "state/empty", "epoch"])
def test_arrays_other_than_those_described_are_not_taken(open_folder, name):
    """Safetensors takes them as whole, since it does not know digests."""
    checkpoints = open_folder()
    save(checkpoints, 1, 2)
    with safetensors.safe_open(file_of(checkpoints, 2), "numpy") as file:
        metadata = file.metadata()
    others = {key: value for key, value in arrays_of(2).items() if key != name}
    safetensors.numpy.save_file(
        {key: np.asarray(array, order="C") for key, array in others.items()},
        file_of(checkpoints, 2),
        metadata,
    )
    reports = []
    assert open_folder().latest(reports.append)[0] == 1
    (report,) = reports
    assert "its content is not what was saved" in report


def test_every_bit_that_flips_is_damage_and_no_other_owner(open_folder):
    """Otherwise a damaged file would stop a run that has an earlier checkpoint."""
    checkpoints = open_folder()
    save(checkpoints, 1)
    checkpoints.save(2, {"epoch": np.int32(2)})
    checkpoints.wait()
    path = file_of(checkpoints, 2)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        reports = []
        assert open_folder().latest(reports.append)[0] == 1, at
        assert len(reports) == 1


# --- whose a checkpoint is ------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [OWNER._replace(name="beta-34"), OWNER._replace(fingerprint="4567" * 16)]
)
def test_checkpoints_of_other_runs_are_refused_and_stay(open_folder, other):
    checkpoints = open_folder()
    save(checkpoints, 1)
    save(open_folder(owner=other), 2)
    line = refusal(open_folder().latest, pytest.fail)
    assert str(file_of(checkpoints, 2)) in line
    what = (
        "belongs to another run, 'beta-34'"
        if other.name == "beta-34"
        else "same name with another configuration or other images"
    )
    assert what in line
    assert f"delete {checkpoints.path} to train these runs again" in line
    assert checkpoints.epochs() == [1, 2]
    assert open_folder(owner=other).latest(pytest.fail)[0] == 2


def test_a_checkpoint_says_whose_and_of_which_epoch_it_is(open_folder):
    checkpoints = open_folder()
    save(checkpoints, 7)
    _, facts = load_arrays(file_of(checkpoints, 7), {})
    expected = {**OWNER._asdict(), "epoch": "7"}
    assert {name: facts[name] for name in expected} == expected


@pytest.mark.parametrize("epoch", [None, "1", "02", " 2"])
def test_a_checkpoint_without_its_epoch_is_moved_aside(open_folder, epoch):
    checkpoints = open_folder()
    save(checkpoints, 1)
    facts = OWNER._asdict() | ({} if epoch is None else {"epoch": epoch})
    save_arrays(file_of(checkpoints, 2), arrays_of(2), facts)
    reports = []
    assert open_folder().latest(reports.append)[0] == 1
    assert f"it is of epoch {epoch}" in reports[0]


# --- other files in the folder --------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "pipe", "empty"])
def test_what_is_no_file_of_ours_is_moved_aside(open_folder, kind):
    checkpoints = open_folder()
    save(checkpoints, 1)
    path = file_of(checkpoints, 2)
    {"folder": os.mkdir, "pipe": os.mkfifo, "empty": path.touch}[kind](
        *([] if kind == "empty" else [path])
    )
    reports = []
    assert open_folder().latest(reports.append)[0] == 1
    assert len(reports) == 1
    assert (checkpoints.path / "2.damaged").exists()


def test_one_that_cannot_be_moved_is_refused(open_folder):
    checkpoints = open_folder()
    save(checkpoints, 1, 2)
    damage(checkpoints, 2)
    (checkpoints.path / "2.damaged").mkdir()
    assert "2.damaged" in refusal(open_folder().latest, str)
    assert checkpoints.epochs() == [1, 2]


def test_what_is_not_a_checkpoint_is_left_alone(open_folder):
    checkpoints = open_folder()
    save(checkpoints, 1)
    names = ("notes.txt", "007.safetensors", "-2.safetensors", "٣.safetensors")
    for name in names:
        (checkpoints.path / name).write_text("precious")
    assert checkpoints.epochs() == [1]
    assert open_folder(keep=1).latest(pytest.fail)[0] == 1
    save(checkpoints, 2, 3, 4, 5)
    for name in names:
        assert (checkpoints.path / name).read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("a file")
    line = refusal(Checkpoints, tmp_path / "file" / "group", 3, OWNER)
    assert str(tmp_path / "file" / "group") in line
    assert "Remove what is in its place" in line


def test_a_folder_that_has_vanished_is_refused(open_folder):
    checkpoints = open_folder()
    save(checkpoints, 1)
    shutil.rmtree(checkpoints.path)
    line = refusal(save, checkpoints, 2)
    assert "the folder is gone" in line
    assert str(checkpoints.path) in line
    assert not checkpoints.path.exists()


@pytest.mark.parametrize("then", ["save", "wait", "close"])
def test_what_failed_in_the_background_is_told_in_one_line(
    open_folder, monkeypatch, then
):
    checkpoints = open_folder()
    save(checkpoints, 1)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        checkpoints.save(2, arrays_of(2))
        calls = {
            "save": lambda: checkpoints.save(3, arrays_of(3)),
            "wait": checkpoints.wait,
            "close": checkpoints.close,
        }
        line = refusal(calls[then])
    assert str(file_of(checkpoints, 2)) in line
    assert ": No space left on device. " in line
    assert "Make room" in line
    # One message; the files of before are still there, and no half-written one.
    checkpoints.wait()
    assert [path.name for path in checkpoints.path.iterdir()] == ["1.safetensors"]


def test_an_old_checkpoint_that_cannot_be_removed_is_refused(open_folder, tmp_path):
    checkpoints = open_folder(keep=1)
    old = tmp_path / "group" / "1.safetensors"
    old.mkdir()
    checkpoints.save(2, arrays_of(2))
    assert str(old) in refusal(checkpoints.wait)
