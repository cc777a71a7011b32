"""Prints the CPU seconds of each stage of the main job, by likelihood.

python -m benchmarks.stages_process
"""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from configs import digits
from experiments.data.images import load_data
from experiments.runner.images import Images
from experiments.runner.measuring import constant_output_baseline
from experiments.runner.position import Position
from experiments.runner.task import GroupTask
from experiments.settings import grid

# Of the epochs of a group, one in so many is trained; the seconds are multiplied.
_SHARE = 10


def stages(group: grid.Group, images: Images) -> dict[str, float]:
    """Returns the CPU seconds of each stage of a group."""
    taken: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        taken[name] = time.process_time() - started

    with stage("compiling"):
        compiled = GroupTask(group, images).compile()
    task, start = compiled.task, Position.fresh(compiled)
    num_epochs = task.trainer.config.num_epochs // _SHARE
    with stage("training"), compiled.training(0) as train_epoch:
        snapshots = task.population.epochs(train_epoch, compiled.validate, start.state)
        for snapshot in itertools.islice(snapshots, num_epochs):  # noqa: B007
            pass
        state = jax.block_until_ready(snapshot.state)
    taken["training"] *= _SHARE
    with stage("evaluation"):
        compiled.measure(state.best_params)
    with stage("constant output"):
        arguments = task.settings, task.widest.likelihood, images
        constant_output_baseline(*arguments)
    return taken


def main() -> None:
    runs = grid.expand(digits.get_config().to_dict())
    images = Images(load_data(runs[0].settings.data))
    groups = grid.group(runs)
    taken = {g.widest.model.likelihood: stages(g, images) for g in groups}
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
