"""Tests of experiments.guard, in real processes: signals and closed streams."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.guard import STOPPED
from tests.commands import COMMANDS
from tests.faults import call_instead
from tests.faults.harness import is_guarded

ROOT = Path(__file__).parents[1]
SIGNALS = [signal.SIGINT, signal.SIGTERM]
CONTINUES = "stopped: the same command continues.\n"
STARTS_AGAIN = "interrupted: the same command starts again.\n"

TINY = (
    "--config=configs/digits.py:tiny",
    "--config.model.widths=(8,)",
    "--config.training.num_epochs=2",
    "--config.training.validate_every=1",
    "--config.training.kl_warmup_epochs=1",
    "--config.evaluation.num_samples=8",
)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Keeps compiled programs for these tests, outside the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAE_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def start(name, *arguments, program=("-m",), **streams):
    return subprocess.Popen(
        [sys.executable, *program, f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
    )


def wait_for(condition, process):
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.001)


def end_of(process):
    """Returns status and errors of a process, which has ended then."""
    try:
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, errors


# --- signals --------------------------------------------------------------------------


def arguments_of(name, folder):
    """Returns the arguments of a command that runs longer than a signal needs."""
    return {
        "sweep": ["--workdir", folder / "run"],
        "train": ["--workdir", folder / "run"],
        "evaluate": ["--workdir", folder / "none"],
        "compare": ["0", "1", "--workdir", folder / "none"],
        "export": ["--workdir", folder / "none"],
        "explore": ["--workdir", folder / "none"],
        "replay": ["--workdir", folder / "none"],
        "papers": ["--page", folder / "page.md"],
        "theory": ["--workdir", folder],
        "prepare": ["mnist", "--data_dir", folder, "--source", folder / "none"],
    }[name]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_while_a_command_is_imported_ends_it_in_one_line(
    tmp_path, name, number
):
    for delay in (0.0, 0.15):
        process = start(name, *arguments_of(name, tmp_path))
        wait_for(lambda p=process: is_guarded(p), process)
        time.sleep(delay)
        process.send_signal(number)
        if name in ("sweep", "train"):
            assert end_of(process) == (STOPPED, CONTINUES)
        else:
            assert end_of(process) == (128 + number, STARTS_AGAIN)
    assert not list(tmp_path.iterdir())


def test_it_is_obeyed_though_the_shell_had_it_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # As in the background.
    try:
        process = start("train", "--workdir", tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    wait_for(lambda: is_guarded(process), process)
    process.send_signal(signal.SIGINT)
    assert end_of(process) == (STOPPED, CONTINUES)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_does_not_continue_unwinds(tmp_path, number):
    """Its half-written file is removed; a move of a file takes two seconds here."""
    page = tmp_path / "page.md"
    slow = call_instead.program("wait", "experiments.files.writing:os.replace")
    process = start("papers", "--page", page, program=slow)
    wait_for(lambda: list(tmp_path.iterdir()), process)
    process.send_signal(number)
    assert end_of(process) == (128 + number, STARTS_AGAIN)
    assert not list(tmp_path.iterdir())


def test_an_interruption_in_a_callback_is_not_lost():
    code = (
        "import os, signal, sys\n"
        "from experiments import guard\n"
        "class Deleted:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "guard.protect()\n"
        "guard.listen_and_unwind()\n"
        "deleted = Deleted()\n"
        "del deleted\n"
        "print('goes on')"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (130, STARTS_AGAIN)
    assert process.stdout == ""


# --- streams --------------------------------------------------------------------------


def nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_goes_away_does_not_end_a_training(tmp_path, stream):
    writer = nobody_reads()
    process = start("train", *TINY, "--workdir", tmp_path, **{stream: writer})
    os.close(writer)
    status, errors = end_of(process)
    assert (status, errors or "") == (0, "")
    assert (tmp_path / "report.html").exists()


def shell(line, **options):
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.format(python=sys.executable)}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_closed_streams_do_not_end_a_training_nor_become_its_files(tmp_path):
    line = " ".join([*(f"'{option}'" for option in TINY), f"--workdir={tmp_path}"])
    ended = shell(f"{{python}} -m experiments.train {line} <&- >&- 2>&-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert (tmp_path / "report.html").exists()
    assert (
        len((tmp_path / "members" / "model" / "metrics.jsonl").read_text().splitlines())
        == 2
    )


@pytest.mark.parametrize(
    "line",
    [
        "{python} -m experiments.sweep --help",
        "{python} -m experiments.sweep --help | head -1",
        "{python} -m experiments.evaluate --helpfull",
        "{python} -m experiments.evaluate --helpfull | head -1",
        "{python} -m experiments.train --helpshort >&-",
        "{python} -m experiments.sweep --list | head -1",
        "{python} -m experiments.sweep --list >&-",
        "{python} -m experiments.sweep --list 2>&- | head -1",
    ],
)
def test_output_may_be_left_unread(line):
    ended = shell(line)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert bool(ended.stdout) == (">&-" not in line or "2>&-" in line)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&-"])
def test_a_refusal_that_cannot_be_printed_is_one(redirection):
    ended = shell(f"{{python}} -m experiments.sweep --lst {redirection}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "")


def test_a_full_disk_is_reported():
    ended = shell("{python} -m experiments.sweep --list >/dev/full")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "No space left on device" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_names_that_an_encoding_does_not_have_are_printed(tmp_path):
    ended = shell(
        f"{{python}} -m experiments.evaluate --workdir={tmp_path}/β",
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert ended.returncode == 2
    assert r"\u03b2 is not a run folder" in ended.stderr
