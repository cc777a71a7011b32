"""The images of an experiment: integers, cut into train, validation and test.

    settings = DataSettings('digits')
    data = load_data(settings)      # data.train.images: uint8 [1300, 8, 8, 1]

A pixel is an integer in {0, ..., levels - 1}. Which images belong to which split, and
which pixels of a statically binarized data set are white, is a function of the settings
alone; `ImageData.fingerprint` proves that two runs saw the same images.

Standard splits, where a data set does not come with its own:

    digits                  1,300 train     200 validation     297 test
    mnist, fashion_mnist   50,000 train  10,000 validation  10,000 test (their own)
    others                 a tenth of the training images for each missing split

MNIST is cut like binarized MNIST (50,000 / 10,000 / 10,000; Larochelle and Murray,
"The neural autoregressive distribution estimator", 2011), so that the same number of
training images stands behind all results on it.
"""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from experiments.data import cache, folders, published, sources
from experiments.data.names import SPLITS
from experiments.data.settings import DataSettings
from experiments.data.sources import Source, Split
from experiments.files.digests import array_digest
from experiments.messages.errors import DataError
from experiments.messages.wording import counted, plain_name

_STANDARD_SIZES = {
    ("digits", "test"): 297,
    ("digits", "validation"): 200,
    ("mnist", "validation"): 10_000,
    ("fashion_mnist", "validation"): 10_000,
}


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images of one shape with integer pixels, in three splits.

    Attributes:
        name: what reports call the data set.
        levels: number of intensities; a pixel is in {0, ..., levels - 1}.
        train: images to fit.
        validation: images to choose settings by.
        test: images to report on.
        binarization: how they become black and white for a model of binary images:
            'dynamic', by a fresh draw at each access; 'static', as they were drawn
            once, here; 'published', as they came.
        class_names: of the labels 0, 1, ...; empty where they have none.
        notes: sentences on these images that a person should know.
    """

    name: str
    levels: int
    train: Split
    validation: Split
    test: Split
    binarization: str
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def num_pixels(self) -> int:
        """Dimension D of an image: the product of its shape."""
        return int(np.prod(self.image_shape))

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 of all images and labels, and of which split they are in."""
        digest = hashlib.sha256(str(self.levels).encode())
        for split in SPLITS:
            images, labels = getattr(self, split)
            digest.update(array_digest(images).encode())
            if labels is not None:
                digest.update(array_digest(labels).encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """One line for a person."""
        sizes = ", ".join(f"{len(getattr(self, s).images):,} {s}" for s in SPLITS)
        shape = "x".join(map(str, self.image_shape))
        return f"{self.name}: {sizes} images of {shape} with {self.levels} levels"


def load_data(settings: DataSettings) -> ImageData:
    """Returns the images that the settings ask for.

    Raises:
        DataError: if they cannot be had; the message names value and remedy.
    """
    source = _read(settings)
    splits = _partition(source, settings)
    notes = (*source.notes, *_notes_on_equal_images(splits))
    binarization = "published" if source.levels == 2 else settings.binarization
    if binarization == "static":
        source = _binarize(source, settings.binarization_seed)
        splits = _partition(source, settings)
    own = settings.name in ("npz", "folder")
    # Versions may be 3.*.* too, and results hold plain names alone.
    name = plain_name(
        pathlib.Path(settings.path).absolute().stem if own else settings.name
    )
    return ImageData(
        name,
        source.levels,
        **splits,
        binarization=binarization,
        class_names=source.class_names,
        notes=notes,
    )


def _notes_on_equal_images(splits: Mapping[str, Split]) -> list[str]:
    """Returns sentences on images that are equal, pixel by pixel, where it matters."""
    # Of 64 bits: that two images are equal by chance is as good as impossible.
    hashes = {
        split: np.fromiter(
            (hash(image.tobytes()) for image in splits[split].images), np.int64
        )
        for split in SPLITS
    }
    notes, copies = [], []
    if len(splits["train"].images) > 1 and np.ptp(hashes["train"]) == 0:
        notes.append(
            f"all {len(hashes['train'])} training images are the same one, from which"
            " there is nothing to learn: see how they were written"
        )
    for first, second in itertools.combinations(SPLITS, 2):
        equal = int(np.isin(hashes[second], hashes[first]).sum())
        if equal:
            known = "training" if first == "train" else first
            copies.append(
                f"{equal} of {len(hashes[second])} {second} images are {known} images"
                " too"
            )
    if copies:
        notes.append(
            f"{', '.join(copies)}, pixel by pixel: remove the copies, for numbers on"
            " images that were trained on look better than those on new ones"
        )
    return notes


def _read(settings: DataSettings) -> Source:
    """Returns all images of the data set, from the cache where that is faster."""
    name, data_dir, meaning = settings.name, settings.data_dir, settings.meaning
    if name == "npz":
        return sources.read_npz(settings.path, meaning)
    if name == "digits":
        read = sources.read_digits
        identity = sources.digits_identity
    elif name == "folder":
        read = functools.partial(folders.read_folder, settings.path, meaning)
        identity = functools.partial(folders.folder_identity, settings.path)
    else:
        read = functools.partial(sources.read_tfds, name, data_dir, meaning)
        identity = functools.partial(sources.tfds_identity, name, data_dir)
        if settings.download and not sources.is_on_disk(name, data_dir):
            published.prepare(name.split(":")[0], data_dir)
    return cache.cached(
        read,
        [*identity(), *dataclasses.astuple(meaning)],
        settings.cache_dir,
        memory_mapped=settings.stream,
    )


def _binarize(source: Source, seed: int) -> Source:
    """Returns the source with one Bernoulli draw of mean k / (levels - 1) per pixel.

    A whole source is binarized, before it is cut, so that the draw of an image depends
    on nothing but the seed and its place in the data set.
    """
    splits = {}
    for split, (images, labels) in source.splits.items():
        generator = np.random.default_rng([seed, SPLITS.index(split)])
        # P(u < k) is exactly k / (levels - 1) for integers; black stays black and white
        # stays white. No float can round it.
        u = generator.integers(source.levels - 1, size=images.shape, dtype=np.uint8)
        splits[split] = Split((u < images).astype(np.uint8), labels)
    return dataclasses.replace(source, levels=2, splits=splits)


def _partition(source: Source, settings: DataSettings) -> dict[str, Split]:
    """Returns train, validation and test; those missing are drawn from 'train'."""
    splits = dict(source.splits)
    where = settings.path or settings.name
    order: np.ndarray = np.arange(len(splits["train"].images))
    if len(splits) < len(SPLITS):
        order = np.random.default_rng(settings.split_seed).permutation(order)
    # The test images are drawn first: they stay the same whatever num_validation is.
    for split in ("test", "validation"):
        size = _split_size(split, source.splits, settings)
        if size:
            if size >= len(order):
                total = len(source.splits["train"].images)
                is_enough = total > len(SPLITS) - len(source.splits)
                raise DataError(
                    f"{where} has {counted(total, 'image')} to split, too few for"
                    f" {counted(size, f'{split} image')} (data.num_{split}):"
                    f" {'ask for fewer or ' if is_enough else ''}give more images"
                )
            splits[split] = _take(source.splits["train"], order[:size])
            order = order[size:]
    if settings.num_train > len(order):
        raise DataError(
            f"data.num_train is {settings.num_train}, but {where} has"
            f" {len(order)} training images: ask for fewer, or -1 for all"
        )
    if settings.num_train != -1:
        order = order[: settings.num_train]
    splits["train"] = _take(source.splits["train"], order)
    return splits


def _split_size(
    split: Literal["validation", "test"],
    splits: Mapping[str, Split],
    settings: DataSettings,
) -> int:
    """Returns how many training images to set aside for a split."""
    asked = getattr(settings, f"num_{split}")
    if split in splits:
        if asked != -1:
            raise DataError(
                f"data.num_{split} is {asked}, but {settings.path or settings.name}"
                f" comes with its own {len(splits[split].images)} {split} images: leave"
                " it at -1"
            )
        return 0
    if asked != -1:
        return asked
    standard = max(1, len(splits["train"].images) // 10)
    return _STANDARD_SIZES.get((settings.name.split(":")[0], split), standard)


def _take(split: Split, indices: np.ndarray) -> Split:
    """Returns the images, and labels if any, at the given places."""
    images, labels = split
    first = indices[0]
    if np.array_equal(indices, np.arange(first, first + len(indices))):
        # A view: of images that are mapped into memory, nothing is read.
        where = slice(first, first + len(indices))
        return Split(images[where], None if labels is None else labels[where])
    return Split(images[indices], None if labels is None else labels[indices])
