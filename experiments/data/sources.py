"""What every reader of images returns: a ``Source`` of integers, in its own splits.

A reader is a module with two functions:

    read(settings)       returns a Source
    identity(settings)   returns what its content depends on, for the cache

``digits``, ``npz``, ``folders`` and ``tfds`` are readers; ``images`` cuts a source into
train, validation and test. A reader refuses images that it could misread, because a
wrong pixel that is found later looks like a bad model. Files may come from a stranger:
nothing in them is executed, and only regular files that fit into memory are read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.data.settings import DataSettings
from experiments.data.values import to_levels
from experiments.messages.errors import one_line
from experiments.messages.wording import plain_label


class Split(NamedTuple):
    """Images and, if they are known, their classes.

    Attributes:
        images: uint8 [N, H, W, C], intensities in {0, ..., levels - 1}.
        labels: int32 [N], or None.
    """

    images: np.ndarray
    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Source:
    """All images of a data set in its own splits; 'train' is always one of them.

    Attributes:
        levels: number of intensities.
        splits: by the names in ``SPLITS``.
        class_names: of the labels 0, 1, ...; empty if they have no names.
        notes: sentences for a person on how the images were read.
    """

    levels: int
    splits: Mapping[str, Split]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def make_source(
    splits: Mapping[str, Split],
    names: Mapping[str, str],
    settings: DataSettings,
    class_names: Sequence[str] = (),
    *,
    levels: int | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Returns the source of images whose values may be any numbers.

    Args:
        splits: images [N, H, W, C] of any type, and labels.
        names: what messages call the images of each split.
        settings: which values are black and white.
        class_names: as in the files; they are dropped if they are the labels 0, 1, ...
        levels: number of intensities, if the file states it.
        notes: as in ``Source``.

    Raises:
        DataError: the values could mean more than one thing.
    """
    arrays = {split: images for split, (images, _) in splits.items()}
    levels, read = to_levels(arrays, names, settings, levels)
    shown = tuple(plain_label(one_line(name)) for name in class_names)
    if shown == tuple(map(str, range(len(shown)))):
        shown = ()
    labelled = {split: Split(read[split], splits[split].labels) for split in splits}
    return Source(levels, labelled, shown, tuple(notes))
