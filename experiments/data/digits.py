"""Reads the handwritten digits that come with scikit-learn."""

import importlib.metadata

import numpy as np

from experiments.data.settings import DataSettings
from experiments.data.sources import Source, Split


def read(_: DataSettings) -> Source:
    """Returns 1797 images of 8x8 pixels and 17 levels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    return Source(17, {"train": Split(images, digits.target.astype(np.int32))})


def identity(_: DataSettings) -> list[str]:
    """Returns what the content of ``read`` depends on."""
    return ["digits", importlib.metadata.version("scikit-learn")]
