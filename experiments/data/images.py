"""The images of an experiment: integers, cut into train, validation and test.

    settings = DataSettings('digits')
    data = load_data(settings)      # data.train.images: uint8 [1300, 8, 8, 1]

A pixel is an integer in {0, ..., levels - 1}. The settings alone decide which images
belong to which split, and which pixels of a statically binarized data set are white.
``ImageData.fingerprint`` proves that two runs saw the same images.

Standard splits, for data sets that do not define their own:

    digits                  1,300 train     200 validation     297 test
    mnist, fashion_mnist   50,000 train  10,000 validation  10,000 test (their own)
    others                 a tenth of the training images for each missing split

MNIST is cut like binarized MNIST (50,000 / 10,000 / 10,000; Larochelle and Murray,
"The neural autoregressive distribution estimator", 2011), so that all results on it
come from the same number of training images.
"""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from experiments.data import cache, digits, downloads, folders, npz, tfds
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
        name: the data set's name in reports.
        levels: number of intensities; a pixel is in {0, ..., levels - 1}.
        train: images to fit.
        validation: images to choose settings by.
        test: images to report on.
        binarization: how images become black and white for a model of binary images:
            'dynamic', by a new draw at each access; 'static', by one draw, already
            made; 'published', because they came so.
        class_names: of the labels 0, 1, ...; empty if they have no names.
        reading_notes: sentences for a person on how the images were read.
        labelled: of each training image, whether models know its label, [N]; None if
            they know all.
        originals: the splits before static binarization, to look for equal images in.
    """

    name: str
    levels: int
    train: Split
    validation: Split
    test: Split
    binarization: str
    class_names: tuple[str, ...] = ()
    reading_notes: tuple[str, ...] = ()
    labelled: np.ndarray | None = None
    originals: Mapping[str, Split] = dataclasses.field(default_factory=dict)

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
    def classes(self) -> np.ndarray:
        """The distinct labels of the training images, sorted; empty without labels."""
        labels = self.train.labels
        return np.unique([] if labels is None else labels).astype(np.int32)

    def class_index(self, labels: np.ndarray | None) -> np.ndarray:
        """Returns the places of labels among ``classes``; all of them are there."""
        return np.searchsorted(self.classes, [] if labels is None else labels)

    def class_name(self, label: int) -> str:
        """Returns the name of the class with a label; the label if it has no name."""
        named = 0 <= label < len(self.class_names)
        return self.class_names[label] if named else str(label)

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

    @functools.cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences on these images that a person should know."""
        return (*self.reading_notes, *_notes_on_equal_images(self.originals))

    def describe(self) -> str:
        """Returns one line for a person."""
        sizes = ", ".join(f"{len(getattr(self, s).images):,} {s}" for s in SPLITS)
        shape = "x".join(map(str, self.image_shape))
        return f"{self.name}: {sizes} images of {shape} with {self.levels} levels"


def load_data(settings: DataSettings) -> ImageData:
    """Returns the images that the settings ask for.

    Raises:
        DataError: they cannot be read or cut; the message names value and remedy.
    """
    source = _read(settings)
    splits = originals = _cut(source, settings)
    binarization = "published" if source.levels == 2 else settings.binarization
    if binarization == "static":
        source = _binarize(source, settings.binarization_seed)
        splits = _cut(source, settings)
    labelled = _labelled(splits["train"].labels, settings)
    if labelled is not None and settings.labelled_repeats > 1:
        again = np.repeat(np.flatnonzero(labelled), settings.labelled_repeats - 1)
        order = np.concatenate([np.arange(len(labelled)), again])
        splits["train"] = _take(splits["train"], order)
        labelled = labelled[order]
    return ImageData(
        _title(settings),
        source.levels,
        **splits,
        binarization=binarization,
        class_names=source.class_names,
        reading_notes=source.notes,
        labelled=labelled,
        originals=originals,
    )


def _read(settings: DataSettings) -> Source:
    """Returns all images of the data set, from the cache if that is faster."""
    name = settings.name
    if name == "npz":
        return npz.read(settings)
    reader: Any = {"digits": digits, "folder": folders}.get(name, tfds)
    data_dir = settings.data_dir
    if reader is tfds and settings.download and not tfds.is_on_disk(name, data_dir):
        downloads.prepare(name.split(":")[0], data_dir)
    values = settings.black, settings.white, settings.background
    return cache.cached(
        lambda: reader.read(settings),
        [*reader.identity(settings), *values],
        settings.cache_dir,
        memory_mapped=settings.stream,
    )


def _binarize(source: Source, seed: int) -> Source:
    """Returns the source with one Bernoulli draw of mean k / (levels - 1) per pixel.

    The source is binarized before it is cut, so the draw of an image depends only on
    the seed and the image's place in the data set.
    """
    splits = {}
    for split, (images, labels) in source.splits.items():
        generator = np.random.default_rng([seed, SPLITS.index(split)])
        # P(u < k) is exactly k / (levels - 1) for integers, which no float rounds;
        # black stays black and white stays white.
        u = generator.integers(source.levels - 1, size=images.shape, dtype=np.uint8)
        splits[split] = Split((u < images).astype(np.uint8), labels)
    return dataclasses.replace(source, levels=2, splits=splits)


def _cut(source: Source, settings: DataSettings) -> dict[str, Split]:
    """Returns train, validation and test; missing splits are drawn from 'train'."""
    splits = dict(source.splits)
    where = settings.path or settings.name
    total = len(splits["train"].images)
    order: np.ndarray = np.arange(total)
    if len(splits) < len(SPLITS):
        order = np.random.default_rng(settings.split_seed).permutation(order)
    # Test images are drawn first, so they do not depend on num_validation.
    for split in ("test", "validation"):
        size = getattr(settings, f"num_{split}")
        if split in source.splits:
            if size != -1:
                own = counted(len(splits[split].images), f"{split} image")
                why = f"{where} has {own} of its own"
                raise settings.refusal(f"num_{split}", why, "Leave it at -1")
            continue
        if size == -1:
            base = settings.name.split(":")[0]
            size = _STANDARD_SIZES.get((base, split), max(1, total // 10))
        if size >= len(order):
            is_enough = total > len(SPLITS) - len(source.splits)
            raise DataError(
                f"{where} has {counted(total, 'image')} to split, too few for"
                f" {counted(size, f'{split} image')} (data.num_{split})."
                f" {'Ask for fewer or g' if is_enough else 'G'}ive more images."
            )
        splits[split] = _take(source.splits["train"], order[:size])
        order = order[size:]
    if settings.num_train > len(order):
        why = f"{where} has {counted(len(order), 'training image')}"
        raise settings.refusal("num_train", why, "Ask for fewer, or -1 for all")
    if settings.num_train != -1:
        order = order[: settings.num_train]
    splits["train"] = _take(source.splits["train"], order)
    return splits


def _labelled(labels: np.ndarray | None, settings: DataSettings) -> np.ndarray | None:
    """Returns whether models know the label of each training image; None: of all."""
    count, field = settings.labelled_per_class, "labelled_per_class"
    if count == -1:
        return None
    if labels is None:
        remedy = "Choose data with labels, or leave it at -1"
        raise settings.refusal(field, "the training images have no labels", remedy)
    order = np.random.default_rng(settings.split_seed).permutation(len(labels))
    known = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        if len(own) < count:
            images = counted(len(own), "training image")
            why, remedy = f"class {label} has {images}", "Ask for fewer, or -1 for all"
            raise settings.refusal(field, why, remedy)
        known[own[:count]] = True
    return known


def _take(split: Split, indices: Any) -> Split:
    """Returns the images, and labels if there are any, at the given places."""
    images, labels = split
    first, where = indices[0], indices
    if np.array_equal(indices, np.arange(first, first + len(indices))):
        # A slice is a view, so images that are mapped into memory are not read.
        where = slice(first, first + len(indices))
    return Split(images[where], None if labels is None else labels[where])


def _title(settings: DataSettings) -> str:
    """Returns the data set's name in reports: plain, since 'mnist:3.*.*' is a name."""
    if settings.name in ("npz", "folder"):
        return plain_name(pathlib.Path(settings.path).absolute().stem)
    return plain_name(settings.name)


def _notes_on_equal_images(splits: Mapping[str, Split]) -> Iterator[str]:
    """Yields sentences on images that are equal, pixel by pixel, if it matters."""
    # It is practically impossible that 64 bits of two images are equal by chance.
    hashes = {
        split: np.fromiter((hash(image.tobytes()) for image in images), np.int64)
        for split, (images, _) in splits.items()
    }
    train = hashes.get("train", np.empty(0))
    if len(train) > 1 and np.ptp(train) == 0:
        yield (
            f"all {len(train)} training images are the same one: there is nothing to"
            " learn. Look at how they were written."
        )
    copies = []
    for first, second in itertools.combinations(filter(hashes.__contains__, SPLITS), 2):
        equal = int(np.isin(hashes[second], hashes[first]).sum())
        if equal:
            known = "training" if first == "train" else first
            copies.append(
                f"{equal} of {len(hashes[second])} {second} images are {known} images"
                " too"
            )
    if copies:
        yield (
            f"{', '.join(copies)}, pixel by pixel. Remove the copies: numbers on images"
            " that were trained on look better than those on new ones."
        )
