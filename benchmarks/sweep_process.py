"""A process of a sweep: ``python -m benchmarks.sweep_process JSON``.

It compiles and trains its groups one after another and prints the time of each part.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple


class Asked(NamedTuple):
    """The task of a process."""

    work: str  # a Work, as JSON
    epochs: int
    groups: Sequence[Sequence[tuple[int, float]]]  # (latent size, beta) of members


class Timings(NamedTuple):
    """The seconds of each part."""

    total: float  # from process start to process end
    compiling: float  # tracing and initialisation included
    training: float


def main(asked: Asked) -> None:
    # Imported here: the parent imports this module, which must stay light.
    import jax

    from benchmarks.contenders.ours import compile_members, vae
    from benchmarks.work import Work
    from vae_jax.training import TrainingConfig

    work = Work.from_json(asked.work)
    config = TrainingConfig(
        batch_size=work.batch_size,
        num_epochs=asked.epochs,
        validate_every=asked.epochs,
    )
    images = work.images()
    compiling = training = 0.0
    for group in asked.groups:
        started = time.perf_counter()
        state, train, _ = compile_members(
            [vae(work, latent_dim) for latent_dim, _ in group],
            config,
            images,
            betas=[beta for _, beta in group],
            learning_rate=work.learning_rate,
            # A step of one member hardly occupies an accelerator.
            execution="loop" if work.platform == "cpu" else "map",
        )
        compiled = time.perf_counter()
        jax.device_get(train(state)[1])
        compiling += compiled - started
        training += time.perf_counter() - compiled
    print(json.dumps({"compiling": compiling, "training": training}))


if __name__ == "__main__":
    main(Asked(*json.loads(sys.argv[1])))
