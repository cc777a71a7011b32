"""Evaluates one batch of images: ``python -m benchmarks.evaluation_process JSON``.

Prints what a number of importance samples takes, in time and in memory.
"""

import json
import sys
import time
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """What a process is to do."""

    work: str  # a Work, as JSON; its images are one batch
    num_samples: int
    chunk: int
    repeats: int


class Taken(NamedTuple):
    """What it took."""

    compiling: float  # seconds
    seconds: list[float]  # of the batch, each time
    program_bytes: int  # arguments, results and temporary arrays of the program
    peak_bytes: int  # largest resident set of the process
    log_px: float  # mean over the images, nats


def main(asked: Asked) -> None:
    # Imported here: what the parent imports of this module must stay light.
    import functools

    import jax
    import jax.numpy as jnp

    from benchmarks.contenders.ours import vae
    from benchmarks.machine import peak_bytes
    from benchmarks.work import LEVELS, Work
    from vae_jax import views
    from vae_jax.measure import evaluate

    work = Work.from_json(asked.work)
    model = vae(work, work.latent_dim)
    init_key, view_key, key = jax.random.split(jax.random.key(0), 3)
    images = jnp.asarray(work.images())
    intensity = views.to_intensity("levels", images, LEVELS)
    # What is computed does not depend on whether the model was trained.
    params = model.init(init_key, intensity.mean(0), intensity.std(0))
    x = views.observe(model.likelihood.view, view_key, images, LEVELS)
    arguments = (params, key, x, images, jnp.ones(work.latent_dim))
    program = functools.partial(
        evaluate,
        model,
        num_samples=asked.num_samples,
        chunk=asked.chunk,
        batch_size=len(images),
    )
    started = time.perf_counter()
    compiled = jax.jit(program).lower(*arguments).compile()
    compiling = time.perf_counter() - started
    seconds = []
    for _ in range(1 + asked.repeats):
        started = time.perf_counter()
        evaluation = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - started)
    memory: Any = compiled.memory_analysis()
    taken = Taken(
        compiling,
        seconds[1:],
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes,
        peak_bytes(),
        float(evaluation.estimate.log_px.mean()),
    )
    print(json.dumps(taken._asdict()))


if __name__ == "__main__":
    main(Asked(*json.loads(sys.argv[1])))
