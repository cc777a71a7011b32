"""Tests of sweeps that SIGTERM or SIGINT stops, in one process and in two."""

import random
import re
import signal
import socket
import time

import pytest

from tests.faults import call_instead, harness

STOPPED = 75
ANNOUNCED = "stopping after this epoch; once more to end at once.\n"
AT_ONCE = "stopped: the same command continues.\n"
SIGNALS = [signal.SIGTERM, signal.SIGINT]

# One group of four runs; checkpoints are rare enough for epochs between them.
GROUP = (
    "--config=configs/digits.py",
    "--config.data.num_train=400",
    "--config.model.widths=(12,)",
    "--config.sweep.likelihood=bernoulli",
    "--config.sweep.latent_dim=(2, 3)",
    "--config.sweep.seed=(0, 1)",
    "--config.training.num_epochs=400",
    "--config.training.validate_every=10",
    "--config.evaluation.num_samples=2000",
    "--config.checkpoint.every_epochs=20",
    "--config.checkpoint.every_seconds=0",
    *harness.NO_DIAGNOSTICS,
)
NUM_EPOCHS = 400
# Two processes agree with each other after every epoch, which takes its time.
NUM_FEWER_EPOCHS = 80
FEWER_EPOCHS = (*GROUP, f"--config.training.num_epochs={NUM_FEWER_EPOCHS}")
# The command waits two seconds longer for its last checkpoint to be complete.
LATE_CHECKPOINTS = call_instead.program(
    "wait", "experiments.runs.checkpoints:Checkpoints.wait"
)
TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


@pytest.fixture(scope="session")
def group(common, cache):
    """Returns the folder of the group, trained undisturbed."""
    return harness.reference(common / "long-group", GROUP, cache)


@pytest.fixture(scope="session")
def on_two_devices(common, cache):
    """Returns the folder of the group, trained by one process on two devices."""
    folder = common / "two-devices"
    return harness.reference(folder, FEWER_EPOCHS, cache, **TWO_DEVICES)


def start_sweep(folder, cache, arguments=GROUP, program=("-m",)):
    sweep = harness.command("sweep", *arguments, f"--workdir={folder}", program=program)
    return harness.start(sweep, cache)


def assert_finishes_undisturbed(folder, cache, undisturbed, arguments=GROUP):
    outcome = harness.Outcome(start_sweep(folder, cache, arguments))
    assert outcome.status == 0, outcome.stderr
    harness.assert_undisturbed(folder, undisturbed)
    return outcome


def epoch_of_stop(outcome):
    """Returns the epoch that a process names when it stops during training."""
    assert outcome.status == STOPPED, outcome.stderr
    (epoch,) = re.findall(
        r"^stopped after epoch (\d+) of bernoulli-\w+: the same command continues\.$",
        outcome.stderr,
        re.MULTILINE,
    )
    return int(epoch)


def assert_continued(outcome, epoch):
    assert f"continues after epoch {epoch} of" in outcome.stdout


def latest_epoch(folder):
    return max((int(path.stem) for path in harness.checkpoints(folder)), default=0)


# --- one process ----------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_stops_after_the_epoch_and_continues_there(
    group, cache, faults, tmp_path, number
):
    rng = random.Random(number)
    stopped = 0
    for _ in range(3):
        with faults.injected(f"{number.name} in training"):
            enough = harness.checkpointed(tmp_path, rng.randrange(1, 4))
            process = start_sweep(tmp_path, cache)
            harness.send_while(enough, process, number)
            outcome = harness.Outcome(process)
            if stopped:
                assert_continued(outcome, stopped)
            before, stopped = stopped, epoch_of_stop(outcome)
            assert outcome.stderr.startswith(ANNOUNCED)
            assert before < stopped == latest_epoch(tmp_path) < NUM_EPOCHS
            assert not harness.results(tmp_path)
    outcome = assert_finishes_undisturbed(tmp_path, cache, group)
    assert_continued(outcome, stopped)


@pytest.mark.parametrize("number", SIGNALS)
def test_ends_at_once_where_nothing_is_unsaved(group, cache, faults, tmp_path, number):
    with faults.injected(f"{number.name} while it compiles"):
        process = start_sweep(tmp_path, cache)
        harness.send_while((tmp_path / "config.json").exists, process, number)
        outcome = harness.Outcome(process)
        assert (outcome.status, outcome.stderr) == (STOPPED, AT_ONCE)
        assert not (tmp_path / "checkpoints").exists()
    with faults.injected(f"{number.name} in the evaluation"):
        process = start_sweep(tmp_path, cache)
        harness.send_while(
            lambda: latest_epoch(tmp_path) == NUM_EPOCHS, process, number
        )
        outcome = harness.Outcome(process)
        assert outcome.status == STOPPED
        # The first line is there if the last checkpoint was still being completed.
        assert outcome.stderr.removeprefix(ANNOUNCED) == AT_ONCE
        assert len(harness.results(tmp_path)) < 4
    outcome = assert_finishes_undisturbed(tmp_path, cache, group)
    assert_continued(outcome, NUM_EPOCHS)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["sweep", "train"])
def test_ends_at_once_from_its_first_line(cache, faults, tmp_path, module, number):
    for delay in (0.0, 0.05, 0.2, 0.5, 1.0, 2.0):
        with faults.injected(f"{number.name} as it starts"):
            own = (f"--workdir={tmp_path / str(delay)}", *harness.NO_DIAGNOSTICS)
            process = harness.start(harness.command(module, *own), cache)
            assert harness.wait_for(lambda p=process: harness.is_guarded(p), process)
            time.sleep(delay)
            process.send_signal(number)
            outcome = harness.Outcome(process)
            assert outcome.status == STOPPED
            assert outcome.stderr.removeprefix(ANNOUNCED) in (
                AT_ONCE,
                *re.findall("stopped after epoch .*\n", outcome.stderr),
            )


@pytest.mark.parametrize("number", SIGNALS)
def test_a_request_during_the_last_checkpoint_is_heard(
    group, cache, faults, tmp_path, number
):
    with faults.injected(f"{number.name} while the last checkpoint is written"):
        process = start_sweep(tmp_path, cache, program=LATE_CHECKPOINTS)
        harness.send_while(
            lambda: latest_epoch(tmp_path) == NUM_EPOCHS, process, number
        )
        outcome = harness.Outcome(process)
        assert (outcome.status, outcome.stderr) == (STOPPED, ANNOUNCED + AT_ONCE)
        assert not harness.results(tmp_path)
    outcome = assert_finishes_undisturbed(tmp_path, cache, group)
    assert_continued(outcome, NUM_EPOCHS)


def test_a_second_signal_ends_at_once(group, cache, faults, tmp_path):
    for first, second in [SIGNALS, SIGNALS[::-1], (signal.SIGTERM, signal.SIGTERM)]:
        with faults.injected("a second signal while the first waits"):
            before = latest_epoch(tmp_path)
            process = start_sweep(tmp_path, cache, program=LATE_CHECKPOINTS)
            harness.send_while(harness.checkpointed(tmp_path), process, first)
            time.sleep(0.2)
            process.send_signal(second)
            outcome = harness.Outcome(process)
            assert outcome.status == 128 + second
            assert outcome.stderr == (
                f"{ANNOUNCED}ended at once: the same command continues.\n"
            )
            assert before < latest_epoch(tmp_path) < NUM_EPOCHS
    before = latest_epoch(tmp_path)
    outcome = assert_finishes_undisturbed(tmp_path, cache, group)
    assert_continued(outcome, before)


# --- two processes --------------------------------------------------------------------


def start_two(folder, cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        harness.start(
            harness.command(
                "sweep",
                *FEWER_EPOCHS,
                f"--workdir={folder}",
                "--distributed",
                f"--coordinator=127.0.0.1:{port}",
                "--num_processes=2",
                f"--process_id={index}",
            ),
            cache,
        )
        for index in (0, 1)
    ]


def test_two_processes_stop_together(on_two_devices, cache, faults, tmp_path):
    """One or both get the request; their results are those of one process."""
    stopped = 0
    for number, receivers in ((signal.SIGTERM, [1]), (signal.SIGINT, [0, 1])):
        with faults.injected(f"{number.name} to one or both of two processes"):
            enough = harness.checkpointed(tmp_path)
            processes = start_two(tmp_path, cache)
            harness.send_while(enough, processes[receivers[0]], number)
            for index in receivers[1:]:
                processes[index].send_signal(number)
            outcomes = [harness.Outcome(process) for process in processes]
            if stopped:
                assert_continued(outcomes[0], stopped)
            before, stopped = stopped, epoch_of_stop(outcomes[0])
            assert epoch_of_stop(outcomes[1]) == stopped
            assert before < stopped == latest_epoch(tmp_path) < NUM_FEWER_EPOCHS
    outcomes = [harness.Outcome(process) for process in start_two(tmp_path, cache)]
    assert [outcome.status for outcome in outcomes] == [0, 0]
    assert_continued(outcomes[0], stopped)
    harness.assert_undisturbed(tmp_path, on_two_devices)


def test_a_second_signal_ends_two_processes_at_once(
    on_two_devices, cache, faults, tmp_path
):
    with faults.injected("a second signal to two processes"):
        processes = start_two(tmp_path, cache)
        assert harness.wait_for((tmp_path / "config.json").exists, processes[0])
        for number in (signal.SIGTERM, signal.SIGINT):
            # The coordinator ends last: without it, the other one fails by itself.
            processes[1].send_signal(number)
            processes[0].send_signal(number)
            time.sleep(0.3)
        outcomes = [harness.Outcome(process) for process in processes]
        assert outcomes[1].status == 128 + signal.SIGINT
        assert outcomes[1].stderr.startswith(ANNOUNCED)
        assert outcomes[0].status != 0
        outcomes = [harness.Outcome(process) for process in start_two(tmp_path, cache)]
        assert [outcome.status for outcome in outcomes] == [0, 0]
        harness.assert_undisturbed(tmp_path, on_two_devices)
