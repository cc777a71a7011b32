"""Finds out whether the subfolders of a folder of images are splits or classes.

If it is not clear, the folder is refused: splits that are taken for classes would mix
the test images into the training images.
"""

import shlex
from collections.abc import Mapping, Sequence

from experiments.data.names import SPLITS, is_for_images, split_of
from experiments.messages.errors import DataError
from experiments.messages.wording import listed


def find_layout(path: str, names: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Returns, for each split, the class of each image, or None, by its name.

    Args:
        path: the folder, for messages.
        names: of the images, relative to the folder.

    Raises:
        DataError: it is not clear which subfolders are splits or classes.
    """
    tops = dict.fromkeys(name.split("/")[0] for name in names if "/" in name)
    meant = {top: split_of(top, within=True) for top in tops}
    found = {split for split in meant.values() if split}
    # A folder 'train' among others may be a class, and so may 'dogs_test'; but not if
    # there are a training and another split.
    if not any(map(split_of, tops)) and not {"train"} < found:
        return {"train": _classes(path, "", names)}
    _refuse_unclear_splits(path, meant)
    layout = {}
    for split in SPLITS:
        for top in (top for top in tops if meant[top] == split):
            own = [name for name in names if name.startswith(top + "/")]
            layout[split] = _classes(path, top + "/", own)
    for name in names:
        if "/" not in name:
            raise _beside_subfolders(path, name)
    return layout


def _refuse_unclear_splits(path: str, meant: Mapping[str, str | None]) -> None:
    """Refuses subfolders unless each of them is another split, and one is 'train'."""
    by_split: dict[str | None, list[str]] = {}
    for top, split in meant.items():
        by_split.setdefault(split, []).append(top)
    named = [top for top, split in meant.items() if split]
    splits = listed([repr(top) for top in named], ", ")
    if None in by_split:
        raise DataError(
            f"{path} has a subfolder {by_split[None][0]!r} beside {splits}, named like"
            " splits. If these are splits, name each 'train', 'validation' or 'test',"
            f" and move others out of {path}; if they are classes, rename them, as in"
            f" {named[0] + 's'!r}."
        )
    for split, same in by_split.items():
        if len(same) > 1:
            raise DataError(
                f"{path} has the subfolders {same[0]!r} and {same[1]!r}, both of them"
                f" named like the {split} split. Put their images into one, in"
                f" subfolders if these are classes, as in {split}/{same[1]}."
            )
    if "train" not in by_split:
        raise DataError(
            f"{path} has a subfolder {splits}, but none named 'train'. Give this name"
            " to the subfolder of the training images."
        )


def _classes(path: str, prefix: str, names: Sequence[str]) -> dict[str, str | None]:
    """Returns the class of each image below a prefix, or None, by its name."""
    parts = {name: name.removeprefix(prefix).split("/") for name in names}
    loose = [name for name in names if len(parts[name]) == 1]
    if loose and len(loose) < len(names):
        raise _beside_subfolders(path, loose[0])
    inner: dict[str, set[str]] = {}
    for own in parts.values():
        inner.setdefault(own[0], set()).update(own[1:-1][:1])
    for top, below in inner.items():
        if len(below) > 1:
            first, second = sorted(below)[:2]
            remedy = "move all images of a class into one folder"
            if any(map(split_of, below)):
                remedy = "put splits above classes, as in train/cat"
            if len(inner) == 1:
                inside = shlex.quote(f"{path}/{prefix}{top}")
                # With the path of one split, the other splits would be lost.
                instead = (
                    f"move what is in {inside} to {shlex.quote(f'{path}/{prefix}')}"
                    if prefix
                    else f"set data.path={inside}"
                )
                remedy = f"{instead} if these are, else {remedy}"
            raise DataError(
                f"{path} has images in {prefix}{top}/{first} and in"
                f" {prefix}{top}/{second}: it is not clear which subfolders are the"
                f" classes. {remedy[0].upper()}{remedy[1:]}."
            )
    if len(inner) > 1 and (named := [top for top in inner if is_for_images(top)]):
        other = next(top for top in inner if top != named[0])
        raise DataError(
            f"{path} has images in {prefix}{named[0]} and in {prefix}{other}. If these"
            f" are classes, rename the first, as in 'class_{named[0]}', else move all"
            f" but the first out of {path}."
        )
    return {name: own[0] if own[1:] else None for name, own in parts.items()}


def _beside_subfolders(path: str, loose: str) -> DataError:
    """Returns the refusal of an image that lies beside subfolders of images."""
    return DataError(
        f"{path} holds images beside subfolders of images ({loose!r}). Move all of them"
        " into subfolders, one for each class."
    )
