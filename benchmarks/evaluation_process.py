"""Evaluates one batch of images: ``python -m benchmarks.evaluation_process JSON``.

It prints the time and the memory that a number of importance samples takes.
"""

import json
import sys
import time
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """The task of a process."""

    work: str  # a Work, as JSON; its images are one batch
    num_samples: int
    chunk: int
    repeats: int


class Taken(NamedTuple):
    """The time and memory of an evaluation."""

    compiling: float  # seconds
    seconds: list[float]  # seconds of the batch, each time
    program_bytes: int  # of the program's arguments, results and temporary arrays
    peak_bytes: int  # largest resident set of the process
    log_px: float  # mean over the images, nats


def main(asked: Asked) -> None:
    # Imported here: the parent imports this module, which must stay light.
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
    # An untrained model takes the same computations as a trained one.
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
