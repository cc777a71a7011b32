"""Tests of sweeps as jobs, with a fake engine that writes what training would."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs import digits
from experiments.files import locks
from experiments.launch import jobs
from experiments.launch.jobs import Launch, Sweep
from experiments.messages.errors import FolderError, LaunchError
from experiments.runner.interruption import Stopped
from experiments.runs.folder import RunFolder
from experiments.runs.members import Members
from experiments.runs.notes import Note
from experiments.settings import grid
from experiments.settings.fingerprint import differences, fingerprints
from tests.folders import opened, save_member

# Two groups of four runs.
CONFIG = digits.get_config().to_dict() | {
    "sweep": {
        "likelihood": ("bernoulli", "laplace"),
        "latent_dim": (2, 3),
        "seed": (0, 1),
    }
}
RUNS = grid.expand(CONFIG)
NAMES = [run.name for run in RUNS]
IMAGES = "0123456789ab"
OWNERS = fingerprints(RUNS, IMAGES)


def ignore(line):
    del line


class Interruption:
    """Asks to stop from the n-th question on."""

    def __init__(self, after=1000):
        self._after, self._asked = after, 0

    def requested(self):
        self._asked += 1
        assert self._asked < 200, "the jobs do not end"
        return self._asked > self._after


class Engine:
    """Runs a job as it is submitted.

    ``dies`` names how it ends at each attempt: ``""`` after everything, ``"at once"``,
    or with a checkpoint of that name.
    """

    name = "fake"
    is_attached = True
    poll_seconds = 0.001
    most_at_once = 1

    def __init__(self, *dies):
        self._dies = list(dies)
        self.commands = []
        self.running = set()
        self.num_stops = 0

    def submit(self, commands):
        assert len(commands) <= self.most_at_once
        for command in commands:
            self.commands.append(command)
            self._run(command, self._dies.pop(0) if self._dies else "")
        return [f"handle of {command.path}" for command in commands]

    def _run(self, command, death):
        path = Path(command.path)
        assert path.with_suffix(".json").exists()
        path.with_suffix(".log").write_text(f"some\ndeath {death}\n\n")
        if death == "at once":
            return
        if death:
            RunFolder.create(path, CONFIG, OWNERS, IMAGES, ignore).close()
            checkpoint = path / "checkpoints" / "group" / f"{death}.safetensors"
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.touch()
            return
        (only,) = (a for a in command.arguments if a.startswith("--only="))
        train(path, grid.choose(RUNS, only.removeprefix("--only=")))

    def is_running(self, handle):
        return handle in self.running

    def stop(self):
        self.num_stops += 1


def train(path, runs):
    """Leaves what a sweep of these runs leaves, a function of their names."""
    folder = RunFolder.create(path, CONFIG, OWNERS, IMAGES, ignore)
    folder.metrics.restore([run.name for run in runs], ())
    folder.metrics.log(
        {"run": run.name, "epoch": epoch, "validation/bound": -float(epoch)}
        for epoch in (1, 2)
        for run in runs
    )
    for run in runs:
        rng = np.random.default_rng(NAMES.index(run.name))
        if run.settings.seed:
            state = {"state": rng.normal(size=3)}
            folder.failures.save(run.name, 0, {"replay": f"--workdir={path}"}, state)
        arrays = {"picture/samples": rng.random((2, 8, 8, 1))}
        params = {"decoder": {"bias": rng.normal(size=4).astype(np.float32)}}
        row = {"score": rng.normal(), "bits_per_dim": np.nan}
        bits = folder.bits_depend_on
        save_member(folder, run.name, params, arrays, bits, **row)
    folder.close()
    (path / "report.html").write_text("everything is done")


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder.create(
        tmp_path / "sweep", CONFIG, OWNERS, IMAGES, ignore, computes=False
    )
    yield folder
    folder.close()


def launch(engine, retries=2, slice_size=0):
    return Launch(engine, retries, slice_size, ("--config=configs/digits.py",))


def run_all(folder, engine, chosen=RUNS, after=1000, **options):
    sweep = Sweep(folder, RUNS, chosen, launch(engine, **options))
    sweep.run(Interruption(after))
    return sweep


def assert_all_gathered(folder, trained):
    """The folder holds what training in one process leaves, and no job."""
    for run in NAMES:
        for file in (
            "params.safetensors",
            "arrays.safetensors",
            "result.json",
            "environment.json",
            "metrics.jsonl",
        ):
            path = Path("members") / run / file
            assert (folder.path / path).read_bytes() == (trained / path).read_bytes()
        rows = folder.metrics.read(run, pytest.fail)
        assert [row["epoch"] for row in rows] == [1, 2]
        assert len(list((folder.path / "tensorboard" / run).iterdir())) == 1
        assert folder.failures.count(run) == int("seed=1" in run)
        if folder.failures.count(run):
            facts, state = folder.failures.load(run)
            assert f"--workdir={folder.path} --run={run}" in facts["replay"]
            _, expected = RunFolder(trained, OWNERS).failures.load(run)
            np.testing.assert_array_equal(state["state"], expected["state"])
    assert not folder.jobs.exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained")
    train(path, RUNS)
    return path


# --- the command of a job -------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((), ()),
        (("--launcher=local", "--max_jobs=4"), ()),
        (("--launcher", "slurm", "--slurm", "partition=gpu,qos=low"), ()),
        (("-workdir=x", "-only", "3-4", "--retries=0", "--slice", "2"), ()),
        (("--config=a.py:b", "--ray=num_cpus=1"), ("--config=a.py:b",)),
        (("--config.sweep.seed", "(0, 1)"), ("--config.sweep.seed", "(0, 1)")),
        (("--noconfig.data.download",), ("--noconfig.data.download",)),
        (("--config=a.py", "--"), ("--config=a.py",)),
    ],
)
def test_a_job_has_the_command_line_of_its_sweep(given, kept):
    _, *rest = jobs.command(given, "0-3", Path("/runs/jobs/a"))
    module = ("-m", "experiments.sweep")
    assert tuple(rest) == (*module, *kept, "--only=0-3", "--workdir=/runs/jobs/a")


def test_ranges_choose_the_runs_they_were_made_of():
    assert jobs.ranges([3, 0, 1, 2, 7, 5, 6]) == "0-3 5-7"
    assert jobs.ranges([4]) == "4"
    for seed in range(20):
        rng = np.random.default_rng(seed)
        indices = np.flatnonzero(rng.random(len(RUNS)) < 0.5).tolist() or [0]
        chosen = grid.choose(RUNS, jobs.ranges(indices))
        assert chosen == tuple(RUNS[i] for i in indices)


# --- which jobs there are -------------------------------------------------------------


def runs_of(planned):
    return [job.runs for job in planned]


def test_a_job_is_a_group_or_a_slice_of_one(tmp_path):
    def plan(name, size, chosen=RUNS):
        return jobs.plan(chosen, RunFolder(tmp_path / name), size)

    names = tuple(NAMES)
    assert runs_of(plan("whole", 0)) == [names[:4], names[4:]]
    # Its name is that of the group as one process would train it.
    groups = [group.name for group in grid.group(RUNS)]
    assert [job.name for job in plan("again", 0)] == groups
    slices = [names[:3], names[3:4], names[4:7], names[7:]]
    assert runs_of(plan("slices", 3)) == slices
    assert runs_of(plan("some", 0, RUNS[2:5])) == [names[2:4], names[4:5]]


def test_a_job_that_was_begun_stays_as_it_is(folder):
    first = jobs.plan(RUNS[:2], folder, 0)
    second = jobs.plan(RUNS, folder, 1)
    assert runs_of(second[:1]) == runs_of(first)
    assert [len(job.runs) for job in second] == [2, *[1] * 6]
    assert len({job.name for job in second}) == 7
    # Whole, though one run of it is chosen; and no other.
    assert runs_of(jobs.plan(RUNS[1:2], folder, 0)) == runs_of(first)


def test_what_is_finished_is_no_job(folder):
    job, other = jobs.plan(RUNS, folder, 0)
    for run in job.runs:
        save_member(folder, run)
    job.path.mkdir()  # The process was killed before it removed this.
    assert runs_of(jobs.plan(RUNS, folder, 0)) == [other.runs]
    assert not [path for path in folder.jobs.iterdir() if path.name[:9] == job.name[:9]]


def test_a_damaged_note_is_written_anew(folder):
    job, _ = jobs.plan(RUNS, folder, 0)
    for text in ("", '{"runs": 3}', "[]", '{"runs": []'):
        job.beside(".json").write_text(text)
        assert len(jobs.plan(RUNS, folder, 0)) == 2
        assert tuple(json.loads(job.beside(".json").read_text())["runs"]) == job.runs


def test_a_folder_in_the_place_of_a_note_is_one_that_is_damaged(folder):
    job, _ = jobs.plan(RUNS, folder, 0)
    job.beside(".json").unlink()
    job.beside(".json").mkdir()
    assert len(jobs.plan(RUNS, folder, 0)) == 2
    assert job.beside(".json").is_file()


def test_what_was_begun_without_a_launcher_is_handed_over(folder):
    group, _ = grid.group(RUNS)
    names = [run.name for run in group.runs]
    checkpoints = folder.groups.begin(Note.on(group))
    checkpoints.mkdir()
    (checkpoints / "30.safetensors").write_text("weights")
    folder.failures.save(names[0], 0, {"step": 3}, {"x": np.ones(2)})
    save_member(folder, names[1])
    begun, *slices = jobs.plan(RUNS, folder, 2)
    assert (begun.name, list(begun.runs)) == (group.name, names)
    assert [len(job.runs) for job in slices] == [2, 2]
    job = RunFolder.open(begun.path)
    job.bind(OWNERS)
    assert differences(job.config(), CONFIG) == []
    assert job.groups.begun(set(), pytest.fail) == [Note.on(group)]
    copy = begun.path / "checkpoints" / group.name / "30.safetensors"
    assert copy.read_text() == "weights"
    assert job.failures.load(names[0])[0]["step"] == 3
    assert not list((folder.path / "checkpoints").iterdir())
    assert not any(path.exists() for path in (begun.beside(".new"),))
    # Were the command killed just before the folder's own were deleted:
    shutil.copytree(begun.path / "checkpoints", checkpoints.parent, dirs_exist_ok=True)
    copy.write_text("further")
    assert runs_of(jobs.plan(RUNS, folder, 2))[0] == begun.runs
    assert copy.read_text() == "further"
    assert not list((folder.path / "checkpoints").iterdir())


# --- gathering ------------------------------------------------------------------------


@pytest.mark.parametrize("slice_size", [0, 3])
def test_the_folder_is_that_of_one_process(folder, trained, slice_size):
    engine = Engine()
    sweep = run_all(folder, engine, slice_size=slice_size)
    assert_all_gathered(folder, trained)
    sweep.refuse_failed()
    assert len(engine.commands) == (4 if slice_size else 2)
    # What the bits depend on is told by the jobs, the command by the sweep.
    told, expected = folder.environment(), RunFolder.open(trained).environment()
    assert told["bits_depend_on"] == expected["bits_depend_on"]
    assert "continued" not in told


def test_a_job_of_another_machine_is_told_of(folder):
    class Elsewhere(Engine):
        def _run(self, command, death):
            super()._run(command, death)
            path = Path(command.path) / "environment.json"
            told = json.loads(path.read_text())
            if "4-7" in " ".join(command.arguments):
                told["bits_depend_on"]["device_kind"] = "another"
            path.write_text(json.dumps(told))

    run_all(folder, Elsewhere())
    (continued,) = folder.environment()["continued"]
    assert continued["bits_depend_on"]["device_kind"] == "another"


@pytest.mark.parametrize("count", range(4))
def test_a_kill_amid_gathering_loses_and_repeats_nothing(
    folder, trained, monkeypatch, count
):
    class Killed(Exception):
        pass

    save, left = Members.save, iter([*range(count)])

    def save_or_die(self, *arguments):
        if self is folder.members and next(left, None) is None:
            raise Killed
        save(self, *arguments)

    engine = Engine()
    with monkeypatch.context() as patch:
        patch.setattr(Members, "save", save_or_die)
        with pytest.raises(Killed):
            run_all(folder, engine)
    members = sorted((folder.path / "members").glob("*/result.json"))
    assert len(members) == count
    times = [path.stat().st_mtime_ns for path in members]
    run_all(folder, engine)
    assert_all_gathered(folder, trained)
    assert [path.stat().st_mtime_ns for path in members] == times
    assert len(engine.commands) == 2  # What was done is gathered, not trained anew.


def test_nothing_of_another_run_is_gathered(folder):
    class Mixing(Engine):
        def _run(self, command, death):
            super()._run(command, death)
            members = Path(command.path) / "members"
            if (members / NAMES[0]).exists():
                shutil.copy(
                    members / NAMES[1] / "arrays.safetensors",
                    members / NAMES[0] / "arrays.safetensors",
                )

    sweep = run_all(folder, Mixing())
    with pytest.raises(LaunchError, match="belongs to another run"):
        sweep.refuse_failed()
    assert NAMES[0] not in folder.members.finished()


def test_nothing_damaged_is_gathered(folder):
    class Damaging(Engine):
        def _run(self, command, death):
            super()._run(command, death)
            path = Path(command.path) / "members" / NAMES[0] / "params.safetensors"
            if path.exists():
                content = path.read_bytes()
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    sweep = run_all(folder, Damaging())
    with pytest.raises(LaunchError, match=r"params\.safetensors.*what was saved"):
        sweep.refuse_failed()
    # It hides no other job.
    assert folder.members.finished() == {n for n in NAMES if "laplace" in n}
    assert len(list(folder.jobs.glob("*.json"))) == 1


def test_a_job_of_which_something_damaged_was_deleted_is_launched_again(
    folder, trained
):
    """As the message on what is damaged advises."""
    done, _ = jobs.plan(RUNS, folder, 0)
    train(done.path, [run for run in RUNS if run.name in done.runs])
    assert done.is_done()
    shutil.rmtree(done.path / "members" / NAMES[0])
    assert not done.is_done()
    run_all(folder, Engine())
    assert_all_gathered(folder, trained)


def test_a_job_whose_process_still_ends_is_not_removed(folder):
    """Else it, or a copy that waits for it, would begin everything anew."""
    (job, _) = jobs.plan(RUNS, folder, 0)
    lock = locks.take(job.beside(".lock"))

    seen = []

    class Late(Interruption):
        def requested(self):
            if job.is_done() and not seen:
                seen.append(job.path)
                os.close(lock)
            return super().requested()

    Sweep(folder, RUNS, RUNS, launch(Engine())).run(Late())
    assert seen
    assert len(folder.members.finished()) == 8


def test_what_is_done_is_gathered_and_the_rest_launched_in_turn(folder, trained):
    """Jobs that an earlier command left, more of them than may run at once."""
    for job in jobs.plan(RUNS, folder, 1)[:3]:
        train(job.path, [run for run in RUNS if run.name in job.runs])
    engine = Engine()  # One at a time.
    run_all(folder, engine)
    assert_all_gathered(folder, trained)
    assert len(engine.commands) == 5


# --- jobs that end too early ----------------------------------------------------------


def test_a_job_that_gets_further_is_launched_again(folder, trained):
    engine = Engine("3", "6", "9", "12")  # Four times it was killed on its way.
    run_all(folder, engine, retries=0).refuse_failed()
    assert_all_gathered(folder, trained)
    assert len(engine.commands) == 6


@pytest.mark.parametrize("retries", [0, 2])
def test_a_job_that_gets_no_further_fails_in_the_end(folder, retries):
    engine = Engine(*["at once"] * (retries + 1))
    engine.most_at_once = 1
    # The first group fails at its first attempt, waits for the second one, and so on.
    engine._dies = ["at once", "", *["at once"] * retries]
    sweep = run_all(folder, engine, retries=retries)
    assert len(engine.commands) == 2 + retries
    assert folder.members.finished() == set(NAMES[4:])
    with pytest.raises(LaunchError) as refused:
        sweep.refuse_failed()
    message = str(refused.value)
    assert "1 of 2 jobs failed" in message
    assert "'death at once'" in message
    assert ".log" in message
    assert "\n" not in message
    run_all(folder, Engine()).refuse_failed()
    assert folder.members.finished() == set(NAMES)


def test_failures_count_in_a_row(folder):
    deaths = ["at once", "3", "at once", "6", "at once", ""]
    run_all(folder, Engine(*deaths), chosen=RUNS[:4], retries=1).refuse_failed()
    assert folder.members.finished() == set(NAMES[:4])


# --- requests to stop, and what an earlier command left ------------------------------


def test_attached_jobs_are_stopped_and_wait(folder):
    engine = Engine("3")
    with pytest.raises(Stopped, match="stopped, unfinished jobs: 2"):
        run_all(folder, engine, after=0)
    assert (engine.num_stops, len(engine.commands)) == (1, 1)
    assert len(list(folder.jobs.glob("*.json"))) == 2


def test_other_jobs_go_on_and_are_found_again(folder):
    engine = Engine("3", "3")
    engine.is_attached, engine.most_at_once = False, 9
    handles = {f"handle of {folder.jobs / g.name}" for g in grid.group(RUNS)}
    engine.running = set(handles)
    with pytest.raises(Stopped, match="left to the queue, unfinished jobs: 2"):
        run_all(folder, engine, after=0)
    assert engine.num_stops == 0

    class Ending(Engine):
        """Its jobs end as the first is asked for."""

        def is_running(self, handle):
            if handle in self.running:
                train_again = Path(handle.removeprefix("handle of "))
                shutil.rmtree(train_again)
                train(train_again, RUNS[:4] if "bern" in handle else RUNS[4:])
                self.running.remove(handle)
                return True
            return False

    later = Ending()
    later.running = set(handles)
    run_all(folder, later)
    assert later.commands == []
    assert folder.members.finished() == set(NAMES)


def test_no_job_is_written_to_while_another_begins(folder):
    """Files that a running job is about to rename are not those of a dead process."""
    unfinished = folder.jobs / "job" / "members" / ".result.json.1.unfinished"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text("half")
    folder.close()
    RunFolder.create(
        folder.path, CONFIG, OWNERS, IMAGES, ignore, computes=False
    ).close()
    assert unfinished.exists()


def test_folders_that_a_running_job_removes_are_no_error(folder, monkeypatch):
    """Those of checkpoints vanish between the moments they are listed and opened."""
    vanishing = folder.jobs / "job" / "checkpoints" / "group"
    vanishing.mkdir(parents=True)
    (vanishing / "10.safetensors").touch()
    scandir = os.scandir

    def vanish(path="."):
        if Path(path) == vanishing:
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    folder.close()
    RunFolder.create(
        folder.path, CONFIG, OWNERS, IMAGES, ignore, computes=False
    ).close()
    assert not jobs.Job(folder.jobs / "job", ()).has_got_further()


@pytest.mark.parametrize("name", ["..", "."])
def test_a_note_named_like_another_folder_deletes_nothing(tmp_path, name):
    with contextlib.closing(opened(tmp_path / "run", CONFIG, OWNERS, IMAGES)) as folder:
        folder.jobs.mkdir()
        note = {"runs": [], "launcher": "fake", "handle": "1"}
        (folder.jobs / f"{name}.json").write_text(json.dumps(note))
        jobs.plan(RUNS[:1], folder, 0)
        assert (folder.path / "config.json").exists()
        assert not (folder.jobs / f"{name}.json").exists()


def test_a_note_on_runs_of_another_sweep_is_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "events.1").write_text("precious")
    with contextlib.closing(opened(tmp_path / "run", CONFIG, OWNERS, IMAGES)) as folder:
        folder.jobs.mkdir()
        note = {"runs": [NAMES[0], "../../outside"], "launcher": "x", "handle": "1"}
        (folder.jobs / "beta-12.json").write_text(json.dumps(note))
        with pytest.raises(FolderError, match="belongs to another sweep"):
            jobs.plan(RUNS, folder, 0)
    assert [path.name for path in outside.iterdir()] == ["events.1"]
