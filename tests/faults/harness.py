"""Runs real commands that tests disturb; compares the results that must survive."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from tensorboardX.proto.event_pb2 import Event

ROOT = Path(__file__).parents[2]

# They take most of the time and hold no state.
NO_DIAGNOSTICS = (
    "--config.diagnostics.latents=false",
    "--config.diagnostics.permutations=0",
    "--config.diagnostics.floor=false",
    "--config.diagnostics.probes=false",
)

# Two groups of four runs, a shared parameter in one of them; a checkpoint every third
# epoch, validations every second: neither falls on the other.
SWEEP = (
    "--config=configs/digits.py",
    "--config.data.num_train=400",
    "--config.model.widths=(12,)",
    "--config.sweep.likelihood=bernoulli,gaussian_optimal",
    "--config.sweep.latent_dim=(2, 3)",
    "--config.sweep.seed=(0, 1)",
    "--config.training.num_epochs=30",
    "--config.training.validate_every=2",
    "--config.evaluation.num_samples=20",
    "--config.checkpoint.every_epochs=3",
    *NO_DIAGNOSTICS,
)
NUM_RUNS = 8
NUM_EPOCHS = 30


def command(
    module: str, *arguments: str, program: Sequence[str] = ("-m",)
) -> list[str]:
    """Returns the command line of a module of ``experiments``."""
    return [sys.executable, *program, f"experiments.{module}", *arguments]


def start(
    arguments: Sequence[str], cache: Path, **environment: str
) -> "subprocess.Popen[str]":
    """Starts a command line, whose compiled programs are kept for the next."""
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "VAE_JAX_CACHE": str(cache / "data"),
            "JAX_COMPILATION_CACHE_DIR": str(cache / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Outcome:
    """How a command ended."""

    def __init__(self, process: "subprocess.Popen[str]", timeout: float = 240):
        try:
            self.stdout, self.stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()  # Otherwise it would outlive the tests.
            raise
        self.status = process.returncode


def run(arguments: Sequence[str], cache: Path, **environment: str) -> Outcome:
    """Runs a command line to its end."""
    return Outcome(start(arguments, cache, **environment))


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> bool:
    """Returns whether a condition came to hold before the process ended."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return bool(condition())


def is_guarded(process: "subprocess.Popen[str]") -> bool:
    """Whether a command has a handler of SIGTERM, as Python alone has not."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Returns the metric rows of all runs, in their order in each file."""
    return [
        json.loads(row)
        for path in sorted(folder.glob("members/*/metrics.jsonl"))
        for row in path.read_text().splitlines(keepends=True)
    ]


def checkpoints(folder: Path) -> list[Path]:
    """Returns the complete checkpoints, oldest first."""
    found = folder.glob("checkpoints/*/[0-9]*.safetensors")
    return sorted(found, key=lambda path: (path.parent, int(path.stem)))


def outcome_of(folder: Path) -> Mapping[str, Any]:
    """Returns the results that a disturbed and an undisturbed sweep must share."""
    results = {}
    for path in sorted(folder.glob("members/*/result.json")):
        result = json.loads(path.read_text())
        del result["seconds"]
        results[path.parent.name] = (
            result,
            (path.parent / "params.safetensors").read_bytes(),
            (path.parent / "arrays.safetensors").read_bytes(),
        )
    with (folder / "results.csv").open() as file:
        table = [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]
    return {"results": results, "table": table, "metrics": rows(folder)}


def reference(
    folder: Path, arguments: Sequence[str], cache: Path, **environment: str
) -> Path:
    """Returns the folder of a sweep that ran to its end, once for all workers."""
    with filelock.FileLock(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "report.html").exists():
            sweep = command("sweep", *arguments, f"--workdir={folder}")
            # Nothing is compiled yet, and compiling takes long if others compile too.
            outcome = Outcome(start(sweep, cache, **environment), timeout=600)
            assert outcome.status == 0, outcome.stderr
    return folder


def freeze_while(
    condition: Callable[[], Any], process: "subprocess.Popen[str]"
) -> None:
    """Makes a process stand still (until SIGCONT) while a condition holds.

    Raises:
        AssertionError: the process ended before the condition held.
    """
    while wait_for(condition, process):
        assert process.returncode is None, f"ended with {process.returncode}"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if condition():
            return
        process.send_signal(signal.SIGCONT)
    raise AssertionError(f"ended with {process.returncode}: the moment never came")


def send_while(
    condition: Callable[[], Any], process: "subprocess.Popen[str]", number: int
) -> None:
    """Sends a signal to a process while a condition holds."""
    freeze_while(condition, process)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)


def begun(folder: Path) -> Callable[[], bool]:
    """Returns a condition: a group began or resumed since, with its rows in place."""

    def notes() -> set[tuple[int, int]]:
        found = set()
        for path in folder.glob("checkpoints/*.json"):
            with contextlib.suppress(FileNotFoundError):  # The group has just ended.
                found.add((path.stat().st_ino, path.stat().st_mtime_ns))
        return found

    before = notes()

    def since() -> bool:
        rows = [path.stat() for path in folder.glob("members/*/metrics.jsonl")]
        latest = max((found.st_mtime_ns for found in rows), default=0)
        return any(latest >= time_ns for _, time_ns in notes() - before)

    return since


def checkpointed(folder: Path, count: int = 1) -> Callable[[], bool]:
    """Returns a condition: so many checkpoints were completed since."""
    before, since = set(checkpoints(folder)), set()

    def enough() -> bool:
        since.update(set(checkpoints(folder)) - before)
        return len(since) >= count

    return enough


def results(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Returns the result of every finished run, and the time of its writing."""
    return {
        path.parent.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.glob("members/*/result.json")
    }


def assert_undisturbed(folder: Path, undisturbed: Path) -> None:
    """Asserts that a folder equals another one, and that no other files are left."""
    got, expected = outcome_of(folder), outcome_of(undisturbed)
    assert got == expected
    for run in expected["results"]:
        logged = [
            (name, row["epoch"], float(np.float32(value)))
            for row in expected["metrics"]
            for name, value in row.items()
            if row["run"] == run and "/" in name
        ]
        assert sorted(events(folder / "tensorboard" / run)) == sorted(logged)
    assert not list(folder.rglob("*.unfinished"))
    assert not list((folder / "checkpoints").glob("*"))


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Returns tags, steps and values of all TensorBoard events of a run."""
    found = []
    for path in folder.glob("events.*"):
        content, at = path.read_bytes(), 0
        while at < len(content):  # length, its checksum, the event, its checksum
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            at += size + 16
    return found
