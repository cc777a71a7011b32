"""Engines that run jobs: processes of this machine, Slurm through submitit, and Ray.

An engine is given commands and asked which of them it still has. Results of a job are
seen in the run folder alone. This module imports nothing heavy: every job loads it.
"""

import functools
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from experiments.messages.errors import LaunchError

# --- in the job's process -------------------------------------------------------------


class Command(NamedTuple):
    """A command that continues its job, however often it is run."""

    arguments: tuple[str, ...]
    log: str  # the file for what it prints
    cwd: str


def become(command: Command, umask: int) -> None:
    """Replaces this process by a command, so that signals reach the command directly.

    Args:
        command: the command.
        umask: the umask of the command.
    """
    os.umask(umask)
    try:
        log = os.open(command.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
    except FileNotFoundError:  # All jobs are done, and their folder is removed.
        return
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.chdir(command.cwd)
    os.execv(command.arguments[0], command.arguments)


def run(command: Command, environment: Mapping[str, str]) -> None:
    """Runs a command as a child; passes a KeyboardInterrupt on to it as SIGTERM.

    Args:
        command: the command.
        environment: variables for the command; those of this process come first.
    """
    try:
        child = _start(command, {**environment, **os.environ})
    except FileNotFoundError:  # All jobs are done, and their folder is removed.
        return
    try:
        child.wait()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()


def _start(
    command: Command, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Starts a command in a session of its own, where no Ctrl-C reaches it."""
    with open(command.log, "ab") as log:
        return subprocess.Popen(
            command.arguments,
            cwd=command.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


# --- in the command that launches -----------------------------------------------------


class Launcher(Protocol):
    """An engine."""

    name: str
    # The most jobs that it takes at once; further ones wait with the caller.
    most_at_once: int
    # Whether its jobs end with the command that launched them.
    is_attached: bool
    # Seconds between two looks at the jobs.
    poll_seconds: float

    def submit(self, commands: Sequence[Command]) -> list[str]:
        """Starts or queues commands; returns a handle for each.

        Raises:
            LaunchError: the engine refuses them.
        """

    def is_running(self, handle: str) -> bool:
        """Returns whether a command is queued or runs; False for unknown handles."""

    def stop(self) -> None:
        """Asks the commands of an attached engine to save their work and end."""


def make_launcher(
    name: str, folder: Path, max_jobs: int | None, options: Mapping[str, Any]
) -> Launcher:
    """Returns the engine of a name, checked to be available; writes nothing yet.

    Args:
        name: ``local``, ``slurm`` or ``ray``.
        folder: the folder for the files of submitit, shared with the machines of Slurm.
        max_jobs: number of jobs at once; None: one on this machine, elsewhere as many
            as fit.
        options: the resources of each job, in the engine's names.

    Raises:
        LaunchError: the engine is not installed or not running, or does not know an
            option.
    """
    if name == "local":
        return Local(max_jobs or 1)
    if name == "slurm":
        return Slurm(folder, max_jobs, options)
    return Ray(max_jobs, options)


class Local:
    """Processes on this machine.

    The GPUs are divided among ``max_jobs`` slots, and a job sees those of a free slot.

    Args:
        max_jobs: number of processes at once.
    """

    name = "local"
    is_attached = True
    poll_seconds = 0.2

    def __init__(self, max_jobs: int):
        # Each process with its slot.
        self._jobs: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        self._shares = _shares(max_jobs)
        self.most_at_once = max_jobs

    def submit(self, commands: Sequence[Command]) -> list[str]:
        return [self._begin(command) for command in commands]

    def _begin(self, command: Command) -> str:
        """Starts a command in the slot in which the fewest run; returns its handle."""
        taken = [
            slot for process, slot in self._jobs.values() if process.poll() is None
        ]
        slot = min(range(self.most_at_once), key=taken.count)
        process = _start(command, {**os.environ, **self._shares[slot]})
        self._jobs[str(process.pid)] = process, slot
        return str(process.pid)

    def is_running(self, handle: str) -> bool:
        return handle in self._jobs and self._jobs[handle][0].poll() is None

    def stop(self) -> None:
        for process, _ in self._jobs.values():
            process.terminate()


_VISIBLE = "CUDA_VISIBLE_DEVICES"


def _shares(num_slots: int) -> list[dict[str, str]]:
    """Returns the variables that name the GPUs of each slot; none without a GPU.

    All slots have equally many GPUs, since the bits of a continued job may depend on
    their number; GPUs that are left over are not used. If there are fewer GPUs than
    slots, slots share them.
    """
    gpus = _gpus()
    if not gpus:
        return [{}] * num_slots
    size = max(1, len(gpus) // num_slots)
    starts = (slot * size % len(gpus) for slot in range(num_slots))
    return [{_VISIBLE: ",".join(gpus[start : start + size])} for start in starts]


def _gpus() -> list[str]:
    """Returns the GPUs that jobs may use, by number or name; none if JAX uses no GPU.

    They are those that ``CUDA_VISIBLE_DEVICES`` lists, else all of ``nvidia-smi``. JAX
    knows them too, but would reserve their memory in this process.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    if _VISIBLE in os.environ:
        listed = os.environ[_VISIBLE].replace(" ", "").split(",")
        # CUDA reads the list up to the first entry that is no GPU.
        return list(itertools.takewhile(lambda gpu: gpu not in ("", "-1"), listed))
    try:
        found = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    # Names are used, as CUDA may number the GPUs in another order.
    return re.findall(r"^GPU .*\(UUID: (GPU-[^)]+)\)", found.stdout, re.MULTILINE)


class Slurm:
    """Job arrays of a Slurm cluster, through submitit.

    Jobs outlive the command that launched them. Ninety seconds (``signal_delay_s``)
    before their time is up, Slurm sends them SIGTERM. Slurm does not requeue them: the
    launching command launches them again.

    Args:
        folder: the folder for submitit's files.
        max_jobs: number of jobs at once; None: no limit but the cluster's.
        options: the resources of a job, in submitit's names.
    """

    name = "slurm"
    is_attached = False
    poll_seconds = 3.0

    def __init__(self, folder: Path, max_jobs: int | None, options: Mapping[str, Any]):
        self._submitit = _import("submitit")
        if missing := [p for p in ("sbatch", "srun", "sacct") if not shutil.which(p)]:
            why = f"{', '.join(missing)} are not found on PATH"
            remedy = "Give the command on a machine that submits to the cluster"
            raise LaunchError.of("--launcher", "slurm", why, remedy)
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
                given = f"{several}={options[several]}"
                why = "a job is one process on one machine"
                raise LaunchError.of("--slurm", given, why, f"Leave out {several}")
        signal = f"TERM@{options.get('signal_delay_s', 90)}"
        options = {"name": "vae_jax", **options}
        try:
            self._executor.update_parameters(
                **{k if k in shared else f"slurm_{k}": v for k, v in options.items()},
                slurm_additional_parameters={"signal": signal, "no-requeue": True},
            )
        except (AssertionError, NameError, TypeError, ValueError) as error:
            raise LaunchError(f"--slurm: {error}") from error

    def submit(self, commands: Sequence[Command]) -> list[str]:
        at_once = min(len(commands), self._max_jobs or len(commands))
        self._executor.update_parameters(slurm_array_parallelism=at_once)
        # No other user can read what is written; the commands have their usual umask.
        umask = os.umask(0o077)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            jobs = self._executor.submit_array(
                [functools.partial(become, c, umask) for c in commands]
            )
        except Exception as error:  # Whatever sbatch says.
            raise LaunchError(f"Slurm refuses the jobs: {error}") from error
        finally:
            os.umask(umask)
        return [job.job_id for job in jobs]

    def is_running(self, handle: str) -> bool:
        job = self._submitit.SlurmJob(self._executor.folder, handle)
        # All jobs are asked about at once, now and then; submitit would ask ever less.
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
    """Tasks of a running Ray cluster, which RAY_ADDRESS names or Ray finds.

    Args:
        max_jobs: number of tasks at once; None: no limit but the cluster's.
        options: options of ``ray.remote``, such as ``num_cpus`` and ``num_gpus``.
    """

    name = "ray"
    is_attached = True
    poll_seconds = 0.5

    def __init__(self, max_jobs: int | None, options: Mapping[str, Any]):
        self._ray = _import("ray")
        try:
            self._ray.init(address="auto", log_to_driver=False, logging_level="WARNING")
        except (ConnectionError, RuntimeError) as error:
            why = f"no cluster is found ({error})"
            remedy = "Run ray start --head, or set RAY_ADDRESS to the address of one"
            raise LaunchError.of("--launcher", "ray", why, remedy) from error
        # Otherwise its machines would need this package where Ray starts Python.
        self._ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        try:
            # Ray does not retry: the launching command does, by the job's progress.
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
            f"--launcher needs the package {package}: it is not installed. Install it: "
            f"pip install {package}"
        ) from error


def parse_options(flag: str, options: Sequence[str]) -> dict[str, Any]:
    """Returns options given as ``name=value``, with numbers and booleans as such.

    Args:
        flag: the name of the engine, and of its flag.
        options: the values of the flag.

    Raises:
        LaunchError: an option is not of this form.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        name, _, text = option.partition("=")
        if not (name and text):
            why = "it must be a name and a value"
            remedy = f"Write it as in --{flag}={OPTION_EXAMPLES[flag]}"
            raise LaunchError.of(f"--{flag}", option, why, remedy)
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
