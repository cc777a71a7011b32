"""The device, the images, and the sizes of everything."""

import dataclasses
import gzip
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from benchmarks.roofline import Peak
from benchmarks.work import PIXELS, made_images
from experiments.files.paths import expand_user
from experiments.files.reading import read_bytes, refusing
from experiments.messages.errors import DataError, SettingsError

_Size = TypeVar("_Size")

# The original files of MNIST, 60,000 and 10,000 images.
_IDX = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_IDX_HEADER, _MOST_IDX_BYTES = 16, 2**27
_NUM_TEST = 10_000
# Their versions are conditions of a record.
_PACKAGES = ("jax", "jaxlib", "flax", "optax")


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """Everything that the parts share.

    Attributes:
        devices: of one platform; all but one part use the first one alone.
        train: images, uint8 ``[N, 784]`` with 256 levels.
        test: images of the same kind.
        images: their name, 'MNIST' or 'made'.
        small: whether everything is made so small that the whole takes seconds.
        full: whether the part ``burda`` trains the full schedule.
        repeats: timed repetitions.
        peaks: rates of the device, by the precision of products; empty: unknown.
    """

    devices: tuple[jax.Device, ...]
    train: np.ndarray
    test: np.ndarray
    images: str
    small: bool = False
    full: bool = False
    repeats: int = 5
    peaks: Mapping[str, Peak] = dataclasses.field(default_factory=dict)

    def size(self, whole: _Size, small: _Size) -> _Size:
        """Returns one of two sizes."""
        return small if self.small else whole

    @property
    def device(self) -> jax.Device:
        """The device that is measured."""
        return self.devices[0]

    @property
    def platform(self) -> str:
        """The platform as the benchmarks name it: 'cpu', or 'gpu' for others."""
        return "cpu" if self.device.platform == "cpu" else "gpu"

    @property
    def threads(self) -> int:
        """Number of cores that may be used."""
        return len(os.sched_getaffinity(0))

    @property
    def both(self) -> list[jax.Device]:
        """The CPU, and the device unless that is the CPU itself."""
        return list(dict.fromkeys((jax.devices("cpu")[0], self.device)))

    @property
    def conditions(self) -> dict[str, str]:
        """The conditions that all pieces of a record share."""
        return {
            "device": f"{len(self.devices)} x {self.device.device_kind}",
            "platform": self.device.platform,
            "versions": ", ".join(
                [
                    f"Python {platform.python_version()}",
                    *(f"{name} {metadata.version(name)}" for name in _PACKAGES),
                ]
            ),
            "images": f"{self.images}, {len(self.train):,} and {len(self.test):,}",
            "size": self.size("whole", "small"),
        }

    @property
    def name(self) -> str:
        """The name of the folder of the records."""
        kind = self.conditions["device"] + self.size("", " small")
        return re.sub(r"\W+", "-", kind.lower())


def devices(asked: str) -> tuple[jax.Device, ...]:
    """Returns the devices of a platform; for 'auto', those that JAX prefers.

    Raises:
        SettingsError: JAX finds none of them.
    """
    if asked == "cpu":
        # Before JAX looks for others, which the processes of the contenders then need.
        jax.config.update("jax_platforms", "cpu")
    try:
        return tuple(jax.devices(None if asked == "auto" else asked))
    except RuntimeError:
        remedy = (
            "Install JAX for it (pip install 'jax[cuda13]'), or give --platform=cpu"
        )
        why = "JAX finds no such device here"
        raise SettingsError.of("--platform", asked, why, remedy) from None


def read_images(path: str, small: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns training and test images, uint8 ``[N, 784]``, and their name.

    Args:
        path: an npz file with ``train_images`` and ``test_images``, a folder of the
            original files of MNIST, or '' for made images.
        small: whether a few of them suffice.

    Raises:
        DataError: they cannot be read, or are no such images.
    """
    if not path:
        num_train, num_test = (240, 60) if small else (60_000, _NUM_TEST)
        images = made_images(num_train + num_test)
        return images[:num_train], images[num_train:], "made"
    place = expand_user(path)
    remedy = "Give an npz file with train_images and test_images, or MNIST's idx files"
    with refusing(f"cannot read --images={path}", remedy):
        train, test = (_split(place, split) for split in _IDX)
        for images in (train, test):
            if images.dtype != np.uint8 or not len(images):
                raise DataError(
                    f"--images={path} holds {images.dtype}: 8-bit images of 28x28 are "
                    f"needed. {remedy}."
                )
    cut = slice(240) if small else slice(None)
    return train[cut], test[cut], place.stem


def _split(place: Path, split: str) -> np.ndarray:
    if place.is_dir():
        packed = place / f"{_IDX[split]}.gz"
        if packed.exists():
            content = gzip.decompress(read_bytes(packed))
        else:
            content = read_bytes(place / _IDX[split], _MOST_IDX_BYTES)
        images = np.frombuffer(content, np.uint8, offset=_IDX_HEADER)
    else:
        with np.load(place) as stored:
            images = stored[f"{split}_images"]
    return images.reshape(-1, PIXELS)
