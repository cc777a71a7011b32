"""A data set as training and evaluation read it: rows of integers, and their views."""

import functools

import jax
import numpy as np

from experiments.data.images import ImageData
from experiments.data.names import SPLITS
from experiments.messages.errors import SettingsError
from experiments.messages.wording import counted
from vae_jax import views
from vae_jax.model import VAE
from vae_jax.rows import MOST_CLASSES, Rows

# Pixels, one byte each, of the training images in a sample.
_MOST_SAMPLED = 2**26


def training_sample(data: ImageData) -> np.ndarray:
    """Returns the training images for programs that need many at once, ``[n, D]``.

    All of them, or evenly spaced ones if they hold more than 2**26 pixels.
    """
    images = data.train.images.reshape(-1, data.num_pixels)
    return images[:: _stride(data)]


def _stride(data: ImageData) -> int:
    return -(-data.train.images.size // _MOST_SAMPLED)


def check_labels(data: ImageData) -> None:
    """Refuses images whose labels cannot be the classes of a model.

    Every class of the validation and the test images must have training images.

    Raises:
        SettingsError: labels are missing or negative, or a class has too few images.
    """

    def refusal(why: str, remedy: str) -> SettingsError:
        remedy = f"{remedy}, or leave it at ''"
        return SettingsError.of("model.condition_on", "label", why, remedy)

    for split in SPLITS:
        labels = getattr(data, split).labels
        if labels is None:
            why = f"{data.name} has no labels of its {split} images"
            raise refusal(why, "Choose data with labels")
        if labels.min() < 0:
            why = f"{split} images of {data.name} have the label {labels.min()}"
            raise refusal(why, "Number classes from 0, or give them names")
        new, counts = np.unique(labels, return_counts=True)
        unknown = ~np.isin(new, data.classes)
        if unknown.any():
            name = data.class_name(new[unknown][0])
            count = counted(int(counts[unknown][0]), f"{split} image")
            why = f"class {name} of {data.name} has {count} and no training image"
            raise refusal(why, "Give training images of every class")
    number = len(data.classes)
    if not 2 <= number <= MOST_CLASSES:
        known = "all of one class" if number == 1 else f"of {number} classes"
        why = f"the training images of {data.name} are {known}"
        raise refusal(why, f"Choose data of 2 to {MOST_CLASSES} classes")


class Images:
    """The images of a sweep, on the host, and the views of them on the device.

    Attributes:
        data: the data set.
        validation: rows, uint8 ``[N, D]``, on the host; ``train`` and ``test``
            likewise.
        sample: see ``training_sample``.
        pixel_mean: mean intensity of each pixel over the training images, ``[D]``.
        pixel_std: standard deviation of the same, ``[D]``.
        train_labels: classes of the training images, if rows have them, ``[N]``.
    """

    train_labels: np.ndarray | None = None

    def __init__(self, data: ImageData):
        self.data = data
        self.validation, self.test = (
            split.images.reshape(-1, data.num_pixels)
            for split in (data.validation, data.test)
        )
        self.sample = training_sample(data)
        self.pixel_mean, self.pixel_std = views.pixel_statistics(
            self.train, data.levels
        )
        self._views: dict[tuple[str, int], jax.Array] = {}

    @functools.cached_property
    def train(self) -> np.ndarray:
        """The training images."""
        return self.data.train.images.reshape(-1, self.data.num_pixels)

    def of(self, model: VAE) -> "Images":
        """Returns the rows that a model reads: with classes, if it has classes."""
        return self._with_classes if model.num_classes else self

    @functools.cached_property
    def _with_classes(self) -> "LabelledImages":
        return LabelledImages(self)

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


class LabelledImages(Images):
    """The same images; rows ``[N, D + 1]`` end with the class (``vae_jax.rows``).

    A class is the index of a label among those of the training images. The views of the
    pixels are those that models without classes see.
    """

    def __init__(self, images: Images):
        self.data, self._pixels = images.data, images
        self.pixel_mean, self.pixel_std = images.pixel_mean, images.pixel_std
        known, number = self.data.labelled, len(self.data.classes)
        self._rows = Rows(self.data.num_pixels, number, known is not None)
        self.train_labels, *held_out = (
            self.data.class_index(split.labels)
            for split in (self.data.train, self.data.validation, self.data.test)
        )
        if known is not None:  # Validation by labels would be learning from them.
            self.train_labels = np.where(known, self.train_labels, number)
            held_out[0] = np.full_like(held_out[0], number)
        sampled = self.train_labels[:: _stride(self.data)]
        self._labels = (*held_out, sampled)
        self.validation, self.test, self.sample = (
            self._rows.of(pixels, labels)
            for pixels, labels in zip(
                (images.validation, images.test, images.sample),
                self._labels,
                strict=True,
            )
        )

    @functools.cached_property
    def train(self) -> np.ndarray:
        """The training images, a copy in memory."""
        return self._rows.of(self._pixels.train, self.train_labels)

    def view(self, view: str, which: int) -> jax.Array:
        """See ``Images``; pixels have the draw that models without classes see."""
        return self._rows.join(self._pixels.view(view, which), self._labels[which])
