"""Prints XLA's counts of an epoch: ``python -m benchmarks.cost_process WORK``."""

import json
import sys

from benchmarks.roofline import Counted
from benchmarks.work import Work


def count(work: Work) -> Counted:
    """Returns XLA's counts of an epoch of ours."""
    # Imported here: the parent imports this module, which must stay light.
    from benchmarks.contenders.ours import compile_one

    # XLA counts the body of a loop once, so an epoch of one step gives one step's cost.
    one_step = compile_one(work, work.images()[: work.batch_size]).compiled
    cost = one_step.cost_analysis() or {}
    return Counted(
        flop=work.num_steps * cost.get("flops", float("nan")),
        bytes_accessed=work.num_steps * cost.get("bytes accessed", float("nan")),
    )


if __name__ == "__main__":
    print(json.dumps(count(Work.from_json(sys.argv[1]))._asdict()))
