"""Tests of experiments.checkpoints; damage of every kind is in tests/faults."""

import contextlib
import shutil

import numpy as np
import pytest

from experiments.checkpoints import Checkpoints
from experiments.files import FolderError

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

        def open_again(keep=3):
            checkpoints = Checkpoints(tmp_path / "group", keep)
            opened.callback(checkpoints.close)
            return checkpoints

        yield open_again


def save(checkpoints, *epochs):
    for epoch in epochs:
        checkpoints.save(epoch, arrays_of(epoch))
    checkpoints.wait()


def damage(checkpoints, *epochs):
    for epoch in epochs:
        path = checkpoints.path / str(epoch) / "manifest" / "metadata"
        path.write_text(path.read_text().replace("sha256", "sha255", 1))


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
    assert {path.name for path in checkpoints.path.iterdir()} == {"10", "100"}
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
        assert str(again.path / str(damaged)) in report
        assert f"group.damaged-{damaged}" in report
        assert again.path.with_name(f"group.damaged-{damaged}").is_dir()


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


def test_another_epochs_checkpoint_is_not_taken_for_it(open_folder):
    checkpoints = open_folder()
    save(checkpoints, 1, 2)
    shutil.rmtree(checkpoints.path / "2")
    shutil.copytree(checkpoints.path / "1", checkpoints.path / "2")
    reports = []
    assert open_folder().latest(reports.append)[0] == 1
    assert len(reports) == 1


@pytest.mark.parametrize("name", ["state/active", "state/empty", "epoch"])
def test_arrays_other_than_those_described_are_not_taken(open_folder, name):
    """Whole for Orbax, which knows nothing of digests."""
    checkpoints = open_folder()
    save(checkpoints, 1)
    others = {key: value for key, value in arrays_of(2).items() if key != name}
    checkpoints.save(2, others)
    checkpoints.wait()
    path = checkpoints.path
    shutil.copytree(path / "2" / "arrays", path / "3" / "arrays")
    shutil.copytree(path / "1" / "manifest", path / "3" / "manifest")
    shutil.copy(path / "1" / "_CHECKPOINT_METADATA", path / "3")
    reports = []
    assert open_folder().latest(reports.append)[0] == 2
    assert len(reports) == 1


def test_what_is_not_a_checkpoint_is_left_alone(open_folder):
    checkpoints = open_folder()
    save(checkpoints, 1)
    (checkpoints.path / "notes.txt").write_text("precious")
    assert open_folder().latest(pytest.fail)[0] == 1
    assert (checkpoints.path / "notes.txt").read_text() == "precious"


def refusal(action, *arguments):
    with pytest.raises(FolderError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("a file")
    line = refusal(Checkpoints, tmp_path / "file" / "group", 3)
    assert str(tmp_path / "file" / "group") in line
    assert "make room" in line


def test_a_folder_that_has_vanished_is_refused(open_folder):
    checkpoints = open_folder()
    save(checkpoints, 1)
    shutil.rmtree(checkpoints.path)
    assert "has vanished" in refusal(checkpoints.save, 2, arrays_of(2))
    assert not checkpoints.path.exists()


@pytest.mark.parametrize("call", ["save", "wait_until_finished", "close"])
def test_what_orbax_raises_is_told_in_one_line(open_folder, monkeypatch, call):
    checkpoints = open_folder()
    save(checkpoints, 1)

    def fail(*arguments, **options):
        raise ValueError("RESOURCE_EXHAUSTED:\n\n  no space" + 1000 * " left")

    def save_and_close():
        save(checkpoints, 2)
        checkpoints.close()

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, call, fail)
        line = refusal(save_and_close)
    assert str(checkpoints.path) in line
    assert "(RESOURCE_EXHAUSTED: no space left" in line
    assert "make room" in line
    assert len(line) < 600
