"""Trains the same members twice: ``python -m MODULE JSON``, with this module.

It prints the digest of the trained parameters of each training, and the seconds of each
epoch but the first.
"""

import json
import sys
from typing import NamedTuple


class Asked(NamedTuple):
    """The task of a process."""

    members: int
    widths: tuple[int, ...]
    num_images: int
    epochs: int


def main(asked: Asked) -> None:
    # Imported here: the parent imports this module.
    import jax
    import numpy as np

    from benchmarks.accelerator.programs import epoch_of, timed_epochs, vae
    from benchmarks.work import made_images
    from experiments.files.digests import arrays_digest

    images = made_images(asked.num_images)
    digests, seconds = [], []
    for _ in range(2):
        models = [vae(widths=tuple(asked.widths))] * asked.members
        program = epoch_of(models, images, jax.devices()[:1])
        state, taken = timed_epochs(program, 1 + asked.epochs)
        leaves = enumerate(jax.tree.leaves(jax.device_get(state.params)))
        digests.append(arrays_digest({str(i): np.asarray(leaf) for i, leaf in leaves}))
        seconds += taken[1:]
    print(json.dumps({"digests": digests, "seconds": seconds}))


if __name__ == "__main__":
    main(Asked(*json.loads(sys.argv[1])))
