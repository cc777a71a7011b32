"""Tests that the same configuration and seed give the same bits or numbers.

The same bits are promised for the same versions, machine and devices. On other devices,
or with other members, the compiler sums in another order. Results then agree to the
tolerance below, which is the measured difference with a wide margin.
"""

import json
import signal
import socket

import filelock
import numpy as np
import pytest
import safetensors.numpy

from tests.faults import harness

# Largest differences after 24 epochs: of any parameter relative to the largest of its
# array, and of any score in nats. Measured: 4.3e-7 and 4.4e-9.
PARAMETER_TOLERANCE = 1e-4
SCORE_TOLERANCE = 1e-3

# Eight runs in one group, with a shared parameter.
SWEEP = (
    "--config.data.num_train=400",
    "--config.model.widths=(12,)",
    "--config.sweep.likelihood=gaussian_optimal",
    "--config.sweep.latent_dim=(2,3)",
    "--config.sweep.seed=(0,1,2,3)",
    "--config.training.num_epochs=24",
    "--config.training.validate_every=4",
    "--config.evaluation.num_samples=20",
    "--config.checkpoint.every_epochs=2",
    *harness.NO_DIAGNOSTICS,
)
ALONE = "likelihood=gaussian_optimal,latent_dim=2,seed=1"
WARNING = "was begun elsewhere"


def sweep(folder, *more):
    return harness.command("sweep", *SWEEP, f"--workdir={folder}", *more)


def devices(count):
    """Returns an environment in which one process has so many devices."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}


def finish(process):
    return harness.Outcome(process, timeout=600)


def run(arguments, cache, **environment):
    return finish(harness.start(arguments, cache, **environment))


def succeed(outcome):
    assert outcome.status == 0, outcome.stderr
    return outcome


def start_two(folder, cache):
    """Starts two processes, of one device each, that train one population."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        harness.start(
            sweep(
                folder,
                "--distributed",
                f"--coordinator=127.0.0.1:{port}",
                "--num_processes=2",
                f"--process_id={i}",
            ),
            cache,
        )
        for i in (0, 1)
    ]


def run_two(folder, cache):
    return [succeed(outcome) for outcome in map(finish, start_two(folder, cache))]


def once(common, name, train):
    """Returns a folder filled by ``train``, shared by all workers; stays unchanged."""
    folder = common / name
    with filelock.FileLock(common / f"{name}.lock"):
        if not (folder / "report.html").exists():
            train(folder)
    return folder


@pytest.fixture(scope="session")
def one_device(common, cache):
    return once(common, "one", lambda folder: succeed(run(sweep(folder), cache)))


@pytest.fixture(scope="session")
def two_devices(common, cache):
    return once(
        common,
        "two",
        lambda folder: succeed(run(sweep(folder), cache, **devices(2))),
    )


def differences(folder, other, runs=None):
    """Returns largest differences: parameters, relative to their array's, and scores.

    They are over the named runs, or over all; both folders then hold the same runs.
    """
    mine, theirs = (harness.outcome_of(path)["results"] for path in (folder, other))
    if not runs:
        runs = mine.keys()
        assert runs == theirs.keys() != set()
    parameters = scores = 0.0
    for run in runs:
        (result, bytes_, _), (other_result, other_bytes, _) = mine[run], theirs[run]
        assert result["epochs"] == other_result["epochs"]
        scores = max(scores, abs(result["score"] - other_result["score"]))
        arrays, others = map(safetensors.numpy.load, (bytes_, other_bytes))
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            if array.size:
                largest = np.abs(array).max()
                apart = np.abs(array - others[name]).max()
                parameters = max(parameters, float(apart / largest) if apart else 0.0)
    return parameters, scores


def assert_close(folder, other, runs=None):
    parameters, scores = differences(folder, other, runs)
    print(f"apart: parameters {parameters:.2g}, scores {scores:.2g}")
    assert parameters < PARAMETER_TOLERANCE
    assert scores < SCORE_TOLERANCE


def kill_after_checkpoint(processes, folder):
    """Kills processes as soon as the first of them has written a checkpoint."""
    assert harness.wait_for(lambda: harness.checkpoints(folder), processes[0])
    for process in processes:
        process.kill()
    for process in processes:
        assert finish(process).status == -signal.SIGKILL
    assert int(harness.checkpoints(folder)[-1].stem) > 0
    assert len(list(folder.glob("members/*/result.json"))) < 8


# --- the same bits --------------------------------------------------------------------


@pytest.mark.parametrize("programs", ["kept", "compiled again", "not kept at all"])
def test_fresh_processes_give_the_same_bits(
    programs, one_device, cache, faults, tmp_path
):
    others = {"not kept at all": {"JAX_ENABLE_COMPILATION_CACHE": "false"}}
    own_cache = cache if programs == "kept" else tmp_path / "cache"
    with faults.injected("determinism: the same command again"):
        command = sweep(tmp_path / "run")
        succeed(run(command, own_cache, **others.get(programs, {})))
        expected = harness.outcome_of(one_device)
        assert harness.outcome_of(tmp_path / "run") == expected
    compiled = [path for path in own_cache.glob("programs/*") if path.is_file()]
    assert bool(compiled) == (programs != "not kept at all")


def test_control_another_seed_gives_other_bits(one_device):
    results = harness.outcome_of(one_device)["results"]
    _, other, _ = results[ALONE]
    assert results[ALONE.replace("seed=1", "seed=0")][1] != other


def test_two_processes_give_the_bits_of_two_devices(
    two_devices, cache, faults, tmp_path
):
    with faults.injected("determinism: two processes"):
        first, second = run_two(tmp_path / "run", cache)
        assert (first.stderr, second.stderr) == ("", "")
        # The second prints only that Gloo has connected it.
        assert all(row.startswith("[Gloo]") for row in second.stdout.splitlines())
        expected = harness.outcome_of(two_devices)
        assert harness.outcome_of(tmp_path / "run") == expected
        environment = json.loads((tmp_path / "run" / "environment.json").read_text())
        assert environment["bits_depend_on"]["num_processes"] == 2


def test_a_moved_folder_continues_to_the_same_bits(one_device, cache, faults, tmp_path):
    kill_after_checkpoint(
        [harness.start(sweep(tmp_path / "run"), cache)], tmp_path / "run"
    )
    with faults.injected("determinism: moved folder"):
        (tmp_path / "elsewhere").mkdir()
        moved = (tmp_path / "run").rename(tmp_path / "elsewhere" / "moved")
        outcome = succeed(run(sweep(moved), cache))
        assert outcome.stderr == ""
        assert WARNING not in outcome.stdout
        assert harness.outcome_of(moved) == harness.outcome_of(one_device)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("execution", ["map", "loop"])
def test_a_run_alone_is_that_in_company(execution, cache, faults, tmp_path):
    """They agree to the tolerance, and parameters to the bit if members run one by one.

    The last bits of its evaluation depend on the number of members even then.
    """
    more = f"--config.parallel.member_execution={execution}"
    together, alone = tmp_path / "together", tmp_path / "alone"
    same = "--only=latent_dim=2"
    with faults.injected("determinism: other company"):
        succeed(run(sweep(together, more, same), cache))
        succeed(run(sweep(alone, more, f"--only={ALONE}"), cache))
        assert_close(alone, together, {ALONE})
        if execution == "loop":
            mine, theirs = map(harness.outcome_of, (alone, together))
            assert mine["results"][ALONE][1] == theirs["results"][ALONE][1]


# --- the same numbers -----------------------------------------------------------------


def test_eight_devices_give_the_numbers_of_one(one_device, cache, faults, tmp_path):
    with faults.injected("determinism: eight devices for one"):
        succeed(run(sweep(tmp_path / "run"), cache, **devices(8)))
        assert_close(tmp_path / "run", one_device)


@pytest.mark.parametrize("count", [1, 4])
def test_two_devices_are_continued_by_others(
    count, two_devices, cache, faults, tmp_path
):
    folder = tmp_path / "run"
    with faults.injected("determinism: continued on other devices"):
        process = harness.start(sweep(folder), cache, **devices(2))
        kill_after_checkpoint([process], folder)
        outcome = succeed(run(sweep(folder), cache, **devices(count)))
        for words in (WARNING, f"num_devices is 2 there and {count} here", "its bits"):
            assert words in outcome.stdout
        assert_close(folder, two_devices)
    (continued,) = json.loads((folder / "environment.json").read_text())["continued"]
    assert continued["bits_depend_on"]["num_devices"] == count


@pytest.mark.parametrize("first", ["one process", "two processes"])
def test_another_number_of_processes_continues(
    first, two_devices, cache, faults, tmp_path
):
    folder = tmp_path / "run"
    with faults.injected("determinism: continued by other processes"):
        if first == "one process":
            kill_after_checkpoint([harness.start(sweep(folder), cache)], folder)
            warned, other = run_two(folder, cache)
            assert other.stderr == ""
        else:
            kill_after_checkpoint(start_two(folder, cache), folder)
            warned = succeed(run(sweep(folder), cache))
        assert WARNING in warned.stdout
        assert "num_processes is" in warned.stdout
        assert_close(folder, two_devices)
