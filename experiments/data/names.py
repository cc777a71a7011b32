"""Names of data sets, splits, classes and arrays, and what people mean by them."""

import decimal
import difflib
import re
from collections.abc import Iterable, Sequence

from experiments.messages.errors import DataError
from vae_jax.checks import nearest

# The tensorflow-datasets that ``experiments.prepare`` can write without TensorFlow.
PREPARABLE = ("mnist", "fashion_mnist", "binarized_mnist")
_DATA_SETS = ("digits", *PREPARABLE, "npz", "folder")

SPLITS = ("train", "validation", "test")

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(
        ("validation", "valid", "validate", "val", "dev", "devel", "development"),
        "validation",
    ),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# They could be words for classes, too.
_SHORT_WORDS = {"tr": "train", "va": "validation", "te": "test", "ts": "test"}
_IMAGE_WORDS = ("image", "images", "img", "imgs", "picture", "pictures", "x", "data")
_LABEL_WORDS = ("label", "labels", "y", "target", "targets", "class", "classes")
# Words that add no meaning beside the word for a split.
_FILLERS = {*_IMAGE_WORDS, *_LABEL_WORDS, "set", "dataset", "split", "samples", "files"}


def unknown_data_set(name: str, known: Iterable[str]) -> DataError:
    """Returns the refusal of a name that no data set has.

    Args:
        name: the name.
        known: names of further data sets, of which it may be a misspelling.
    """
    # The data sets that this project names come first, because the first wins a tie.
    meant = meant_data_set(name, _DATA_SETS) or meant_data_set(name, known)
    return DataError.of(
        "data.name",
        name,
        f"no data set has this name{meant}",
        f"Choose one of {', '.join(_DATA_SETS)}, or an image data set of"
        " tensorflow-datasets",
    )


def meant_data_set(name: str, known: Iterable[str]) -> str:
    """Returns ' (did you mean ...?)' for the data set nearest to a name, or ''."""
    # All names are in small letters, so that a data set has one name: the sizes of its
    # splits and its place in the cache depend on it.
    return nearest(name.lower().replace("-", "_"), known)


def split_of(name: str, *, within: bool = False) -> str | None:
    """Returns the split that a name stands for, such as 'test' for 'Test_Set'.

    Args:
        name: of a folder or an array.
        within: whether there may be other words, as in 'dogs_test'.
    """
    words = _words(name)
    splits = dict.fromkeys(split for word in words if (split := _split_of_word(word)))
    if list(splits) == ["train", "validation"]:  # 'train_val' is fitted.
        splits = {"train": None}
    others = {word for word in words if not _split_of_word(word)} - _FILLERS
    return next(iter(splits)) if len(splits) == 1 and (within or not others) else None


def resembled_split(name: str) -> str | None:
    """Returns the split that a misspelt or shortened name may stand for."""
    for word in _words(name):
        if word in _SHORT_WORDS:
            return _SHORT_WORDS[word]
        if near := difflib.get_close_matches(word, _SPLIT_WORDS, 1, cutoff=0.8):
            return _SPLIT_WORDS[near[0]]
    return None


def is_for_images(name: str) -> bool:
    """Returns whether a folder of this name holds all images, not those of a class."""
    words = set(_words(name))
    return bool(words) and words <= {*_IMAGE_WORDS} - {"x", "data"}


def meant_array(name: str) -> str | None:
    """Returns the name that an array of images or labels has here, or None.

    'x_train' is 'train_images', and 'y' is 'labels'.
    """
    words = [word for word in _words(name) if not _split_of_word(word)]
    split = split_of(name)
    if split is None and len(words) < len(_words(name)):
        return None
    if name == "arr_0" or set(words) & set(_IMAGE_WORDS):
        part = "images"
    elif set(words) & set(_LABEL_WORDS):
        part = "labels"
    else:
        return f"{split}_images" if split and not set(words) - _FILLERS else None
    return f"{split}_{part}" if split else part


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Returns names as a person sorts them: numbers in them count by their size."""
    names = list(names)
    if all(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", name) for name in names):
        return sorted(names, key=lambda name: (decimal.Decimal(name), name))
    return sorted(names, key=lambda name: (_natural_key(name), name))


def _natural_key(name: str) -> Sequence[tuple[int, str]]:
    # Text and numbers alternate, so text is compared with text. A number with more
    # digits is larger; they are not converted, since Python reads 4300 digits at most.
    parts = re.split(r"([0-9]+)", name)
    parts[1::2] = [digits.lstrip("0") for digits in parts[1::2]]
    return [(len(part) if i % 2 else 0, part) for i, part in enumerate(parts)]


def _words(name: str) -> list[str]:
    """Returns the words of a name in small letters: 'XTrain_2' has 'x' and 'train'."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word.casefold() for word in re.findall(r"[^\W\d_]+", parted)]


def _split_of_word(word: str) -> str | None:
    """Returns the split of a word, which may end in a filler, as in 'testset'."""
    if word in _SPLIT_WORDS:
        return _SPLIT_WORDS[word]
    stems = [word.removesuffix(filler) for filler in _FILLERS if word.endswith(filler)]
    return next((_SPLIT_WORDS[stem] for stem in stems if stem in _SPLIT_WORDS), None)
