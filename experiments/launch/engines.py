"""Engines that run jobs elsewhere: submitit on this machine or Slurm, and Ray.

Each is told commands and asked which of them it still holds; what has become of a job
is seen in its folder alone. This module imports nothing heavy, as every job loads it.
"""

import contextlib
import functools
import importlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, Protocol

from experiments.files import locks
from experiments.messages.errors import LaunchError

# --- in the job's process -------------------------------------------------------------


class Command(NamedTuple):
    """A command that continues a job, however often it is run.

    Beside the job's folder ``path`` lie ``path.json``, which is there until the job's
    results are gathered, ``path.lock`` and ``path.log``.
    """

    arguments: tuple[str, ...]
    path: str
    cwd: str


def become(
    command: Command,
    restored: Mapping[str, str | None] = MappingProxyType({}),
    umask: int | None = None,
) -> None:
    """Turns this process into a command.

    Signals then reach the command once and directly, whoever sends them to whom.

    Args:
        command: the command.
        restored: variables that the engine has changed, as they are to be in the
            command's environment, which is that of this process; None: absent.
        umask: the command's; None: that of this process.
    """
    if umask is not None:
        os.umask(umask)
    environment = {
        name: value
        for name, value in {**os.environ, **restored}.items()
        if value is not None
    }
    # While it waits, whatever handler the engine has installed would lose it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    held = _begin(command)
    if not held:
        return
    lock, log = held
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.set_inheritable(lock, True)
    os.chdir(command.cwd)
    os.execve(command.arguments[0], command.arguments, environment)


def run(command: Command, environment: Mapping[str, str]) -> None:
    """Runs a command below this process; a KeyboardInterrupt is handed on as SIGTERM.

    Args:
        command: the command.
        environment: variables that it has where this process has none of that name.
    """
    held = _begin(command)
    if not held:
        return
    lock, log = held
    child = subprocess.Popen(
        command.arguments,
        cwd=command.cwd,
        env={**environment, **os.environ},
        stdout=log,
        stderr=log,
        pass_fds=(lock,),
    )
    os.close(lock)
    os.close(log)
    try:
        child.wait()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()


def _begin(command: Command) -> tuple[int, int] | None:
    """The descriptors of a job's lock and log; None if it is done.

    The command inherits the lock, and so holds it though this process were killed: a
    job that an engine has lost sight of is waited for, never run twice at once.
    """
    try:
        lock = locks.take(f"{command.path}.lock", wait=True)
    except FileNotFoundError:  # All jobs are done, and their folder removed.
        return None
    assert lock is not None  # It was waited for.
    if not os.path.exists(f"{command.path}.json"):
        os.close(lock)
        return None
    log = f"{command.path}.log"
    return lock, os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)


# --- in the command that launches -----------------------------------------------------


class Launcher(Protocol):
    """An engine."""

    name: str
    # The most jobs that it is given at once; those beyond wait with the caller.
    most_at_once: int
    # Whether its jobs end with the command that launched them.
    is_attached: bool
    # How often the jobs' folders are looked at.
    poll_seconds: float

    def submit(self, commands: Sequence[Command]) -> list[str]:
        """Starts or queues commands; returns a handle of each.

        Raises:
            LaunchError: the engine refuses them.
        """

    def is_running(self, handle: str) -> bool:
        """Whether a command is queued or runs; False for one it does not know."""

    def stop(self) -> None:
        """Asks the commands of an attached engine to save their work and end."""


def make_launcher(
    name: str, folder: Path, max_jobs: int | None, options: Mapping[str, Any]
) -> Launcher:
    """The engine of a name, checked to be there; nothing is written yet.

    Args:
        name: ``local``, ``slurm`` or ``ray``.
        folder: for the engine's own files, shared with the machines it uses.
        max_jobs: jobs at once; None: one on this machine, all it can on others.
        options: what each job asks for, in the engine's names.

    Raises:
        LaunchError: it is not installed, not there, or does not know an option.
    """
    if name == "local":
        return Local(folder, max_jobs or 1)
    if name == "slurm":
        return Slurm(folder, max_jobs, options)
    return Ray(max_jobs, options)


class Local:
    """Processes on this machine, through submitit.

    GPUs are shared out over ``max_jobs`` slots, and a job sees those of a free slot.

    Args:
        folder: for submitit's files.
        max_jobs: processes at once.
    """

    name = "local"
    is_attached = True
    poll_seconds = 0.2

    def __init__(self, folder: Path, max_jobs: int):
        self._submitit = _import("submitit")
        self._folder = folder
        self._jobs: dict[str, Any] = {}
        self._slots: dict[str, int] = {}  # of each job
        self._shares = _shares(max_jobs)
        self.most_at_once = max_jobs

    def submit(self, commands: Sequence[Command]) -> list[str]:
        handles = []
        with _private(self._folder) as umask:
            executor = self._submitit.AutoExecutor(self._folder, cluster="local")
            executor.update_parameters(timeout_min=_TEN_YEARS)
            for command in commands:
                slot = self._free_slot()
                # A Ctrl-C at the terminal reaches all processes there. The jobs are
                # told of it by this one, and a second request would end them at once.
                before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                try:
                    restored = {_VISIBLE: self._shares[slot]}
                    job = executor.submit(become, command, restored, umask)
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                self._jobs[job.job_id], self._slots[job.job_id] = job, slot
                handles.append(job.job_id)
        return handles

    def _free_slot(self) -> int:
        """The slot with the fewest jobs that run."""
        taken = [self._slots[handle] for handle in filter(self.is_running, self._jobs)]
        return min(range(self.most_at_once), key=taken.count)

    def is_running(self, handle: str) -> bool:
        return handle in self._jobs and not self._jobs[handle].done()

    def stop(self) -> None:
        for handle in self._jobs:
            if self.is_running(handle):
                os.kill(int(handle), signal.SIGTERM)


_TEN_YEARS = 10 * 365 * 24 * 60  # minutes


# The variable that submitit changes for a job of this machine. Everything else a job
# inherits: what it is given is written into a file, where a token that the environment
# holds has no place.
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def _shares(num_slots: int) -> list[str | None]:
    """What ``CUDA_VISIBLE_DEVICES`` is for the jobs of each slot; None: absent.

    All have as many GPUs, since the bits of a job that is continued may depend on that;
    GPUs that are left over are not used. Where there are fewer GPUs than slots, slots
    share them. Without a GPU it stays as it is.
    """
    gpus = _gpus()
    if not gpus:
        return [os.environ.get(_VISIBLE)] * num_slots
    size = max(1, len(gpus) // num_slots)
    starts = (slot * size % len(gpus) for slot in range(num_slots))
    return [",".join(gpus[start : start + size]) for start in starts]


def _gpus() -> list[str]:
    """The GPUs that jobs may use, by number or name; none where JAX uses no GPU.

    They are those that ``CUDA_VISIBLE_DEVICES`` lists, else all of ``nvidia-smi``. JAX
    would know them too, but reserve their memory in this process.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    if _VISIBLE in os.environ:
        listed = os.environ[_VISIBLE].replace(" ", "").split(",")
        # CUDA looks no further than the first that is none.
        return list(itertools.takewhile(lambda gpu: gpu not in ("", "-1"), listed))
    try:
        found = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    # By name, as CUDA may number them in another order.
    return re.findall(r"^GPU .*\(UUID: (GPU-[^)]+)\)", found.stdout, re.MULTILINE)


@contextlib.contextmanager
def _private(folder: Path) -> Iterator[int]:
    """Makes a folder in which nobody else reads the files that are written within.

    Yields:
        The umask there was: processes that start within do not have it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    before = os.umask(0o077)
    try:
        yield before
    finally:
        os.umask(before)


class Slurm:
    """Job arrays of a Slurm cluster, through submitit.

    Jobs outlive the command that launched them. Ninety seconds (``signal_delay_s``)
    before their time is up, Slurm sends them SIGTERM; it does not requeue them, as the
    launching command does.

    Args:
        folder: for submitit's files.
        max_jobs: jobs at once; None: no limit but the cluster's.
        options: submitit's names of what a job asks for, with their values.
    """

    name = "slurm"
    is_attached = False
    poll_seconds = 3.0

    def __init__(self, folder: Path, max_jobs: int | None, options: Mapping[str, Any]):
        self._submitit = _import("submitit")
        if missing := [p for p in ("sbatch", "srun", "sacct") if not shutil.which(p)]:
            raise LaunchError(
                f"--launcher=slurm needs {', '.join(missing)}, not found on PATH: give "
                "the command on a machine that submits to the cluster."
            )
        self._folder = folder
        self._executor = self._submitit.AutoExecutor(folder, cluster="slurm")
        self._max_jobs = max_jobs
        self._checked = -float("inf")
        self.most_at_once = _LARGEST_ARRAY
        self._set_options(options)

    def _set_options(self, options: Mapping[str, Any]) -> None:
        shared = {"name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node"}
        for several in ("nodes", "tasks_per_node", "ntasks_per_node"):
            if several in options:
                raise LaunchError(
                    f"--slurm: a job is one process on one machine, so {several} "
                    "cannot be set."
                )
        delay = options.get("signal_delay_s", 90)
        options = {"name": "vae_jax", **options}
        try:
            self._executor.update_parameters(
                **{k if k in shared else f"slurm_{k}": v for k, v in options.items()},
                slurm_additional_parameters={
                    "signal": f"TERM@{delay}",
                    "no-requeue": True,
                },
            )
        except (AssertionError, NameError, TypeError, ValueError) as error:
            raise LaunchError(f"--slurm: {error}") from error

    def submit(self, commands: Sequence[Command]) -> list[str]:
        at_once = min(len(commands), self._max_jobs or len(commands))
        self._executor.update_parameters(slurm_array_parallelism=at_once)
        try:
            with _private(self._folder) as umask:
                jobs = self._executor.submit_array(
                    [functools.partial(become, c, umask=umask) for c in commands]
                )
        except Exception as error:  # Whatever sbatch says.
            raise LaunchError(f"Slurm refuses the jobs: {error}") from error
        return [job.job_id for job in jobs]

    def is_running(self, handle: str) -> bool:
        job = self._submitit.SlurmJob(self._executor.folder, handle)
        # One question a while, on all jobs; submitit would ask ever more rarely.
        mode = "cache"
        if time.monotonic() - self._checked >= _SECONDS_BETWEEN_SACCT:
            self._checked, mode = time.monotonic(), "force"
        state = job.watcher.get_info(handle, mode).get("State", "UNKNOWN")
        return state.partition(" ")[0] not in _ENDED

    def stop(self) -> None:
        """Does nothing: the jobs stay in the queue."""


_LARGEST_ARRAY = 1000  # Slurm's own default of MaxArraySize is 1001.
_SECONDS_BETWEEN_SACCT = 15.0
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}


class Ray:
    """Tasks of a running Ray cluster, which RAY_ADDRESS or Ray itself finds.

    Args:
        max_jobs: tasks at once; None: no limit but the cluster's.
        options: of ``ray.remote``, such as ``num_cpus`` and ``num_gpus`` of a task.
    """

    name = "ray"
    is_attached = True
    poll_seconds = 0.5

    def __init__(self, max_jobs: int | None, options: Mapping[str, Any]):
        self._ray = _import("ray")
        try:
            self._ray.init(address="auto", log_to_driver=False, logging_level="WARNING")
        except (ConnectionError, RuntimeError) as error:
            raise LaunchError(
                f"--launcher=ray finds no cluster ({error}): start one with ray start "
                "--head, or set RAY_ADDRESS to the address of one."
            ) from error
        # Else its machines would need this package where Ray starts Python.
        for module in (sys.modules[__name__], locks):
            self._ray.cloudpickle.register_pickle_by_value(module)
        try:
            # How often a job is tried is decided by its progress, not by Ray.
            self._remote = self._ray.remote(**{**options, "max_retries": 0})(run)
        except (TypeError, ValueError) as error:
            raise LaunchError(f"--ray: {error}") from error
        self._tasks: dict[str, Any] = {}
        self.most_at_once = max_jobs or _LARGEST_ARRAY

    def submit(self, commands: Sequence[Command]) -> list[str]:
        tasks = [self._remote.remote(c, dict(os.environ)) for c in commands]
        self._tasks.update({task.hex(): task for task in tasks})
        return [task.hex() for task in tasks]

    def is_running(self, handle: str) -> bool:
        if handle not in self._tasks:
            return False
        ended, _ = self._ray.wait([self._tasks[handle]], timeout=0)
        return not ended

    def stop(self) -> None:
        for handle, task in self._tasks.items():
            if self.is_running(handle):
                self._ray.cancel(task)


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise LaunchError(
            f"--launcher needs the package {package}, which is not installed: pip "
            f"install {package}"
        ) from error


def parse_options(flag: str, options: Sequence[str]) -> dict[str, Any]:
    """Options given as ``name=value``, numbers and truth values as such.

    Raises:
        LaunchError: one that is not of this form.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, _, text = option.partition("=")
        if not (name and text):
            raise LaunchError(
                f"--{flag} is {option!r}: give names and values, as in "
                f"--{flag}={OPTION_EXAMPLES[flag]}."
            )
        parsed[name.strip()] = _value(text.strip())
    return parsed


OPTION_EXAMPLES = {
    "slurm": "partition=gpu,timeout_min=600,gpus_per_node=1",
    "ray": "num_cpus=4,num_gpus=1",
}


def _value(text: str) -> Any:
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)
