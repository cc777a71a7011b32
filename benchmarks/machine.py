"""Which cores a measurement runs on, and what else kept them busy meanwhile."""

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_LIBRARY_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores(threads: int) -> list[int]:
    """The cores that ``threads`` threads are pinned to.

    Raises:
        ValueError: this process may not use so many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(allowed):
        raise ValueError(f"{threads} threads asked of {len(allowed)} cores.")
    return allowed[:threads]


def environment(threads: int) -> dict[str, str]:
    """Environment of a measured process: its threads, the CPU, no compilation cache.

    XLA and torch size their thread pools by the cores that a process is pinned to;
    the variables are for libraries that do not.
    """
    return {
        **os.environ,
        **{name: str(threads) for name in _LIBRARY_THREADS},
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
    }


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Processes started within stay on their cores, as they inherit them."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores(threads))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Lap(NamedTuple):
    """What one measurement took."""

    seconds: float  # on the clock
    others: float  # share of the cores' time that went to other processes
    elbo: float = float("nan")  # nats


class Stopwatch:
    """Measures the calling process, and how busy others kept its cores."""

    def __init__(self) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._busy = _busy_seconds(self._cores)
        self._own = time.process_time()
        self._clock = time.perf_counter()

    def lap(self, elbo: float = float("nan")) -> Lap:
        seconds = time.perf_counter() - self._clock
        own = time.process_time() - self._own
        busy = _busy_seconds(self._cores) - self._busy
        share = max(0.0, busy - own) / max(seconds * len(self._cores), 1e-9)
        return Lap(seconds, min(share, 1.0), elbo)


def _busy_seconds(chosen: Sequence[int]) -> float:
    """Seconds that the cores were busy since boot (0 where Linux does not tell)."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0
    ticks = 0
    for line in lines:
        name, *counts = line.split()
        if name in {f"cpu{core}" for core in chosen}:
            user, nice, system, _idle, _wait, irq, soft, steal = map(int, counts[:8])
            ticks += user + nice + system + irq + soft + steal
    return ticks / os.sysconf("SC_CLK_TCK")


class Finished(NamedTuple):
    """A command that ran to its end."""

    seconds: float
    peak_bytes: int  # resident set
    output: str


def run(arguments: Sequence[str], threads: int) -> Finished:
    """Runs ``python arguments...`` on its cores, from process start to process end.

    Raises:
        RuntimeError: it failed; the message ends with its last words.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        with pinned(threads):
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=output,
                stderr=errors,
                env=environment(threads),
            )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{arguments} failed: {errors.read()[-500:]}")
        # Linux counts kilobytes, macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return Finished(seconds, usage.ru_maxrss * unit, output.read())


def describe() -> str:
    """One line on the machine."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    count = len(os.sched_getaffinity(0))
    return f"{model}, {count} cores, Python {platform.python_version()}"
