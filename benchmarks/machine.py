"""The cores that a measurement runs on, and the load of other processes on them."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Of getrusage: Linux counts kilobytes, macOS bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024

_LIBRARY_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores(threads: int) -> list[int]:
    """Returns the cores that ``threads`` threads are pinned to.

    Raises:
        ValueError: this process may not use so many cores.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(allowed):
        raise ValueError(f"{threads} threads asked of {len(allowed)} cores.")
    return allowed[:threads]


def environment(threads: int, platform: str = "cpu") -> dict[str, str]:
    """Returns a process's environment: threads, platform, no compilation cache.

    XLA and torch size their thread pools by the cores that a process is pinned to;
    the variables are for libraries that do not. On an accelerator several contenders
    wait at once, so none may take all of its memory at the start.
    """
    chosen = (
        {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if platform == "cpu"
        else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    )
    return {
        **os.environ,
        **{name: str(threads) for name in _LIBRARY_THREADS},
        **chosen,
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "PYTHONWARNINGS": "ignore",
    }


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Pins this process to its cores; processes started within inherit them."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores(threads))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Lap(NamedTuple):
    """The result of one measurement."""

    seconds: float  # seconds on the clock
    others: float  # share of the cores' time that went to other processes
    peak_bytes: int  # of the process until now, resident set
    elbo: float = float("nan")  # nats


class Stopwatch:
    """Measures the calling process, and the load of other processes on its cores."""

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
        return Lap(seconds, min(share, 1.0), peak_bytes(), elbo)


def _busy_seconds(chosen: Sequence[int]) -> float:
    """Returns the cores' busy seconds since boot (0 if the system has no record)."""
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


def peak_bytes() -> int:
    """Returns the largest resident set of the calling process so far.

    On Linux it is not that of ``getrusage``, which starts at the parent's value.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


class Finished(NamedTuple):
    """A command that ran to its end."""

    seconds: float
    cpu_seconds: float  # of all cores
    peak_bytes: int  # resident set; never less than this process's own
    output: str

    def answer(self) -> dict[str, Any]:
        """Returns the JSON of the last line that the command printed."""
        return json.loads(self.output.splitlines()[-1])


def run(
    arguments: Sequence[str],
    threads: int,
    platform: str = "cpu",
    variables: Mapping[str, str] | None = None,
) -> Finished:
    """Runs ``python arguments...`` on its cores, from process start to process end.

    Args:
        arguments: what follows ``python``.
        threads: number of cores.
        platform: 'cpu' or 'gpu'.
        variables: of the environment, instead of ``environment``'s.

    Raises:
        RuntimeError: the command failed; the message ends with its last output.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        with pinned(threads):
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=output,
                stderr=errors,
                env={**environment(threads, platform), **(variables or {})},
            )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{arguments} failed: {errors.read()[-500:]}")
        return Finished(
            seconds,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * _RSS_UNIT,
            output.read(),
        )


def default_platform() -> str:
    """'gpu' where JAX finds one, else 'cpu'; found out by another process, since the
    one that asks an accelerator's name takes its memory."""
    program = "import jax; print(jax.default_backend())"
    found = run(["-c", program], 1, "gpu").output.split()[-1]
    return "gpu" if found == "gpu" else "cpu"


def describe(platform: str = "cpu") -> str:
    """Returns one line on the machine."""
    model = os.uname().machine
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    count = len(os.sched_getaffinity(0))
    described = f"{model}, {count} cores, Python {sys.version.split()[0]}"
    if platform == "gpu":
        program = "import jax; print(jax.devices()[0].device_kind)"
        kind = run(["-c", program], 1, "gpu").output.splitlines()[-1]
        described += f", one {kind}"
    return described
