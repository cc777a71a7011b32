"""Runs ``experiments.sweep`` and reports when each stage ended.

    python -m benchmarks.start_process TIME FOLDER [arguments of experiments.sweep]

TIME is ``time.time()`` at the start of the process. The command is run as it is; its
times are printed after its own output.
"""

import functools
import json
import runpy
import sys
import time
from pathlib import Path
from typing import NamedTuple

_COMPILATION = "/jax/core/compile/"


class Moments(NamedTuple):
    """The seconds of a command that trains one model for one epoch."""

    importing: float  # process start to the first look at the data
    loading: float  # loading the data
    compiling: float  # tracing, lowering and XLA, or reading the compiled program
    first_epoch: float  # process start to its metrics on disk
    peak_bytes: int  # largest resident set


def main(started: float, folder: str, arguments: list[str]) -> None:
    import jax

    from benchmarks.machine import peak_bytes
    from experiments.launch import sweeps

    loaded: list[float] = []  # when loading began, and when it ended
    compiled: list[tuple[float, float]] = []  # when each ended, and its seconds

    def add_compilation(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(_COMPILATION):
            compiled.append((time.time(), duration_secs))

    jax.monitoring.register_event_duration_secs_listener(add_compilation)
    load_data = sweeps.load_data

    @functools.wraps(load_data)
    def timed(*args, **options):
        loaded.append(time.time())
        data = load_data(*args, **options)
        loaded.append(time.time())
        return data

    sweeps.load_data = timed
    sys.argv = ["experiments.sweep", f"--workdir={folder}", *arguments]
    try:
        runpy.run_module("experiments.sweep", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
    found = list(Path(folder).glob("members/*/metrics.jsonl"))
    if [len(path.read_text().splitlines()) for path in found] != [1]:
        raise ValueError("ask for one model and one epoch")
    (metrics,) = found
    # The only row was written when the epoch finished; nothing was written later.
    first_epoch = metrics.stat().st_mtime
    moments = Moments(
        importing=loaded[0] - started,
        loading=loaded[1] - loaded[0],
        compiling=sum(took for when, took in compiled if when < first_epoch),
        first_epoch=first_epoch - started,
        peak_bytes=peak_bytes(),
    )
    print(json.dumps(moments._asdict()))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3:])
