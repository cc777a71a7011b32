"""Runs a contender in its own process: ``python -m benchmarks.worker MODULE VARIANT``.

It reads one line of JSON, the work, from standard input, then one line per command. It
answers each with one line of JSON on standard output:

    (after set-up)  {"setup": seconds}
    epoch           {"seconds": ..., "others": ..., "elbo": ...}

Contenders are processes and not functions, so they share neither thread pools nor
memory allocators, and can still take turns.
"""

import importlib
import json
import os
import sys
import time

from benchmarks.machine import Stopwatch
from benchmarks.work import Work


def main(module: str, variant: str) -> None:
    # Output of a contender must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    work = Work.from_json(sys.stdin.readline())
    if work.platform != "cpu":
        # By default, JAX multiplies in TF32 and torch does not.
        exact = work.precision == "float32"
        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = (
            "float32" if exact else "tensorfloat32"
        )
    started = time.perf_counter()
    epoch = importlib.import_module(f"benchmarks.contenders.{module}").make(
        work, variant
    )
    print(json.dumps({"setup": time.perf_counter() - started}), file=answers)
    for _ in sys.stdin:
        watch = Stopwatch()
        elbo = epoch()
        print(json.dumps(watch.lap(elbo)._asdict()), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
