"""Tests of experiments.runs.folder: whose folder it is, and who writes there."""

import contextlib
import json
import multiprocessing
import os
import resource
import threading
import time

import jax
import pytest

from experiments.data import cache
from experiments.files import locks
from experiments.runs import claims
from experiments.runs.folder import RunFolder
from experiments.runs.notes import Note
from experiments.runs.refusals import refuse_links
from experiments.settings.fingerprint import with_defaults
from tests.folders import (
    CONFIG,
    IMAGES,
    OWNERS,
    create,
    listing,
    opened,
    owners_of,
    refusal,
    save_member,
)


@pytest.fixture
def folder(tmp_path):
    return create(tmp_path / "run")


@pytest.fixture
def impatient(monkeypatch):
    """Makes no command wait for another one to begin."""
    monkeypatch.setattr(claims, "_SECONDS_TO_BEGIN", 0.1)


# --- whose folder it is ---------------------------------------------------------------


def test_a_new_folder_holds_config_and_environment(folder):
    assert listing(folder.path) == ["config.json", "environment.json"]
    assert folder.config() == with_defaults(json.loads(json.dumps(CONFIG)))
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["format"] == 2
    assert environment["bits_depend_on"]["jax"] == jax.__version__
    assert environment["bits_depend_on"]["backend"] == jax.default_backend()
    assert folder.bits_depend_on == environment["bits_depend_on"]


def test_an_empty_folder_is_taken(tmp_path):
    create(tmp_path)
    assert "config.json" in listing(tmp_path)


def test_the_same_config_continues(folder):
    again = create(folder.path)
    assert again.config() == folder.config()
    assert RunFolder.open(folder.path).config() == folder.config()


def test_another_config_is_refused_naming_what_differs(folder):
    before = (folder.path / "config.json").read_bytes()
    environment = (folder.path / "environment.json").stat().st_mtime_ns
    other = {"seed": 1, "model": {"latent_dim": 2, "widths": (8, 5)}, "data": 3}
    line = refusal(create, folder.path, other)
    assert "config.seed is 0 there and 1 here" in line
    assert "config.model.widths is [8, 4] there and [8, 5] here" in line
    assert "config.data is '(absent)' there and 3 here" in line
    assert "latent_dim" not in line
    assert "--workdir" in line
    assert (folder.path / "config.json").read_bytes() == before
    assert (folder.path / "environment.json").stat().st_mtime_ns == environment


PLACES = {
    "data_dir": "a",
    "cache_dir": "a",
    "path": "a",
    "download": False,
    "stream": False,
    "stream_megabytes": 1.0,
}
FULL = {
    **CONFIG,
    "data": {"name": "x", **PLACES},
    "checkpoint": {"keep": 2},
    "parallel": {"members": 0, "batch": 1},
}


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        *(("data", {name: f"other {value}"}) for name, value in PLACES.items()),
        ("checkpoint", {"keep": 3}),
        ("parallel", {"members": 4}),
        ("parallel", {"batch": 2}),
    ],
)
def test_settings_that_no_number_depends_on_may_change(tmp_path, section, changes):
    create(tmp_path / "run", FULL)
    moved = {**FULL, section: {**FULL[section], **changes}}
    again = create(tmp_path / "run", moved)
    # The folder is still that of the configuration it was begun with.
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == (
        json.loads(json.dumps(FULL))
    )
    assert again.config()[section] == RunFolder.open(tmp_path / "run").config()[section]
    other = {**FULL, "data": {**FULL["data"], "name": "y"}}
    line = refusal(create, tmp_path / "run", other)
    assert "config.data.name is 'x' there and 'y' here" in line


def test_a_field_that_came_later_has_its_default(tmp_path):
    """A folder that an earlier commit began has no such field in its config.json."""
    create(tmp_path / "run", FULL)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "split_seed" not in stored["data"]
    later = {**FULL, "data": {**FULL["data"], "split_seed": 0}}
    create(tmp_path / "run", later)
    assert RunFolder.open(tmp_path / "run").config()["data"]["split_seed"] == 0
    other = {**FULL, "data": {**FULL["data"], "split_seed": 1}}
    line = refusal(create, tmp_path / "run", other)
    assert "config.data.split_seed is 0 there and 1 here" in line


def test_other_images_are_refused(folder):
    other = "ba9876543210"
    line = refusal(create, folder.path, images=other)
    assert "other images" in line
    assert IMAGES in line
    create(folder.path)  # The folder is not left locked.
    assert refusal(folder.refuse_other_images, other) == line
    folder.refuse_other_images(IMAGES)


@pytest.mark.parametrize("number", [None, 3])
def test_images_that_were_read_otherwise_are_told_from_others(folder, number):
    """If the reading gives the same images, an earlier folder continues."""
    path = folder.path / "environment.json"
    found = json.loads(path.read_text())
    assert found.pop("images_format") == cache.FORMAT
    found |= {} if number is None else {"images_format": number}
    found["bits_depend_on"]["commit"] = "abc123"
    path.write_text(json.dumps(found))
    line = refusal(create, folder.path, images="ba9876543210")
    assert "other images" in line
    assert f"format 3 of images there and {cache.FORMAT} here" in line
    assert "natural order" in line
    assert "Choose another --workdir, or use the version that wrote it" in line
    assert "commit abc123" in line
    create(folder.path)


def test_as_many_files_may_be_open_as_are_permitted(tmp_path):
    """Each member of a group has one: more than the usual 1,024."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        create(tmp_path / "run")
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def test_files_left_half_written_are_cleared_away(folder):
    (folder.path / "members" / "a").mkdir(parents=True)
    (folder.path / "members" / "a" / ".result.json.12.unfinished").write_text("{")
    create(folder.path)
    assert "unfinished" not in " ".join(listing(folder.path))


def test_files_that_another_command_is_writing_stay(folder):
    half = folder.path / "members" / "a" / ".result.json.12.unfinished"
    half.parent.mkdir(parents=True)
    first = opened(folder.path)
    half.write_text("{")
    create(folder.path)
    assert half.exists()
    first.close()


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    line = refusal(create, tmp_path, CONFIG)
    assert str(tmp_path) in line
    assert listing(tmp_path) == ["notes.txt"]
    assert refusal(create, tmp_path / "notes.txt", CONFIG)
    assert (tmp_path / "notes.txt").read_text() == "precious"
    assert "config.json" in refusal(RunFolder.open, tmp_path)
    assert "config.json" in refusal(RunFolder.open, tmp_path / "nowhere")
    assert "config.json" in refusal(RunFolder.open, tmp_path / ("x" * 300))


@pytest.mark.parametrize("name", ["file/run", "x" * 300], ids=["below a file", "long"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("a file")
    line = refusal(create, tmp_path / name, CONFIG)
    assert "cannot write" in line
    assert "choose another place" in line
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("text", ["", '{"seed": ', "[1, 2]", "[[1, 2]]", "3", "\0"])
def test_a_damaged_config_is_refused(folder, text):
    (folder.path / "config.json").write_text(text)
    line = refusal(create, folder.path, CONFIG)
    assert "config.json" in line
    assert (folder.path / "config.json").read_text() == text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[[1, 2]]", "no object"),
        ('{"command": "x"}', "'bits_depend_on'"),
        ('{"command": "x", "bits_depend_on": []}', "'bits_depend_on'"),
        ('{"bits_depend_on": {"data": "0123456789ab"}}', "'command'"),
    ],
)
def test_a_damaged_environment_is_refused(folder, text, word):
    path = folder.path / "environment.json"
    path.write_text(text)
    line = refusal(create, folder.path)
    assert str(path) in line
    assert word in line
    assert path.read_text() == text


def test_a_folder_of_locks_alone_is_taken(tmp_path):
    """A user evaluated in it, and removed all but the hidden files."""
    folder = create(tmp_path)
    with folder.writing():
        pass
    assert (tmp_path / ".tables.lock").exists()
    for path in tmp_path.glob("[!.]*"):
        path.unlink()
    create(tmp_path)


# --- formats --------------------------------------------------------------------------


def in_format(folder, number):
    """Gives a folder another format; None: the first one, which was not recorded."""
    path = folder.path / "environment.json"
    found = json.loads(path.read_text())
    del found["format"]
    found |= {} if number is None else {"format": number}
    found["bits_depend_on"]["commit"] = "abc123"
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("number", [None, 1, 3, "2"])
def test_a_folder_of_another_format_is_refused_by_its_name(folder, number):
    in_format(folder, number)
    before = listing(folder.path)
    for refused in (create, RunFolder.open):
        line = refusal(refused, folder.path)
        assert str(folder.path) in line
        assert f"of format {number or 1!r}: this version reads 2." in line
        assert "Train in another --workdir, or use the version that wrote it" in line
        assert "commit abc123" in line
    assert listing(folder.path) == before


def test_a_folder_that_was_killed_before_its_environment_continues(folder):
    path = folder.path / "environment.json"
    path.unlink()
    create(folder.path)
    assert json.loads(path.read_text())["format"] == 2


# --- sweeps that grow -----------------------------------------------------------------


def sweep(*names):
    """Returns a configuration and its owners, for runs of these names."""
    return {**CONFIG, "sweep": {"seed": names}}, owners_of(*names)


def test_a_sweep_may_grow(tmp_path):
    path = tmp_path / "run"
    folder = create(path, *sweep("a", "b"))
    save_member(folder, "a")
    folder.groups.begin(Note("beta-1", ("b",), 0))
    grown = create(path, *sweep("a", "b", "c"))
    assert json.loads((path / "config.json").read_text())["sweep"]["seed"] == (
        ["a", "b", "c"]
    )
    assert grown.members.result("a")["run"] == "a"
    assert grown.groups.begun(set(), pytest.fail) == [Note("beta-1", ("b",), 0)]


def test_a_sweep_may_grow_by_a_grid(tmp_path):
    path = tmp_path / "run"
    config, owners = sweep("a", "b")
    save_member(create(path, config, owners), "a")
    grids = [config["sweep"], {"beta": ["c"]}]
    grown = create(path, {**config, "sweep": grids}, owners_of("a", "b", "c"))
    assert json.loads((path / "config.json").read_text())["sweep"] == (
        [{"seed": ["a", "b"]}, {"beta": ["c"]}]
    )
    assert grown.members.result("a")["run"] == "a"


def test_a_sweep_may_lose_runs_that_were_not_begun(tmp_path):
    path = tmp_path / "run"
    save_member(create(path, *sweep("a", "b")), "a")
    create(path, *sweep("a"))
    assert json.loads((path / "config.json").read_text())["sweep"]["seed"] == ["a"]


@pytest.mark.parametrize("how", ["finished", "begun"])
def test_a_sweep_that_leaves_out_what_it_has_is_another_config(tmp_path, how):
    path = tmp_path / "run"
    folder = create(path, *sweep("a", "b"))
    if how == "finished":
        save_member(folder, "b")
    else:
        folder.groups.begin(Note("beta-1", ("a", "b"), 0))
    before = (path / "config.json").read_bytes()
    line = refusal(create, path, *sweep("a", "c"))
    assert "holds the run of another config" in line
    assert "config.sweep.seed is ['a', 'b'] there and ['a', 'c'] here" in line
    assert (path / "config.json").read_bytes() == before


def test_a_sweep_does_not_grow_while_another_command_trains(tmp_path, impatient):
    path = tmp_path / "run"
    first = opened(path, *sweep("a"))
    line = refusal(create, path, *sweep("a", "b"))
    assert "another process: its sweep is another" in line
    assert json.loads((path / "config.json").read_text())["sweep"]["seed"] == ["a"]
    first.close()
    create(path, *sweep("a", "b"))


# --- the environment of the bits ------------------------------------------------------


def test_another_environment_is_told_and_recorded(folder):
    path = folder.path / "environment.json"
    before = json.loads(path.read_text())
    before["bits_depend_on"]["jax"] = "0.0.1"
    path.write_text(json.dumps(before))
    told = []
    create(folder.path, report=told.append)
    assert len(told) == 1
    assert f"jax is '0.0.1' there and {jax.__version__!r} here" in told[0]
    after = json.loads(path.read_text())
    assert after["format"] == 2
    assert after["bits_depend_on"]["jax"] == "0.0.1"
    assert after["continued"][0]["bits_depend_on"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("section", "changes", "told"),
    [
        ("parallel", {"members": 4}, "settings.members is 0 there and 4 here"),
        ("parallel", {"batch": 2}, "settings.batch is 1 there and 2 here"),
        ("data", {"stream": True}, "settings.stream is False there and True here"),
    ],
)
def test_settings_that_decide_how_numbers_round_are_recorded_and_told(
    tmp_path, section, changes, told
):
    create(tmp_path / "run", FULL, report=pytest.fail)
    path = tmp_path / "run" / "environment.json"
    settings = json.loads(path.read_text())["bits_depend_on"]["settings"]
    assert settings == {"members": 0, "batch": 1, "stream": False}
    create(tmp_path / "run", FULL, report=pytest.fail)  # There is nothing to report.
    lines = []
    moved = {**FULL, section: {**FULL[section], **changes}}
    create(tmp_path / "run", moved, report=lines.append)
    (line,) = lines
    assert told in line
    assert "its numbers hold, but its bits may not" in line
    (continued,) = json.loads(path.read_text())["continued"]
    assert continued["bits_depend_on"]["settings"] == {**settings, **changes}


def test_other_settings_of_checkpoints_and_places_are_not_told(tmp_path):
    create(tmp_path / "run", FULL, report=pytest.fail)
    moved = {
        **FULL,
        "checkpoint": {"keep": 5},
        "data": {**FULL["data"], "data_dir": "b", "stream_megabytes": 2.0},
    }
    create(tmp_path / "run", moved, report=pytest.fail)


def test_what_bits_depend_on_is_told_by_the_first_who_computes(tmp_path):
    path = tmp_path / "run" / "environment.json"
    create(tmp_path / "run", computes=False, report=pytest.fail)
    found = json.loads(path.read_text())
    assert found["format"] == 2
    assert found["bits_depend_on"] == {"data": IMAGES}
    create(tmp_path / "run", report=pytest.fail)
    computed = json.loads(path.read_text())
    assert computed["bits_depend_on"]["jax"] == jax.__version__
    assert computed["command"] == found["command"]
    create(tmp_path / "run", computes=False, report=pytest.fail)
    assert json.loads(path.read_text()) == computed


# --- several writers ------------------------------------------------------------------


def test_several_commands_may_train_in_a_folder(tmp_path):
    first, second = opened(tmp_path / "run"), opened(tmp_path / "run")
    RunFolder.open(tmp_path / "run")  # Reading needs no lock.
    first.close()
    third = opened(tmp_path / "run")
    second.close()
    third.close()


@pytest.mark.parametrize("computes", [True, False])
def test_a_folder_that_another_command_begins_for_long_is_refused(
    tmp_path, impatient, computes
):
    (tmp_path / "run").mkdir()
    lock = locks.take(tmp_path / "run" / ".lock")
    line = refusal(create, tmp_path / "run", computes=computes)
    assert "is being written by another process" in line
    assert "Wait for it to end, or choose another --workdir" in line
    assert lock is not None
    os.close(lock)
    create(tmp_path / "run", computes=computes)


def test_a_command_that_launches_and_one_that_trains_share_a_folder(tmp_path):
    first = opened(tmp_path / "run", computes=False)
    second = opened(tmp_path / "run")
    third = opened(tmp_path / "run", computes=False)
    for folder in (first, second, third):
        folder.close()


def test_who_comes_while_a_folder_is_begun_waits(tmp_path):
    (tmp_path / "run").mkdir()
    lock = locks.take(tmp_path / "run" / ".lock")
    timer = threading.Timer(0.3, os.close, [lock])
    timer.start()
    started = time.monotonic()
    create(tmp_path / "run")
    assert time.monotonic() - started >= 0.2
    timer.join()


def test_who_has_begun_a_folder_waits_for_one_that_begins_behind_it(
    tmp_path, monkeypatch
):
    """Between exclusive and shared use, another command may take exclusive use."""
    take, lock, timers = locks.take, tmp_path / "run" / ".lock", []

    def late(path, *, shared=False, wait=False):
        if shared and not timers:
            other = take(lock)
            assert other is not None
            timers.append(threading.Timer(0.3, os.close, [other]))
            timers[0].start()
        return take(path, shared=shared, wait=wait)

    monkeypatch.setattr(locks, "take", late)
    create(tmp_path / "run")
    (timer,) = timers
    timer.join()


def test_a_refused_command_leaves_no_lock(folder):
    refusal(create, folder.path, images="ba9876543210")
    create(folder.path, computes=False)


# --- claims on runs -------------------------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """Returns two commands in one folder: a lock belongs to an open file."""
    folders = [opened(tmp_path / "run") for _ in range(2)]
    yield folders
    for folder in folders:
        folder.close()


def test_a_run_is_claimed_by_one_command(two):
    first, second = two
    assert first.claims.take(["a", "b"])
    assert not second.claims.take(["a"])
    assert second.claims.take(["c"])
    assert first.claims.take(["b", "a"])  # It has them already.
    assert not first.claims.take(["c"])


def test_a_refused_claim_gives_back_all_it_took(two):
    first, second = two
    assert first.claims.take(["b"])
    assert second.claims.take(["c"])
    assert not second.claims.take(["a", "c", "b"])
    assert first.claims.take(["a"])
    assert not first.claims.take(["c"])  # That was claimed before.


def test_what_is_released_is_claimed_by_another(two):
    first, second = two
    assert first.claims.take(["a", "b"])
    first.claims.release(["a"])
    assert second.claims.take(["a"])
    assert not second.claims.take(["b"])
    first.close()
    assert second.claims.take(["b"])


CLAIMED, TAKEN = 8, 9  # How a process that claims runs ends.


def claim_and_die(path, runs):
    folder = opened(path)
    os._exit(CLAIMED if folder.claims.take(runs) else TAKEN)


def test_a_claim_ends_with_the_process_that_holds_it(two):
    context = multiprocessing.get_context("spawn")
    first, second = two
    assert first.claims.take(["a"])
    for runs, ends in ((["a", "b"], TAKEN), (["b"], CLAIMED)):
        other = context.Process(target=claim_and_die, args=(first.path, runs))
        other.start()
        other.join(60)
        assert other.exitcode == ends
    assert second.claims.take(["b"])


def test_a_claim_that_cannot_be_written_is_refused_and_holds_nothing(two):
    first, second = two
    (first.path / "members").mkdir()
    (first.path / "members" / "b").write_text("a file")
    line = refusal(first.claims.take, ["a", "b"])
    assert str(first.path / "members" / "b") in line
    assert second.claims.take(["a"])


# --- links ----------------------------------------------------------------------------


def assert_link_refused(folder, link):
    before = listing(folder.path)
    for refused in (refuse_links, RunFolder.open, create):
        line = refusal(refused, folder.path)
        assert line.startswith(f"{os.path.realpath(link.parent)}/{link.name} is a link")
        assert os.readlink(link) in line
        assert "Remove the link, or put a copy in its place" in line
    assert listing(folder.path) == before


@pytest.mark.parametrize("place", ["link", "members/a/result.json", "jobs/x/members"])
@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "/", "..", "../../outside", "nowhere", "link"],
)
def test_a_link_that_leads_out_or_nowhere_is_refused(folder, place, target):
    (folder.path.parent / "outside").write_text("precious")
    link = folder.path / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(link.name if target == "link" else target)
    if target == ".." and link.parent != folder.path:
        link.unlink()
        link.symlink_to(os.path.relpath(folder.path.parent, link.parent))
    assert_link_refused(folder, link)
    assert (folder.path.parent / "outside").read_text() == "precious"


def test_a_loop_of_links_is_refused(folder):
    first, second = folder.path / "first", folder.path / "second"
    first.symlink_to("second")
    second.symlink_to("first")
    line = refusal(refuse_links, folder.path)
    assert "is a link that leads out" in line


def test_a_link_to_the_folder_itself_is_refused(folder):
    (folder.path / "members").mkdir()
    (folder.path / "members" / "all").symlink_to("..")
    assert_link_refused(folder, folder.path / "members" / "all")


def test_a_folder_whose_name_begins_alike_is_outside(folder):
    beside = folder.path.with_name(folder.path.name + "-2")
    beside.mkdir()
    (folder.path / "figures").symlink_to(beside)
    assert_link_refused(folder, folder.path / "figures")


def test_a_link_that_leads_to_a_link_that_leads_out_is_refused(folder):
    (folder.path / "a").symlink_to("b")
    (folder.path / "b").symlink_to("/etc")
    assert "is a link that leads out" in refusal(refuse_links, folder.path)


def test_a_link_within_the_folder_is_permitted(folder):
    save_member(folder, "a")
    (folder.path / "newest").symlink_to("members/a")
    (folder.path / "row.json").symlink_to(folder.path / "members" / "a" / "result.json")
    refuse_links(folder.path)
    RunFolder.open(folder.path)
    create(folder.path)


def test_a_folder_that_is_a_link_itself_is_permitted(folder):
    link = folder.path.with_name("link")
    link.symlink_to(folder.path)
    save_member(create(link), "a")
    (link / "newest").symlink_to("members/a")
    refuse_links(link)
    assert RunFolder.open(link).config() == folder.config()
    assert listing(link) == listing(folder.path)


def test_a_folder_that_is_not_there_has_no_links(tmp_path):
    refuse_links(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [".lock", ".tables.lock", ".x.1.unfinished"])
def test_a_folder_that_is_not_begun_is_refused_for_its_links(tmp_path, name):
    """Otherwise the lock would open a file outside the folder."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    assert "not a run folder" in refusal(create, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
    assert (tmp_path / "precious").read_text() == "precious"


def test_owners_can_be_told_later(tmp_path):
    save_member(create(tmp_path / "run"), "a")
    folder = RunFolder.open(tmp_path / "run")
    assert "no run of config.json" in refusal(folder.members.result, "a")
    folder.bind(OWNERS)
    assert folder.members.result("a")["fingerprint"] == OWNERS["a"]


def test_runs_that_nobody_trains_are_free(tmp_path):
    with (
        contextlib.closing(opened(tmp_path / "run")) as one,
        contextlib.closing(opened(tmp_path / "run")) as other,
    ):
        assert one.claims.take(["b"])
        assert other.claims.free(["a", "b", "c"]) == ["a", "c"]
        assert one.claims.take(["a", "c"])
        assert other.claims.free(["a", "b", "c"]) == []


def test_an_environment_that_was_continued_by_a_number_is_refused(tmp_path):
    folder = create(tmp_path / "run")
    path = folder.path / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "continued": 5}))
    assert "its 'continued' is no list" in refusal(RunFolder.open, folder.path)
