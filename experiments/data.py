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
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np

from experiments import data_cache, data_sources, image_folders, prepare
from experiments.data_errors import DataError
from experiments.data_names import SPLITS
from experiments.data_sources import Source, Split
from experiments.digests import array_digest
from experiments.image_values import BACKGROUNDS, Meaning
from experiments.wording import counted, plain_name

_NAME = r"[a-z][a-z0-9_]*(/\w[\w.\-]*)?(:[\d.*]+)?"
_BINARIZATIONS = ("dynamic", "static")
_STANDARD_SIZES = {
    ("digits", "test"): 297,
    ("digits", "validation"): 200,
    ("mnist", "validation"): 10_000,
    ("fashion_mnist", "validation"): 10_000,
}


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images to use, and how to cut and binarize them.

    Attributes:
        name: 'digits', 'npz', 'folder', or a data set of tensorflow-datasets as
            'name[/config][:version]', such as 'mnist', 'fashion_mnist',
            'binarized_mnist'.
        path: the npz file or the folder of the user's own images.
        black: the value in the files that is black.
        white: the value in the files that is white; where black and white are both 0,
            files hold levels as they are.
        background: 'black' or 'white' lies behind what is not opaque; '' where all is.
        data_dir: folder of prepared tensorflow-datasets; '' stands for $TFDS_DATA_DIR,
            else ~/tensorflow_datasets.
        download: whether to fetch and prepare MNIST, Fashion-MNIST or binarized MNIST
            if they are not there.
        binarization: 'static' turns grey images into black and white ones once, by one
            Bernoulli draw per pixel with mean k / (levels - 1); 'dynamic' leaves the
            integers, for a fresh draw at each access.
        binarization_seed: selects the draws of static binarization.
        split_seed: selects the images of splits that the data set does not define.
        num_validation: number of validation images; -1 for the standard number.
        num_test: number of test images, for data sets without a test split; -1 for the
            standard number.
        num_train: use only the first so many training images; -1 for all.
        cache_dir: folder for decoded images; '' stands for $VAE_JAX_CACHE, else
            ~/.cache/vae_jax.
        stream: whether training images stay on the host and come to the devices in
            pieces, for more of them than a device holds.
        stream_megabytes: memory of a device that these pieces may take.

    Raises:
        DataError: if a value is not allowed.
    """

    name: str
    path: str = ""
    black: float = 0.0
    white: float = 0.0
    background: str = ""
    data_dir: str = ""
    download: bool = False
    binarization: str = "dynamic"
    binarization_seed: int = 0
    split_seed: int = 0
    num_validation: int = -1
    num_test: int = -1
    num_train: int = -1
    cache_dir: str = ""
    stream: bool = False
    stream_megabytes: float = 256.0

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.name):
            small = self.name.lower()
            known = [small] if re.fullmatch(_NAME, small) else []
            raise data_sources.unknown_name(self.name, known)
        if self.binarization not in _BINARIZATIONS:
            raise DataError(
                f"unknown data.binarization {self.binarization!r}: allowed are"
                f" {' and '.join(map(repr, _BINARIZATIONS))}"
            )
        for field in ("binarization_seed", "split_seed"):
            if getattr(self, field) < 0:
                raise DataError(
                    f"data.{field} is {getattr(self, field)}: use 0 or more"
                )
        for field in ("num_validation", "num_test", "num_train"):
            if getattr(self, field) < 1 and getattr(self, field) != -1:
                raise DataError(
                    f"data.{field} is {getattr(self, field)}: use a number of images of"
                    " 1 or more, or -1 for the standard choice"
                )
        if self.background not in BACKGROUNDS:
            raise DataError(
                f"unknown data.background {self.background!r}: allowed are 'black',"
                " 'white' and '', for images that are opaque"
            )
        if self.black == self.white != 0:
            raise DataError(
                f"data.black and data.white are both {self.white}: give two values, or"
                " 0 for both, if files hold levels as they are"
            )
        if self.name == "digits" and self.meaning != Meaning():
            raise DataError(
                "data.black, data.white and data.background have no meaning for"
                " 'digits', whose values are known: leave them out"
            )
        if self.stream_megabytes <= 0:
            raise DataError(
                f"data.stream_megabytes is {self.stream_megabytes}: it must be above 0"
            )
        if self.name in ("npz", "folder") and not self.path:
            raise DataError(
                f"data.name={self.name!r} needs data.path: the {self.name} that holds"
                " your images"
            )
        if self.name not in ("npz", "folder") and self.path:
            raise DataError(
                f"data.path={self.path!r} has no meaning for {self.name!r}: drop it, or"
                " set data.name to 'npz' or 'folder'"
            )

    @property
    def meaning(self) -> Meaning:
        """What is said of the values in the files."""
        return Meaning(self.black, self.white, self.background)


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
        return data_sources.read_npz(settings.path, meaning)
    if name == "digits":
        read = data_sources.read_digits
        identity = data_sources.digits_identity
    elif name == "folder":
        read = functools.partial(image_folders.read_folder, settings.path, meaning)
        identity = functools.partial(image_folders.folder_identity, settings.path)
    else:
        read = functools.partial(data_sources.read_tfds, name, data_dir, meaning)
        identity = functools.partial(data_sources.tfds_identity, name, data_dir)
        if settings.download and not data_sources.is_on_disk(name, data_dir):
            prepare.prepare(name.split(":")[0], data_dir)
    return data_cache.cached(
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
