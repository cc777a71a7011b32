"""Tests of full, read-only and missing disks: one line, no loss, and it continues.

Every case runs a sweep on a small file system of its own, disturbs that, repairs it and
gives the same command again.
"""

import contextlib
import shutil
import signal
import subprocess

import pytest

from experiments.files.tensors import load_arrays
from tests.faults import harness

ROOMY = "size=64m,nr_inodes=100k"


class Disk:
    """A file system in memory, with its faults."""

    def __init__(self, path):
        self.path = path

    def mount(self, options):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.path],
            check=True,
            capture_output=True,
        )

    def unmount(self):
        subprocess.run(["umount", "-l", self.path], check=False, capture_output=True)

    def remount(self, options):
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True)

    def fill(self):
        """Leaves no free byte."""
        with contextlib.suppress(OSError), self._stuffing.open("wb", 0) as file:
            while True:
                file.write(bytes(4096))

    def use_all_inodes(self):
        """Leaves room, but not for another file."""
        self._stuffing.mkdir()
        with contextlib.suppress(OSError):
            for i in range(100_000):
                (self._stuffing / str(i)).touch()

    def make_room(self):
        if self._stuffing.is_dir():
            shutil.rmtree(self._stuffing)
        self._stuffing.unlink(missing_ok=True)
        self.remount(ROOMY)

    def cover(self, folder):
        """Makes a folder read-only for every file that is opened there later.

        A file system cannot be made read-only itself while a file is being written.
        """
        for options in (["--bind", folder, folder], ["-o", "remount,bind,ro", folder]):
            subprocess.run(["mount", *options], check=True)

    def uncover(self, folder):
        subprocess.run(["umount", "-l", folder], check=True)

    @property
    def _stuffing(self):
        return self.path / "stuffing"


@pytest.fixture
def disk(tmp_path):
    """Returns a disk that is not mounted yet."""
    path = tmp_path / "disk"
    path.mkdir()
    disk = Disk(path)
    try:
        disk.mount(ROOMY)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a file system is not permitted here ({error})")
    disk.unmount()
    yield disk
    disk.unmount()


def sweep(folder, cache):
    return harness.start(
        harness.command("sweep", *harness.SWEEP, f"--workdir={folder}"), cache
    )


def assert_told_in_one_line(process):
    outcome = harness.Outcome(process, timeout=120)
    assert outcome.status == 2, (outcome.status, outcome.stderr[-3000:])
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1, outcome.stderr[-3000:]


def assert_ends_as(undisturbed, folder, cache):
    """Asserts that the same command ends with the undisturbed outcome."""
    outcome = harness.Outcome(sweep(folder, cache))
    assert outcome.status == 0, outcome.stderr
    assert outcome.stderr == ""
    assert "damaged" not in outcome.stdout
    assert harness.outcome_of(folder) == harness.outcome_of(undisturbed)


@contextlib.contextmanager
def stopped(process, condition):
    """Stops a process when a condition holds."""
    assert harness.wait_for(condition, process), process.communicate()
    process.send_signal(signal.SIGSTOP)
    assert process.poll() is None
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def latest_epochs(folder):
    """Returns the epoch of the latest good checkpoint of each group that has one."""
    epochs = {}
    for path in harness.checkpoints(folder):
        load_arrays(path, {})
        epochs[path.parent.name] = int(path.stem)
    return epochs


# --- from the start -------------------------------------------------------------------


def test_a_disk_without_faults(disk, undisturbed, cache):
    """The control."""
    disk.mount(ROOMY)
    assert_ends_as(undisturbed, disk.path / "run", cache)


@pytest.mark.parametrize(
    ("options", "spoil", "case"),
    [
        ("size=64k", "fill", "full"),
        ("size=64m,nr_inodes=3", "none", "without inodes"),
        ("size=64m,nr_inodes=9", "none", "without inodes"),
        ("ro", "none", "read-only"),
    ],
)
def test_unusable_from_the_start(
    disk, undisturbed, cache, faults, options, spoil, case
):
    disk.mount(options)
    if spoil == "fill":
        disk.fill()
    folder = disk.path / "run"
    with faults.injected(f"disk {case} from the start"):
        assert_told_in_one_line(sweep(folder, cache))
        disk.remount("rw")
        disk.make_room()
        assert_ends_as(undisturbed, folder, cache)


@pytest.mark.parametrize("name", ["", "checkpoints", "members", "tensorboard"])
def test_a_file_in_the_place_of_a_folder(tmp_path, undisturbed, cache, faults, name):
    folder = tmp_path / "run"
    if name:
        folder.mkdir()
        shutil.copy(undisturbed / "config.json", folder)
    (folder / name).write_text("precious")
    with faults.injected("file in the place of a folder"):
        assert_told_in_one_line(sweep(folder, cache))
        assert (folder / name).read_text() == "precious"
        (folder / name).unlink()
        assert_ends_as(undisturbed, folder, cache)


# --- in mid-run -----------------------------------------------------------------------


@pytest.mark.parametrize("size", ["32k", "128k", "900k"])
def test_disks_too_small(disk, undisturbed, cache, faults, size):
    """Each becomes full at another moment."""
    disk.mount(f"size={size}")
    folder = disk.path / "run"
    with faults.injected("disk full in mid-run"):
        assert_told_in_one_line(sweep(folder, cache))
        disk.make_room()
        assert_ends_as(undisturbed, folder, cache)


def has_checkpoint(folder):
    return len(harness.checkpoints(folder)) >= 1


def is_writing_results(folder):
    return any(folder.glob("members/*/params.safetensors"))


def is_in_second_group(folder):
    return any(folder.glob("checkpoints/gaussian*/[0-9]*"))


@pytest.mark.parametrize(
    ("fault", "moment"),
    [
        ("full", has_checkpoint),
        ("full", is_writing_results),
        ("full", is_in_second_group),
        ("without inodes", has_checkpoint),
        ("read-only", has_checkpoint),
        ("read-only", is_writing_results),
    ],
)
def test_unusable_in_mid_run(disk, undisturbed, cache, faults, moment, fault):
    disk.mount("size=64m,nr_inodes=4k")
    folder = disk.path / "run"
    process = sweep(folder, cache)
    with faults.injected(f"disk {fault} in mid-run"):
        with stopped(process, lambda: moment(folder)):
            before = latest_epochs(folder)
            if fault == "full":
                disk.fill()
            elif fault == "without inodes":
                disk.use_all_inodes()
            else:
                disk.cover(folder)
        assert_told_in_one_line(process)
        if fault == "read-only":
            disk.uncover(folder)
        disk.make_room()
        after = latest_epochs(folder)
        finished = len([*folder.glob("members/*/result.json")])
        for group, epoch in before.items():
            assert after.get(group, 0) >= epoch or finished >= 4
        assert_ends_as(undisturbed, folder, cache)


@pytest.mark.parametrize("name", ["", "members"])
def test_gone_in_mid_run(tmp_path, undisturbed, cache, faults, name):
    folder = tmp_path / "run"
    process = sweep(folder, cache)
    with faults.injected("folder gone in mid-run"):
        with stopped(process, lambda: has_checkpoint(folder)):
            (folder / name).rename(tmp_path / "elsewhere")
        assert_told_in_one_line(process)
        shutil.rmtree(folder / name, ignore_errors=True)
        (tmp_path / "elsewhere").rename(folder / name)
        assert_ends_as(undisturbed, folder, cache)


def test_checkpoints_gone_in_mid_run(tmp_path, undisturbed, cache, faults):
    """If one is being written, the folder may be made again."""
    folder = tmp_path / "run"
    process = sweep(folder, cache)
    with faults.injected("folder gone in mid-run"):
        with stopped(process, lambda: has_checkpoint(folder)):
            (folder / "checkpoints").rename(tmp_path / "elsewhere")
        outcome = harness.Outcome(process)
        assert outcome.status in (0, 2)
        assert outcome.stderr.count("\n") == (outcome.status == 2)
        assert "Traceback" not in outcome.stderr
        assert_ends_as(undisturbed, folder, cache)
