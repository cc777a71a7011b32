"""Tests of experiments.launch.engines, with commands that take no time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.launch import engines
from experiments.launch.engines import Command
from experiments.messages.errors import LaunchError
from tests import fake_slurm

ROOT = Path(__file__).parents[1]


@pytest.fixture
def submitit():
    return pytest.importorskip("submitit", reason="pip install submitit")


@pytest.fixture
def job(tmp_path):
    """Returns a function that makes a command of Python code."""

    def make(code, name="job"):
        arguments = (sys.executable, "-c", code)
        return Command(arguments, str(tmp_path / f"{name}.log"), str(tmp_path))

    return make


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def log_of(command):
    return Path(command.log).read_text()


# --- in the job's process -------------------------------------------------------------


@pytest.fixture
def start(tmp_path):
    """Returns a function that runs a command as an engine does, in its process."""
    processes = []

    def begin(command, how="become"):
        second = {"become": 0o077, "run": {"PLACE": "there", "FAR": "x"}}[how]
        code = (
            # Ignored where the tests run in the background of a shell.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from experiments.launch.engines import Command, become, run\n"
            f"{how}(Command(*{tuple(command)!r}), {second})"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PLACE": "here"}
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()


SAY = (
    "import os; e = os.environ\n"
    "print(e['PLACE'], e.get('FAR'), os.getcwd(), os.umask(0) == 0o077)"
)


@pytest.mark.parametrize(
    ("how", "told"), [("become", (None, True)), ("run", ("x", False))]
)
def test_a_command_is_run_where_and_with_what_it_should(
    job, start, tmp_path, how, told
):
    command, (far, is_private) = job(SAY), told
    assert start(command, how).wait() == 0
    assert log_of(command) == f"here {far} {tmp_path} {is_private}\n"


@pytest.mark.parametrize("how", ["become", "run"])
def test_a_job_is_not_run_once_all_are_done(job, start, how, tmp_path):
    """It may have waited in a queue while others trained its runs."""
    command = job("open('ran', 'w')", "jobs/job")
    assert start(command, how).wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_request_to_stop_reaches_the_command(job, start):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('asked'))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    for how, number in (("become", signal.SIGTERM), ("run", signal.SIGINT)):
        command = job(code, how)
        process = start(command, how)
        wait_for(lambda c=command: os.path.exists(c.log) and log_of(c))
        time.sleep(3)  # Its parent may not listen yet: docs/launching.md.
        process.send_signal(number)
        process.wait()
        assert log_of(command) == "ready\nasked\n"


# --- engines --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named(monkeypatch, tmp_path, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LaunchError, match=f"pip install {package}") as refused:
        engines.make_launcher(name, tmp_path / "files", None, {})
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_options_are_names_and_values():
    options = ["partition=gpu", "timeout_min=600", "mem_gb=1.5", "exclusive=true"]
    options.append("use_srun=false")
    assert engines.parse_options("slurm", options) == {
        "partition": "gpu",
        "timeout_min": 600,
        "mem_gb": 1.5,
        "exclusive": True,
        "use_srun": False,
    }
    for option in ("partition", "=gpu", "partition="):
        with pytest.raises(LaunchError, match="--ray=num_cpus=4"):
            engines.parse_options("ray", [option])


def test_jobs_of_this_machine_run_and_stop(job, tmp_path, monkeypatch):
    monkeypatch.setenv("A_TOKEN", TOKEN)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    engine = engines.make_launcher("local", tmp_path / "submitit", 2, {})
    assert (engine.most_at_once, engine.is_attached) == (2, True)
    quick = job(SAY_MORE, "quick")
    slow = job("print('on', flush=True); import time; time.sleep(60)", "slow")
    ran, stopped = engine.submit([quick, slow])
    wait_for(lambda: not engine.is_running(ran))
    umask = os.umask(0)
    os.umask(umask)
    assert log_of(quick) == f"{TOKEN} 3 {umask}\n"
    wait_for(lambda: log_of(slow))
    assert engine.is_running(stopped)
    engine.stop()
    wait_for(lambda: not engine.is_running(stopped))
    assert not engine.is_running("of another process")


def test_a_ctrl_c_at_the_terminal_reaches_no_job(job, tmp_path):
    """A second Ctrl-C would end them at once; the launching command stops them."""
    engine = engines.make_launcher("local", tmp_path, 1, {})
    command = job("import os; print(os.getpgid(0) == os.getpid())")
    (handle,) = engine.submit([command])
    wait_for(lambda: not engine.is_running(handle))
    assert log_of(command) == "True\n"


TOKEN = "a-secret-that-nobody-reads"


@pytest.fixture
def open_umask():
    before = os.umask(0o000)
    yield
    os.umask(before)


def assert_private(folder):
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.stat().st_mode & 0o777 == 0o600, path
        assert TOKEN.encode() not in path.read_bytes(), path


SAY_MORE = (
    "import os; m = os.umask(0); e = os.environ\n"
    "print(e['A_TOKEN'], e.get('CUDA_VISIBLE_DEVICES', 'absent'), m)\n"
)


NVIDIA_SMI = """#!/bin/sh
[ "$1" = -L ] || exit 1
for i in 0 1 2 3 4; do
  echo "GPU $i: NVIDIA H100 80GB HBM3 (UUID: GPU-$i-of-five)"
  echo "  MIG 3g.20gb     Device  0: (UUID: MIG-$i)"
done
"""


@pytest.fixture
def five_gpus(tmp_path, monkeypatch):
    """Sets up a machine whose ``nvidia-smi`` lists five GPUs."""
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text(NVIDIA_SMI)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    for variable in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("environment", "num_slots", "shares"),
    [
        ({}, 2, ["GPU-0-of-five,GPU-1-of-five", "GPU-2-of-five,GPU-3-of-five"]),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 2, ["0,1", "2,3"]),
        ({"CUDA_VISIBLE_DEVICES": "4, 2 ,7"}, 3, ["4", "2", "7"]),
        ({"CUDA_VISIBLE_DEVICES": "4,2"}, 3, ["4", "2", "4"]),
        ({"CUDA_VISIBLE_DEVICES": "4,-1,2"}, 2, ["4", "4"]),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 2, [None, None]),
        ({"CUDA_VISIBLE_DEVICES": ""}, 2, [None, None]),
        ({"JAX_PLATFORMS": "cpu"}, 2, [None, None]),
        ({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "1,2"}, 2, [None, None]),
        ({"JAX_PLATFORMS": "cuda,cpu", "CUDA_VISIBLE_DEVICES": "1,2"}, 2, ["1", "2"]),
        ({"PATH": ""}, 2, [None, None]),
    ],
)
def test_gpus_are_shared_out_over_the_jobs_of_a_machine(
    five_gpus, monkeypatch, environment, num_slots, shares
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    expected = [{} if s is None else {"CUDA_VISIBLE_DEVICES": s} for s in shares]
    assert engines._shares(num_slots) == expected


def test_no_two_jobs_that_run_at_once_see_one_gpu(
    job, tmp_path, monkeypatch, five_gpus
):
    """A job that follows another has its GPU, not that of the one still running."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    engine = engines.make_launcher("local", tmp_path / "submitit", 2, {})
    say = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)"
    commands = [
        job(say, "first"),
        job(f"{say}; import time; time.sleep(60)", "long"),
        job(say, "second"),
    ]
    first, long = engine.submit(commands[:2])
    wait_for(lambda: not engine.is_running(first))
    (second,) = engine.submit(commands[2:])
    wait_for(lambda: not engine.is_running(second))
    wait_for(lambda: log_of(commands[1]))
    assert [log_of(command) for command in commands] == ["5\n", "6\n", "5\n"]
    engine.stop()
    wait_for(lambda: not engine.is_running(long))


@pytest.fixture
def slurm(submitit, tmp_path, monkeypatch):
    """Returns the folder of scripts that a fake Slurm receives."""
    for name, value in fake_slurm.install(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(engines, "_SECONDS_BETWEEN_SACCT", 0.1)
    return tmp_path / "slurm" / "state"


def test_slurm_runs_an_array(slurm, job, tmp_path):
    options = {"partition": "gpu", "timeout_min": 90, "gpus_per_node": 1, "mem_gb": 8}
    engine = engines.make_launcher("slurm", tmp_path / "submitit", 2, options)
    commands = [job(f"print('task {i}')", f"job{i}") for i in range(3)]
    handles = engine.submit(commands)
    assert handles == ["1_0", "1_1", "1_2"]
    wait_for(lambda: not any(map(engine.is_running, handles)))
    assert [log_of(command) for command in commands] == [
        f"task {i}\n" for i in range(3)
    ]
    script = (slurm / "1.sh").read_text().splitlines()
    for line in (
        "--array=0-2%2",
        "--partition=gpu",
        "--time=90",
        "--gpus-per-node=1",
        "--mem=8GB",
        "--job-name=vae_jax",
        "--signal=TERM@90",  # to the command, which knows what it means
        "--no-requeue",
    ):
        assert f"#SBATCH {line}" in script
    # Another command finds them again, and one alone is no array.
    again = engines.make_launcher("slurm", tmp_path / "submitit", None, {})
    assert not again.is_running("1_2")
    assert again.submit([job("", "one")]) == ["2"]


def test_what_slurm_is_given_nobody_else_reads(
    slurm, job, tmp_path, monkeypatch, open_umask
):
    monkeypatch.setenv("A_TOKEN", TOKEN)
    folder = tmp_path / "jobs" / "submitit"
    engine = engines.make_launcher("slurm", folder, 1, {})
    commands = [job(SAY_MORE, f"job{i}") for i in range(2)]
    handles = engine.submit(commands)
    wait_for(lambda: not any(map(engine.is_running, handles)))
    assert all(log_of(command).endswith(" 0\n") for command in commands)
    assert_private(folder)


def test_slurm_refuses_in_one_line(slurm, job, tmp_path, monkeypatch):
    folder = tmp_path / "submitit"
    for options, words in (
        ({"partion": "gpu"}, "partion"),
        ({"nodes": 2}, "nodes"),
        ({"timeout_min": "long"}, "timeout_min"),
    ):
        with pytest.raises(LaunchError, match=words):
            engines.make_launcher("slurm", folder, None, options)
    engine = engines.make_launcher("slurm", folder, None, {})
    sbatch = slurm.parent / "bin" / "sbatch"
    sbatch.write_text("#!/bin/sh\necho no such partition >&2; exit 1")
    with pytest.raises(LaunchError, match="no such partition"):
        engine.submit([job("")])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="sbatch, srun, sacct"):
        engines.make_launcher("slurm", folder, None, {})
