"""Tests of sweeps as jobs, with a fake engine that writes the files of training."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from configs import digits
from experiments.launch import jobs
from experiments.launch.launching import Jobs
from experiments.messages.errors import FolderError
from experiments.runner.interruption import Stopped
from experiments.runs.notes import Note
from experiments.settings import grid
from experiments.settings.fingerprint import fingerprints
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
GROUPS = grid.group(RUNS)
OWNERS = fingerprints(RUNS, "0123456789ab")


class Interruption:
    """Requests a stop from the n-th call on."""

    def __init__(self, after=1000):
        self._after, self._asked = after, 0

    def requested(self):
        self._asked += 1
        assert self._asked < 200, "the jobs do not end"
        return self._asked > self._after


class Engine:
    """Runs a job as it is submitted.

    ``ends`` names how it ends at each attempt: ``""`` after everything, ``"at once"``,
    or with a checkpoint of that epoch.
    """

    name = "fake"
    is_attached = True
    poll_seconds = 0.001
    most_at_once = 1

    def __init__(self, folder, *ends):
        self.path = folder.path
        self.ends = list(ends)
        self.trained = []
        self.running = set()
        self.num_stops = 0

    def submit(self, commands):
        assert len(commands) <= self.most_at_once
        for command in commands:
            (only,) = (a for a in command.arguments if a.startswith("--only="))
            runs = grid.choose(RUNS, only.removeprefix("--only="))
            self.trained.append([run.name for run in runs])
            end = self.ends.pop(0) if self.ends else ""
            Path(command.log).write_text(f"some\nend {end}\n\n")
            if end != "at once":
                train(self.path, runs, end)
        return [f"handle {len(self.trained) - i}" for i in range(len(commands))]

    def is_running(self, handle):
        return handle in self.running

    def stop(self):
        self.num_stops += 1


def train(path, runs, epoch=""):
    """Leaves the files of a job of a group of runs: a checkpoint, or all results."""
    folder = opened(path, CONFIG, OWNERS)
    note = Note.on(grid.Group(tuple(runs)))
    checkpoints = folder.groups.begin(note)
    if epoch:
        checkpoints.mkdir(exist_ok=True)
        (checkpoints / f"{epoch}.safetensors").touch()
    else:
        for run in runs:
            save_member(folder, run.name)
        folder.groups.end(note.name)
    folder.close()


@pytest.fixture
def folder(tmp_path):
    folder = opened(tmp_path / "sweep", CONFIG, OWNERS, computes=False)
    yield folder
    folder.close()


def launched(folder, engine, chosen=RUNS, retries=2, slice_size=0):
    return Jobs(folder, RUNS, chosen, jobs.Launch(engine, retries, slice_size, ()))


def run_all(folder, engine, after=1000, **options):
    return launched(folder, engine, **options).run(Interruption(after))


def assert_done(folder):
    assert folder.members.finished() == set(NAMES)
    assert not (folder.path / "jobs").exists()


def note_on(folder, runs, handle="handle", name="laplace-0", launcher="fake"):
    """Leaves a note on a job, as an earlier command does."""
    path = folder.path / "jobs" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"runs": runs, "launcher": launcher, "handle": handle}))
    return path


# --- the command of a job -------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((), ()),
        (("--launcher=local", "--max_jobs=4"), ()),
        (("--launcher", "slurm", "--slurm", "partition=gpu,qos=low"), ()),
        (("-workdir=x", "-only", "3-4", "--slice", "2"), ("-workdir=x",)),
        (("--config=a.py:b", "--ray=num_cpus=1"), ("--config=a.py:b",)),
        (("--config.sweep.seed", "(0, 1)"), ("--config.sweep.seed", "(0, 1)")),
        (("--noconfig.data.download",), ("--noconfig.data.download",)),
        (("--config=a.py", "--"), ("--config=a.py",)),
    ],
)
def test_a_job_has_the_command_line_of_its_sweep(given, kept):
    _, *rest = jobs.command(given, "0-3")
    module = ("-m", "experiments.sweep")
    assert tuple(rest) == (*module, *kept, "--only=0-3", "--noreport")


def test_ranges_choose_the_runs_they_were_made_of():
    assert jobs.ranges([3, 0, 1, 2, 7, 5, 6]) == "0-3 5-7"
    assert jobs.ranges([4]) == "4"
    for seed in range(20):
        rng = np.random.default_rng(seed)
        indices = np.flatnonzero(rng.random(len(RUNS)) < 0.5).tolist() or [0]
        chosen = grid.choose(RUNS, jobs.ranges(indices))
        assert chosen == tuple(RUNS[i] for i in indices)


# --- which jobs there are -------------------------------------------------------------


@pytest.mark.parametrize(
    ("slice_size", "chosen", "expected"),
    [
        (0, RUNS, [NAMES[:4], NAMES[4:]]),
        (3, RUNS, [NAMES[:3], NAMES[3:4], NAMES[4:7], NAMES[7:]]),
        (0, RUNS[2:5], [NAMES[2:4], NAMES[4:5]]),
    ],
)
def test_a_job_is_a_group_or_a_slice_of_one(folder, slice_size, chosen, expected):
    engine = Engine(folder)
    assert run_all(folder, engine, chosen=chosen, slice_size=slice_size) == ""
    assert engine.trained == expected
    assert folder.members.finished() == {run.name for run in chosen}
    assert not (folder.path / "jobs").exists()


def test_finished_runs_are_in_no_job(folder):
    for run in NAMES[:4]:
        save_member(folder, run)
    engine = Engine(folder)
    run_all(folder, engine)
    assert engine.trained == [NAMES[4:]]


def test_a_group_begun_without_a_launcher_is_one_job(folder):
    train(folder.path, GROUPS[0].runs, "30")
    engine = Engine(folder)
    run_all(folder, engine, slice_size=2)
    assert engine.trained == [NAMES[:4], NAMES[4:6], NAMES[6:]]
    assert_done(folder)


@pytest.mark.parametrize(
    "note", ["", '{"runs": 3}', "[]", f'{{"runs": ["{NAMES[0]}"], "launcher": "fake"}}']
)
def test_a_damaged_note_is_removed(folder, note):
    path = note_on(folder, NAMES[:4])
    path.write_text(note)
    jobs = launched(folder, Engine(folder))
    assert not path.exists()
    jobs.run(Interruption())
    assert_done(folder)


def test_the_note_of_another_engine_stays_until_its_runs_are_finished(folder):
    """Its files in the folder are needed: the job may be in its queue."""
    path = note_on(folder, NAMES[4:], launcher="another")
    run_all(folder, Engine(folder), chosen=RUNS[:4])
    assert path.exists()
    engine = Engine(folder)
    run_all(folder, engine)
    assert engine.trained == [NAMES[4:]]
    assert_done(folder)


@pytest.mark.parametrize("runs", [[], [NAMES[0], "../../outside"]])
def test_a_note_on_runs_of_another_sweep_is_removed(folder, runs):
    outside = folder.path.parent / "outside"
    outside.mkdir()
    path = note_on(folder, runs, name="..")
    engine = Engine(folder)
    engine.running = {"handle"}
    launched(folder, engine)
    assert not path.exists()
    assert outside.exists()
    assert (folder.path / "config.json").exists()


def test_a_job_of_an_earlier_version_is_refused_until_it_is_deleted(tmp_path):
    opened(tmp_path / "run" / "jobs" / "laplace-0", CONFIG, OWNERS).close()
    with pytest.raises(FolderError) as refused:
        jobs.refuse_earlier_jobs(tmp_path / "run")
    message = str(refused.value)
    assert "\n" not in message
    place = message.partition("delete ")[2].partition(" to train")[0]
    assert place == str(tmp_path / "run" / "jobs")
    (tmp_path / "run" / "jobs").rename(tmp_path / "elsewhere")
    jobs.refuse_earlier_jobs(tmp_path / "run")
    jobs.refuse_earlier_jobs(tmp_path / "nowhere")


# --- what a folder holds afterwards ---------------------------------------------------


def test_the_environment_is_that_of_the_jobs(folder, tmp_path, capsys):
    run_all(folder, Engine(folder))
    expected = opened(tmp_path / "alone", CONFIG, OWNERS)
    expected.close()
    assert folder.environment() == expected.environment()
    assert "another environment" not in capsys.readouterr().out


def test_a_job_on_another_machine_is_reported(folder, capsys, monkeypatch):
    class Elsewhere(Engine):
        def submit(self, commands):
            monkeypatch.setenv("XLA_FLAGS", f"--flag={len(self.trained)}")
            return super().submit(commands)

    run_all(folder, Elsewhere(folder))
    (continued,) = folder.environment()["continued"]
    assert continued["bits_depend_on"]["xla_flags"] == "--flag=1"
    assert "another environment" in capsys.readouterr().out


# --- runs that other commands train ---------------------------------------------------


@pytest.mark.parametrize("trains", [True, False])
def test_runs_that_another_command_trains_are_waited_for(folder, trains):
    """It is a command without a launcher, or the job of a killed command."""
    other = opened(folder.path, CONFIG, OWNERS)
    assert other.claims.take(NAMES[:4])
    engine = Engine(folder)

    class Late(Interruption):
        def requested(self):
            if self._asked == 10:
                assert NAMES[:4] not in engine.trained
                for run in NAMES[:4] * trains:
                    save_member(other, run)
                other.close()
            return super().requested()

    engine.most_at_once = 2
    assert launched(folder, engine).run(Late()) == ""
    assert engine.trained == [NAMES[4:], *[NAMES[:4]] * (not trains)]
    assert_done(folder)


def test_a_job_whose_process_still_ends_is_not_done(folder):
    """The report comes after all files of a job."""
    other = opened(folder.path, CONFIG, OWNERS)
    engine = Engine(folder)
    engine.most_at_once, engine.running = 2, {"handle 1", "handle 2"}

    class Late(Interruption):
        def requested(self):
            engine.running.clear()
            if self._asked == 0:
                assert other.claims.take(NAMES[4:])
            if self._asked == 10:
                assert (folder.path / "jobs").exists()
                other.close()
            return super().requested()

    assert launched(folder, engine).run(Late()) == ""
    assert_done(folder)


# --- jobs that end too early ----------------------------------------------------------


def test_a_job_that_gets_further_is_launched_again(folder):
    engine = Engine(folder, "3", "6", "9", "12")  # Four times it was killed on its way.
    assert run_all(folder, engine, retries=0) == ""
    assert_done(folder)
    assert len(engine.trained) == 6


@pytest.mark.parametrize("retries", [0, 2])
def test_a_job_that_gets_no_further_fails_in_the_end(folder, retries):
    # The first group fails at its first attempt, waits for the second one, and so on.
    engine = Engine(folder, "at once", "", *["at once"] * retries)
    message = run_all(folder, engine, retries=retries)
    assert len(engine.trained) == 2 + retries
    assert folder.members.finished() == set(NAMES[4:])
    assert "1 of 2 jobs failed" in message
    assert "'end at once'" in message
    assert "\n" not in message
    log = Path(message.partition("line in ")[2].partition(". Give")[0])
    assert log.read_text() == "some\nend at once\n\n"
    # The same command tries it again.
    assert run_all(folder, Engine(folder)) == ""
    assert_done(folder)


def test_failures_count_in_a_row(folder):
    ends = ["at once", "3", "at once", "6", "at once", ""]
    assert run_all(folder, Engine(folder, *ends), chosen=RUNS[:4], retries=1) == ""
    assert folder.members.finished() == set(NAMES[:4])


def test_the_checkpoints_of_other_jobs_are_no_progress(folder):
    train(folder.path, GROUPS[1].runs, "3")
    (job,) = launched(folder, Engine(folder), chosen=RUNS[:4])._waiting
    job.steps = launched(folder, Engine(folder))._steps(job)
    train(folder.path, GROUPS[1].runs, "6")
    assert launched(folder, Engine(folder))._steps(job) == job.steps == set()


# --- requests to stop, and what an earlier command left ------------------------------


def test_attached_jobs_are_stopped_and_wait(folder):
    engine = Engine(folder, "3")
    with pytest.raises(Stopped, match="stopped, unfinished jobs: 2"):
        run_all(folder, engine, after=0)
    assert (engine.num_stops, len(engine.trained)) == (1, 1)
    run_all(folder, Engine(folder))
    assert_done(folder)


def test_a_request_after_the_last_result_stops_nothing(folder):
    engine = Engine(folder)
    assert run_all(folder, engine, after=1) == ""
    assert_done(folder)


def test_other_jobs_go_on_and_are_found_again(folder):
    engine = Engine(folder, "3", "3")
    engine.is_attached, engine.most_at_once = False, 9
    engine.running = {"handle 1", "handle 2"}
    with pytest.raises(Stopped, match="left to the queue, unfinished jobs: 2"):
        run_all(folder, engine, after=0)
    assert engine.num_stops == 0

    class Ending(Engine):
        """An engine whose jobs end one after another, one at each query."""

        def is_running(self, handle):
            if handle not in self.running:
                return False
            if looked:
                train(folder.path, GROUPS[int(handle[-1]) % 2].runs)
                self.running.remove(handle)
            return True

    later, looked = Ending(folder), []
    later.running = set(engine.running)
    # The same jobs, for any size of the slices.
    found = launched(folder, later, slice_size=1)
    looked.append(True)
    assert found.run(Interruption()) == ""
    assert later.trained == []
    assert_done(folder)


def test_a_queue_that_has_lost_sight_of_a_job_is_not_waited_for(folder):
    engine = Engine(folder)
    engine.is_attached, engine.running = False, {"handle 1", "handle 2"}
    assert run_all(folder, engine) == ""
    assert_done(folder)


def test_checkpoints_that_vanish_are_no_error(folder, monkeypatch):
    """They vanish while a job runs, after the listing and before the opening."""
    train(folder.path, GROUPS[0].runs, "10")
    vanishing = folder.path / "checkpoints" / GROUPS[0].name
    (job,) = launched(folder, Engine(folder), chosen=RUNS[:4])._waiting
    assert launched(folder, Engine(folder))._steps(job)
    scandir = os.scandir

    def vanish(path="."):
        if Path(path) == vanishing:
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    opened(folder.path, CONFIG, OWNERS).close()
    assert launched(folder, Engine(folder))._steps(job) == set()
