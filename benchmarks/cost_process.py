"""Prints XLA's counts of an epoch: ``python -m benchmarks.cost_process WORK``."""

import json
import sys

from benchmarks.work import Work


def main(work: Work) -> None:
    # Imported here: the parent imports this module, which must stay light.
    from benchmarks.contenders.ours import compile_one
    from benchmarks.roofline import Counted

    # XLA counts the body of a loop once, so an epoch of one step gives one step's cost.
    one_step = compile_one(work, work.images()[: work.batch_size]).compiled
    cost = one_step.cost_analysis() or {}
    counted = Counted(
        flop=work.num_steps * cost.get("flops", float("nan")),
        bytes_accessed=work.num_steps * cost.get("bytes accessed", float("nan")),
    )
    print(json.dumps(counted._asdict()))


if __name__ == "__main__":
    main(Work.from_json(sys.argv[1]))
