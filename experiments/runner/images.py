"""A data set as training and evaluation read it: rows of integers, and their views."""

import jax
import numpy as np

from experiments.data.images import ImageData
from vae_jax import views

# Pixels, one byte each, of the training images in a sample.
_MOST_SAMPLED = 2**26


def training_sample(data: ImageData) -> np.ndarray:
    """Returns the training images for programs that need many at once, ``[n, D]``.

    All of them, or evenly spaced ones if they hold more than 2**26 pixels.
    """
    images = data.train.images.reshape(-1, data.num_pixels)
    return images[:: -(-images.size // _MOST_SAMPLED)]


class Images:
    """The images of a sweep, on the host, and the views of them on the device.

    Attributes:
        data: the data set.
        train: uint8 ``[N, D]``, on the host; ``validation`` and ``test`` likewise.
        sample: see ``training_sample``.
        pixel_mean: mean intensity of each pixel over the training images, ``[D]``.
        pixel_std: standard deviation of the same, ``[D]``.
    """

    def __init__(self, data: ImageData):
        self.data = data
        self.train, self.validation, self.test = (
            split.images.reshape(-1, data.num_pixels)
            for split in (data.train, data.validation, data.test)
        )
        self.sample = training_sample(data)
        self.pixel_mean, self.pixel_std = views.pixel_statistics(
            self.train, data.levels
        )
        self._views: dict[tuple[str, int], jax.Array] = {}

    def view(self, view: str, which: int) -> jax.Array:
        """Returns the draw that all runs share of one split.

        Args:
            view: the random variable that the likelihood models.
            which: ``views.TRAIN`` (the sample), ``VALIDATION`` or ``TEST``.
        """
        if (view, which) not in self._views:
            images = (self.validation, self.test, self.sample)[which]
            drawn = views.shared_draw(view, which, images, self.data.levels)
            self._views[view, which] = drawn
        return self._views[view, which]
