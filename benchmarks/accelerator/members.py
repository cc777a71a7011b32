"""1 to 256 members in one program: their throughput, and the memory."""

from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.accelerator.programs import bytes_in_use, epoch_of, timed_epochs, vae
from benchmarks.accelerator.records import Facts, Record
from benchmarks.accelerator.setting import Setting
from benchmarks.accelerator.text import not_measured, verdict
from benchmarks.tables import mebibytes, spread, table
from benchmarks.work import SIDE
from vae_jax.population.programs import beyond_arguments

TITLE = "Members 1 to 256"
ABOUT = "1 to 256 members in one program, beside one alone."

MOST_TIMES, _AT = 8.0, 64  # the target, and the number of members that it is about


class _Network(NamedTuple):
    title: str
    batch_size: int
    num_images: int
    options: dict[str, Any]


_NETWORKS = (
    _Network("784-400-20", 128, 60_000, {}),
    # As in the main job, with images of 8x8.
    _Network(
        "digits, 64-128-128-16",
        100,
        1300,
        {
            "widths": (128, 128),
            "latent_dim": 16,
            "image_shape": (8, 8, 1),
            "levels": 17,
        },
    ),
)


def measure(setting: Setting, record: Record) -> None:
    """Measures all pieces."""
    for network in _NETWORKS:
        for count in setting.size((1, 4, 16, 64, 256), (1, 2)):
            record.piece(
                f"{network.title}: {count}",
                _members,
                setting,
                network,
                count,
                minutes=2,
            )


def _members(setting: Setting, network: _Network, count: int) -> Facts:
    images = setting.train[: network.num_images]
    if network.options:
        images = _small_images(images)
    model = vae(**network.options)
    batch_size = min(network.batch_size, len(images))
    program = epoch_of([model] * count, images, [setting.device], batch_size=batch_size)
    # The state is alive until its memory is measured.
    state, seconds = timed_epochs(program, 1 + setting.repeats)
    in_use = bytes_in_use(setting.device)
    resident = sum(leaf.nbytes for leaf in jax.tree.leaves((state, images)))
    return {
        "members": count,
        "steps": len(images) // batch_size,
        "seconds": seconds[1:],
        "planned": resident + beyond_arguments(program.compiled),
        "in use": in_use,
    }


def _small_images(images: np.ndarray) -> np.ndarray:
    """Returns every third row and column of images as 8x8, with levels 0 to 16."""
    cut = images.reshape(-1, SIDE, SIDE)[:, 3:26:3, 3:26:3] // 16
    return cut.reshape(len(images), -1)


def section(pieces: dict[str, Facts]) -> str:
    """Returns the section of the page."""
    texts = []
    for network in _NETWORKS:
        own = {
            name: facts
            for name, facts in pieces.items()
            if name.startswith(f"{network.title}: ")
        }
        if own:
            texts.append(_network_text(network, own))
    return "\n\n".join(texts)


def _network_text(network: _Network, pieces: dict[str, Facts]) -> str:
    rows, times = [], {}
    alone = pieces.get(f"{network.title}: 1", {}).get("seconds")
    for name, facts in pieces.items():
        count = name.rpartition(" ")[2]
        if failure := not_measured(facts):
            rows.append([count, failure, *"–––––"])
            continue
        seconds, in_use = facts["seconds"], facts["in use"]
        ratio = median(seconds) / median(alone) if alone else np.nan
        times[int(count)] = ratio
        rows.append(
            [
                count,
                spread(seconds, 3),
                f"{1e6 * median(seconds) / facts['steps']:.0f}",
                f"{ratio:.2f}",
                f"{int(count) / ratio:.1f}",
                mebibytes(facts["planned"]),
                "not known" if in_use is None else mebibytes(in_use),
            ]
        )
    header = (
        "members",
        "s per epoch of all",
        "µs per step",
        "times one alone",
        "throughput",
        "planned, MiB",
        "in use, MiB",
    )
    text = (
        f"{network.title}, batch {network.batch_size}. *Planned*: the state, the "
        f"images and what the epoch needs beside them. *In use*: between epochs.\n\n"
        f"{table(header, rows)}"
    )
    if _AT in times:
        asked = f"{_AT} members in at most {MOST_TIMES:g} times one member's time"
        text += f"\n\n{verdict(asked, times[_AT] <= MOST_TIMES)}"
    return text
