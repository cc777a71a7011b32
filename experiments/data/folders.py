"""Reads a folder of image files.

``subfolders`` finds out which subfolders are splits or classes, and ``pixels`` reads
the content of the files.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.data.names import in_natural_order, resembled_split, split_of
from experiments.data.pixels import FORMATS, read_pixels
from experiments.data.settings import DataSettings
from experiments.data.sources import Source, Split, make_source
from experiments.data.subfolders import find_layout
from experiments.files.digests import json_digest
from experiments.files.paths import File, expand_user, walk
from experiments.messages.errors import DataError
from experiments.messages.wording import counted, listed


def read(settings: DataSettings) -> Source:
    """Returns the user's own images from the folder ``settings.path``.

    The images lie in the folder itself, or in subfolders, one for each class; classes
    are numbered in the natural order of their names. Or the subfolders are splits, such
    as `train`, `val` and `Test_Set`, and hold images or classes.

    Images have one size and one kind: grey, in colour, black and white (2 levels), or
    numbers with black and white stated. They are turned upright as their EXIF data say.
    Palettes are read as their greys or colours. Hidden files are ignored; other files
    that are no images are named in the notes.

    Raises:
        DataError: the images are not like that.
    """
    path = settings.path
    names, notes = _image_names(settings)
    layout = find_layout(path, names)
    classes = in_natural_order(
        {name for of in layout.values() for name in of.values() if name is not None}
    )
    if len(layout) == 1 and len(set(map(resembled_split, classes)) - {None}) > 1:
        notes.append(
            f"{path} has classes named much like splits ({listed(classes, ', ')}). If"
            " they are splits, name them 'train', 'validation' or 'test'."
        )
    in_order = [name for of in layout.values() for name in of]
    images, more = read_pixels(path, in_order, settings)
    notes += more

    number = {name: i for i, name in enumerate(classes)}
    splits: dict[str, Split] = {}
    start = 0
    for split, class_of in layout.items():
        known = [number[name] for name in class_of.values() if name is not None]
        labels = np.array(known, np.int32) if known else None
        splits[split] = Split(images[start : start + len(class_of)], labels)
        start += len(class_of)
    notes += _untrained_classes(path, splits, classes)
    shown = {s: path if len(splits) == 1 else f"{path} ({s} images)" for s in splits}
    return make_source(splits, shown, settings, classes, notes=notes)


def identity(settings: DataSettings) -> list[Any]:
    """Returns what the content of ``read`` depends on.

    These are facts about the files, because reading photographs takes longer than
    reading the cache. A changed file has another ctime, which no program can set back.
    """
    folder = expand_user(settings.path).absolute()
    facts = ("st_mode", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    changes = [
        [name, *(getattr(found, fact) for fact in facts if found)]
        for name, found in walk(folder)
    ]
    return ["folder", str(folder), json_digest(changes)]


def _untrained_classes(
    path: str, splits: dict[str, Split], classes: Sequence[str]
) -> Iterator[str]:
    """Yields notes on classes that no training image belongs to."""
    trained = splits["train"].labels
    for split, (_, labels) in splits.items():
        if labels is not None and trained is not None:
            new = [classes[i] for i in np.setdiff1d(labels, trained)]
            if new:
                yield (
                    f"{path} has {split} images of classes that no training image"
                    f" belongs to: {listed(new, ', ')}."
                )


def _image_names(settings: DataSettings) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the image files in a folder, and notes on others."""
    from PIL import Image

    path, folder = settings.path, expand_user(settings.path)
    if not os.path.isdir(folder):
        hint = ", or set data.name='npz'" if settings.path.endswith(".npz") else ""
        remedy = f"Give a folder of images{hint}"
        raise settings.refusal("path", "there is no such folder", remedy)
    known = Image.registered_extensions().items()
    suffixes = {suffix for suffix, kind in known if kind in FORMATS}
    images: list[File] = []
    others: list[File] = []
    for file in walk(folder):
        suffix = pathlib.PurePath(file.name).suffix.lower()
        (images if suffix in suffixes else others).append(file)
    if not images:
        but = f", but {others[0].name!r}, which is not read" if others else ""
        raise DataError(f"{path} holds no images{but}. Add png, jpg or similar files.")
    tops = {file.name.split("/")[0] for file in images}
    entries = [each for each in os.scandir(folder) if not each.name.startswith(".")]
    bare = {entry.name for entry in entries if entry.is_dir()}
    for top in sorted(filter(split_of, bare - tops)):
        raise DataError(
            f"{folder / top} is named like a split: it holds no images. Add them, or"
            " remove it."
        )
    for file in images:
        if not file.is_regular:
            raise DataError(
                f"{folder / file.name} is named as an image: it is no regular file, or"
                " a link to nothing. Remove it."
            )
    names = [file.name for file in images]
    notes = []
    left_out = [file.name for file in others]
    left_out += sorted(bare - tops - {name.split("/")[0] for name in left_out})
    if left_out:
        shown = listed([repr(name) for name in left_out], ", ")
        *formats, last = FORMATS
        notes.append(
            f"{path} holds things that are not read, because none is named as a"
            f" {', '.join(formats)} or {last} file: {shown}."
        )
    stems = {name: str(pathlib.PurePath(name).with_suffix("")) for name in names}
    earlier = {stems[name]: name for name in reversed(names)}
    same = [(earlier[stems[name]], name) for name in names]
    if same := [(first, second) for first, second in same if first != second]:
        first, second = same[0]
        notes.append(
            f"{path} holds {counted(len(same), 'file')} named like another but for the"
            f" suffix ({first!r} and {second!r}). If they are the same pictures, remove"
            " one of each, or test images may be training images too."
        )
    return names, notes
