"""A Slurm that runs the tasks of every array at once, on this machine."""

import os
import sys
from pathlib import Path

_SBATCH = """
import os, re, subprocess, sys
from pathlib import Path

state, script = Path(os.environ["FAKE_SLURM"]), Path(sys.argv[1])
text = script.read_text()
number = len(list(state.glob("*.sh"))) + 1
(state / f"{number}.sh").write_text(text)
array = re.search(r"--array=0-(\\d+)", text)
for task in range(int(array[1]) + 1) if array else [None]:
    name = str(number) if task is None else f"{number}_{task}"
    own = {"SLURM_JOB_ID": str(number), "SLURM_PROCID": "0"}
    if task is not None:
        own |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
    process = subprocess.Popen(
        ["bash", "-c", f"bash {script}; echo $? > {state / name}.exit"],
        env={**os.environ, **own},
        stdin=subprocess.DEVNULL,
        stdout=open(state / f"{name}.out", "w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    (state / f"{name}.pid").write_text(str(process.pid))
print(f"Submitted batch job {number}")
"""

_SRUN = """
import os, sys

arguments = sys.argv[1:]
while arguments[0].startswith("--"):
    del arguments[: 2 if arguments[0] in ("--output", "--error") else 1]
os.execvp(arguments[0], arguments)
"""

_SACCT = """
import os
from pathlib import Path

state = Path(os.environ["FAKE_SLURM"])
print("JobID|State|NodeList")
for pid in state.glob("*.pid"):
    name, ended = pid.stem, pid.with_suffix(".exit")
    status = ended.read_text().strip() if ended.exists() else None
    word = {None: "RUNNING", "0": "COMPLETED"}.get(status, "FAILED")
    print(f"{name}|{word}|here")
"""


def install(folder: Path) -> dict[str, str]:
    """Puts sbatch, srun and sacct into a folder.

    Returns:
        The environment variables that a process needs to find them. The scripts that it
        submits, numbered from 1, are kept in ``FAKE_SLURM``.
    """
    state, programs = folder / "state", folder / "bin"
    state.mkdir(parents=True)
    programs.mkdir()
    for name, code in (("sbatch", _SBATCH), ("srun", _SRUN), ("sacct", _SACCT)):
        path = programs / name
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
    return {
        "FAKE_SLURM": str(state),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
