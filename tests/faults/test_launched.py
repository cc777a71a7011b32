"""Tests of sweeps as jobs, whose processes are killed and stopped."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests import fake_slurm
from tests.faults import harness

STOPPED = 75


def start(folder, cache, *options, **environment):
    """Starts the sweep of the harness, launched as the options say."""
    sweep = harness.command("sweep", *harness.SWEEP, f"--workdir={folder}", *options)
    return harness.start(sweep, cache, **environment)


def local(folder, cache, count=1):
    return start(folder, cache, "--launcher=local", f"--max_jobs={count}")


def commands_of(folder):
    """Returns the processes that run the jobs of a sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode()
        except (FileNotFoundError, ProcessLookupError):  # It has just ended.
            continue
        if f"--workdir={folder}\0" in line and "--noreport" in line:
            found.append(int(path.parent.name))
    return found


def epochs(folder):
    """Returns the epochs of all present checkpoints."""
    return [int(path.stem) for path in harness.checkpoints(folder)]


def freeze_a_job(folder, process, after=0):
    """Stops the process of a job, during training and after an epoch."""
    for _ in range(100):
        assert harness.wait_for(
            lambda: any(after < n < harness.NUM_EPOCHS for n in epochs(folder)), process
        )
        for pid in commands_of(folder):
            os.kill(pid, signal.SIGSTOP)
            if any(after < n < harness.NUM_EPOCHS for n in epochs(folder)):
                return pid
            os.kill(pid, signal.SIGCONT)
    raise AssertionError("the moment never came")


def assert_done(process, folder, undisturbed):
    outcome = harness.Outcome(process, timeout=600)
    assert outcome.status == 0, outcome.stderr
    harness.assert_undisturbed(folder, undisturbed)
    assert not (folder / "jobs").exists()
    assert not commands_of(folder)
    return outcome


def test_a_job_that_is_killed_ends_with_the_same_bits(
    undisturbed, cache, faults, tmp_path
):
    """Both jobs run at once, and one of them is killed twice."""
    with faults.injected("SIGKILL to a job"):
        process = local(tmp_path, cache, 2)
        for epoch in (0, 9):
            os.kill(freeze_a_job(tmp_path, process, epoch), signal.SIGKILL)
        outcome = assert_done(process, tmp_path, undisturbed)
        assert outcome.stdout.count("ended too early and is launched again") == 2


@pytest.mark.parametrize("count", [0, 4])
def test_the_launching_command_is_killed(undisturbed, cache, faults, tmp_path, count):
    """Its jobs go on; the next command waits for them, and trains nothing twice."""
    with faults.injected("SIGKILL to the command that launches"):
        process = local(tmp_path, cache)
        assert harness.wait_for(
            lambda: len(harness.results(tmp_path)) >= count, process
        )
        orphan = freeze_a_job(tmp_path, process)
        process.kill()
        process.wait()
        process.stdout.close()  # Its jobs hold the other ends.
        process.stderr.close()
        finished = harness.results(tmp_path)
        assert len(finished) == count
        again = local(tmp_path, cache)
        # It drops the note on the job, which is not one of its own processes.
        notes = tmp_path / "jobs"
        assert harness.wait_for(lambda: not any(notes.glob("*.json")), again)
        time.sleep(1)
        os.kill(orphan, signal.SIGCONT)
        outcome = assert_done(again, tmp_path, undisturbed)
        if not count:  # Otherwise it may be a job that has all its results.
            assert "waits for another command" in outcome.stdout
        assert "ended too early" not in outcome.stdout
        assert finished.items() <= harness.results(tmp_path).items()


def test_two_launching_commands_share_the_jobs(undisturbed, cache, faults, tmp_path):
    with faults.injected("two commands that launch"):
        first, second = local(tmp_path, cache), local(tmp_path, cache)
        outcome = harness.Outcome(first, timeout=600)
        assert outcome.status == 0, outcome.stderr
        assert_done(second, tmp_path, undisturbed)


def test_stopped_jobs_continue(undisturbed, cache, faults, tmp_path):
    """A sweep begun in one process continues in jobs, which stop on request."""
    with faults.injected("SIGTERM to the command that launches"):
        # In one lane, so that the latest checkpoint is of the first job's group.
        alone = start(tmp_path, cache, "--config.parallel.lanes=1")
        harness.send_while(harness.checkpointed(tmp_path), alone, signal.SIGKILL)
        harness.Outcome(alone)
        epoch = max(int(path.stem) for path in harness.checkpoints(tmp_path))

        process = local(tmp_path, cache)
        job = freeze_a_job(tmp_path, process, epoch)
        process.terminate()
        time.sleep(1)  # The command passes the request on.
        os.kill(job, signal.SIGCONT)
        outcome = harness.Outcome(process)
        assert outcome.status == STOPPED, outcome.stderr
        assert "stopped, unfinished jobs: 2: the same command" in outcome.stderr
        assert not commands_of(tmp_path)
        logs = [path.read_text() for path in (tmp_path / "jobs").glob("*.log")]
        assert any(f"continues after epoch {epoch} of" in log for log in logs)
        assert any("stopped after epoch" in log for log in logs)

        # The other way round, and jobs once more.
        alone = start(tmp_path, cache)
        harness.send_while(harness.checkpointed(tmp_path), alone, signal.SIGKILL)
        harness.Outcome(alone)
        assert_done(local(tmp_path, cache), tmp_path, undisturbed)


def test_slurm_goes_on_without_the_command(undisturbed, cache, faults, tmp_path):
    pytest.importorskip("submitit", reason="pip install submitit")
    folder = tmp_path / "sweep"
    slurm = fake_slurm.install(tmp_path / "slurm")
    with faults.injected("SIGTERM to the command that launches"):
        process = start(folder, cache, "--launcher=slurm", **slurm)
        job = freeze_a_job(folder, process)
        process.terminate()
        outcome = harness.Outcome(process)
        assert outcome.status == STOPPED, outcome.stderr
        assert outcome.stderr.endswith("the same command continues.\n")
        assert "left to the queue" in outcome.stderr
        assert job in commands_of(folder)
    with faults.injected("SIGKILL to a job"):
        again = start(folder, cache, "--launcher=slurm", **slurm)
        os.kill(job, signal.SIGKILL)
        assert_done(again, folder, undisturbed)
    # One array of both jobs, and the one that was killed.
    scripts = sorted(Path(slurm["FAKE_SLURM"]).glob("*.sh"))
    arrays = ["--array=0-1%2" in path.read_text() for path in scripts]
    assert arrays == [True, False]


def test_ray_ends_with_the_same_bits(undisturbed, cache, faults, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="pip install ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        with faults.injected("SIGKILL to a job"):
            process = start(
                tmp_path,
                cache,
                "--launcher=ray",
                RAY_ADDRESS=cluster.address_info["gcs_address"],
            )
            os.kill(freeze_a_job(tmp_path, process), signal.SIGKILL)
            assert_done(process, tmp_path, undisturbed)
    finally:
        ray.shutdown()
