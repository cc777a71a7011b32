"""Rows: the values of an image and, in a model with classes, the class of the image.

A model with K classes describes p(x|z, y) and q(z|x, y), y the class. Its rows are
``[..., D + 1]``: the D values of an image, and the number of its class, 0 ... K - 1.
Without classes a row is the image alone, ``[..., D]``. So code that passes images on
(batches, streams, importance samples, members) passes their classes on with them; only
the model splits a row.

If the model has a classifier, the class of an image may be unknown: it is then K in a
row, and -1 among a user's labels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

# Rows on the host are integers of 8 bits.
MOST_CLASSES = 255


class Rows(NamedTuple):
    """The format of a model's rows; hashable, and static under ``jit``."""

    num_pixels: int  # D
    num_classes: int  # K; 0: there are no classes
    may_be_unknown: bool = False  # whether the class of some images is not known

    @property
    def size(self) -> int:
        """The number of values of a row."""
        return self.num_pixels + (self.num_classes > 0)

    def split(self, x: Any) -> tuple[Any, Any]:
        """Returns images ``[..., D]`` and their classes, int32 ``[...]``.

        Args:
            x: rows, on the host or on a device.

        Returns:
            The values of the images, and the classes; None without classes.

        Raises:
            ValueError: there are classes, and rows have another size.
        """
        if not self.num_classes:
            return x, None
        if x.shape[-1] != self.size:
            raise ValueError(
                f"rows have {x.shape[-1]} values: the model has {self.num_pixels} "
                f"pixels and {self.num_classes} classes. Give {self.size}, of which "
                "the last is the class."
            )
        return x[..., :-1], x[..., -1].astype(np.int32)

    def join(
        self, pixels: jax.Array, labels: jax.Array | np.ndarray | None
    ) -> jax.Array:
        """Returns rows of images and their classes; the inverse of ``split``.

        Args:
            pixels: the values of images, ``[..., D]``.
            labels: their classes, whole numbers that broadcast to ``[...]``; None
                without classes.

        Raises:
            ValueError: there are classes and no labels, or the other way round.
        """
        self._require("labels", labels)
        if labels is None:
            return pixels
        last = jnp.broadcast_to(labels, pixels.shape[:-1])[..., None]
        return jnp.concatenate([pixels, last.astype(pixels.dtype)], axis=-1)

    def map(self, function: Callable[[Any], jax.Array], x: Any) -> jax.Array:
        """Returns rows with a function of the values of images; classes are kept."""
        pixels, labels = self.split(x)
        return self.join(function(pixels), labels)

    def one_hot(self, x: jax.Array, dtype: Any) -> tuple[jax.Array, ...]:
        """Returns the classes of rows as one array ``[..., K]``; () without classes."""
        _, labels = self.split(x)
        if labels is None:
            return ()
        return (jax.nn.one_hot(labels, self.num_classes, dtype=dtype),)

    def draw_labels(self, key: jax.Array, num_images: int) -> jax.Array | None:
        """Returns classes ``[num_images]``, equally probable; None without classes."""
        if not self.num_classes:
            return None
        return jax.random.randint(key, (num_images,), 0, self.num_classes)

    def of(
        self, pixels: np.ndarray, labels: ArrayLike | None, name: str = "labels"
    ) -> np.ndarray:
        """Returns rows of a user's images and labels, uint8 ``[N, D]`` on the host.

        Args:
            pixels: as ``views.as_rows`` returns them, ``[N, D]``.
            labels: whole numbers 0 ... K - 1, or -1 for a class that is not known,
                ``[N]``; None without classes.
            name: the name of the labels, for messages.

        Raises:
            ValueError: labels are missing, or are not allowed.
        """
        self._require(name, labels)
        if labels is None:
            return pixels
        remedy = (
            f"Give 0 ... {self.num_classes - 1}, the place of each label in "
            f"np.unique(training_labels){', or -1 if unknown' * self.may_be_unknown}."
        )
        try:
            given = np.asarray(labels)
        except ValueError:
            raise ValueError(
                f"{name} is a list of parts of different lengths: classes are whole "
                f"numbers. {remedy}"
            ) from None
        if given.shape != (len(pixels),):
            raise ValueError(
                f"{name} has shape {list(given.shape)}: there are {len(pixels)} images."
                f" Give one for each, [{len(pixels)}]."
            )
        if not np.issubdtype(given.dtype, np.integer):
            raise ValueError(
                f"{name} has dtype {given.dtype}: classes are whole numbers. {remedy}"
            )
        if self.may_be_unknown:
            given = np.where(given == -1, self.num_classes, given)
        if given.min() < 0 or given.max() >= self.num_classes + self.may_be_unknown:
            raise ValueError(
                f"{name} has values from {given.min()} to {given.max()}: the model has "
                f"{self.num_classes} classes. {remedy}"
            )
        return np.column_stack([pixels, given.astype(np.uint8)])

    def _require(self, name: str, labels: Any) -> None:
        """Refuses classes without labels, and labels without classes."""
        if self.num_classes and labels is None:
            raise ValueError(
                f"{name} is None: the model has {self.num_classes} classes. Give the "
                f"class of each image, 0 ... {self.num_classes - 1}."
            )
        if labels is not None and not self.num_classes:
            raise ValueError(
                f"{name} is given: the model has no classes. Leave it out, or make the "
                "model with num_classes."
            )
