"""Reads an npz file of the user's own images.

The file may be a stranger's. Names and sizes of its arrays are checked before anything
is unpacked, because a small file can unfold to more than the memory holds, and pickled
objects are never loaded, because they can run code.
"""

import math
import os
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.data.axes import with_channels
from experiments.data.names import SPLITS, in_natural_order, meant_array
from experiments.data.settings import DataSettings
from experiments.data.sources import Source, Split, make_source
from experiments.data.values import MAX_LEVELS
from experiments.files.paths import expand_user
from experiments.files.reading import refuse_too_large, refusing
from experiments.messages.errors import DataError, one_line
from vae_jax.checks import nearest

_NAMES = (
    "'train_images' (or 'images'), and optionally 'train_labels' (or 'labels'),"
    " 'validation_images', 'validation_labels', 'test_images', 'test_labels',"
    " 'class_names', 'levels'"
)
_WRITE_IT = "Write it with np.savez_compressed"

# Version 3 is for names of fields, which images do not have.
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read(settings: DataSettings) -> Source:
    """Returns the images in the npz file ``settings.path``.

    The file holds `train_images`, or `images`, of shape [N, H, W] or [N, H, W, C] with
    integers in {0, ..., levels - 1}, and optionally `validation_images`, `test_images`,
    labels by the same names, and the scalar `levels`. Without `levels`, images have 256
    levels, or 2 if every pixel is 0 or 1. Other numbers need black and white stated.

    Labels are classes: integers, or names, which are numbered in their natural order.
    They may be in a column or be one-hot; `class_names` names the integers.

    Raises:
        DataError: the file is not like that.
    """
    file = expand_user(settings.path)
    if not os.path.isfile(file):
        hint = ", or set data.name='folder'" if os.path.isdir(file) else ""
        raise settings.refusal(
            "path", "there is no such file", f"Give an npz file{hint}"
        )
    if not zipfile.is_zipfile(file):
        raise DataError(f"{settings.path} is not an npz file. {_WRITE_IT}.")
    damaged = f"{settings.path} is damaged"
    with refusing(damaged, _WRITE_IT), zipfile.ZipFile(file) as archive:
        _refuse_names(_names_in(archive), settings.path)
        arrays = _read_members(archive, settings.path)
    return parse(arrays, settings)


def read_as_they_are(path: str, field: str) -> Split:
    """Returns images of any shape and type, and labels, if there are any.

    Args:
        path: a .npy file of images, or an npz file of `images` and optional `labels`.
        field: the option that names the file.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    remedy = "Give a .npy file of images, or an npz file of 'images' and 'labels'"
    file = expand_user(path)
    if not os.path.isfile(file):
        raise DataError.of(field, path, "there is no such file", remedy)
    with refusing(f"{field} is {path!r}: it cannot be read", remedy):
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                arrays = _read_members(archive, path)
        else:
            refuse_too_large(os.path.getsize(file), path)
            with open(file, "rb") as content:
                images = np.lib.format.read_array(content, allow_pickle=False)
            arrays = {"images": images}
        if not {"images"} <= arrays.keys() <= {"images", "labels"}:
            why = f"it holds {one_line(sorted(arrays))}"
            raise DataError.of(field, path, why, remedy)
        images, labels = arrays["images"], arrays.get("labels")
        if labels is not None:
            labels = _parse_labels(labels, len(images), f"labels of {path}")
        return Split(images, labels)


def parse(arrays: Mapping[str, np.ndarray], settings: DataSettings) -> Source:
    """Returns the source that the named arrays of an npz file describe.

    Args:
        arrays: arrays named as ``read`` says.
        settings: which values are black and white, and the name of the file.

    Raises:
        DataError: types, shapes or values are not as ``read`` says.
    """
    where = settings.path
    renamed = {_full_name(key): array for key, array in arrays.items()}
    levels = _parse_levels(renamed["levels"], where) if "levels" in renamed else None
    splits, names = {}, {}
    for split in SPLITS:
        images_key, labels_key = f"{split}_images", f"{split}_labels"
        if images_key in renamed:
            names[split] = f"{images_key} of {where}"
            images = with_channels(renamed[images_key], names[split])
            labels = renamed.get(labels_key)
            if labels is not None:
                labels = _parse_labels(labels, len(images), f"{labels_key} of {where}")
            splits[split] = Split(images, labels)
        elif labels_key in renamed:
            raise DataError(
                f"{where} holds {labels_key} but no {images_key}. Add the images or"
                " remove the labels."
            )
    shapes = {split: images.shape[1:] for split, (images, _) in splits.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"{where} has splits of different image shapes: {shapes}. Bring all images"
            " to one shape."
        )
    splits, class_names = _numbered(splits, renamed.get("class_names"), where)
    return make_source(splits, names, settings, class_names, levels=levels)


def _read_members(archive: zipfile.ZipFile, where: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file, by name."""
    names, members = _names_in(archive), archive.infolist()
    refuse_too_large(sum(member.file_size for member in members), where)
    return {
        name: _read_member(archive, member, f"{name} of {where}")
        for name, member in zip(names, members, strict=True)
    }


def _names_in(archive: zipfile.ZipFile) -> list[str]:
    return [member.filename.removesuffix(".npy") for member in archive.infolist()]


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str
) -> np.ndarray:
    """Returns one array of an npz file, whose header must be true."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # NumPy writes these two; others may need any amount of memory.
        raise ValueError(f"{member.filename} is compressed as NumPy never does")
    with archive.open(member) as content:
        shape, _, dtype = _NPY_HEADERS[np.lib.format.read_magic(content)](content)
        if dtype.hasobject:
            known = ("labels", "class_names", "images")
            part = next((name for name in known if name in member.filename), "array")
            raise DataError(
                f"{where} holds Python objects, which can run code when they are read."
                f" Make it an array of numbers or text, as in np.array(list({part})),"
                " or leave it out."
            )
        said = math.prod(shape) * dtype.itemsize
        held = member.file_size - content.tell()
        if said > held:
            raise ValueError(
                f"{member.filename} must hold {said} bytes, but holds {held}"
            )
        content.seek(0)
        return np.lib.format.read_array(content, allow_pickle=False)


def _refuse_names(names: Sequence[str], where: str) -> None:
    """Refuses names of arrays that are not as ``read`` says."""
    allowed = ["images", "labels", "levels", "class_names"]
    allowed += [f"{split}_{part}" for split in SPLITS for part in ("images", "labels")]
    for name in names:
        if name not in allowed:
            # If it were ignored, a misspelt 'test_images' would change the test set.
            meant = meant_array(name[:100])
            hint = f" (did you mean {meant!r}?)" if meant else nearest(name, allowed)
            raise DataError(
                f"{where} holds an unknown array {one_line(name)!r}{hint}. Name arrays"
                f" {_NAMES}."
            )
    renamed = {_full_name(name) for name in names}
    if "train_images" not in renamed or len(renamed) != len(names):
        raise DataError(
            f"{where} holds {one_line(sorted(names))}: it must hold images for training"
            f" once. Name arrays {_NAMES}."
        )


def _full_name(name: str) -> str:
    """Returns the name of an array with its split."""
    return f"train_{name}" if name in ("images", "labels") else name


def _parse_levels(array: np.ndarray, where: str) -> int:
    """Returns the number of levels that the array ``levels`` states."""
    if array.shape != () or array.dtype.kind not in "iu":
        raise DataError(
            f"levels of {where} is {array.dtype} {array.shape}: it must be one integer."
            " Save it so, as in levels=256."
        )
    levels = int(array)
    if not 2 <= levels <= MAX_LEVELS:
        raise DataError(
            f"levels of {where} is {levels}: allowed are 2 to {MAX_LEVELS}. Leave it"
            f" out, and set data.white={levels - 1} if that is white."
        )
    return levels


def _parse_labels(array: np.ndarray, count: int, where: str) -> np.ndarray:
    """Returns the labels [count] of an array, as int32 or text."""
    what = f"{where} is {array.dtype} of shape {array.shape}"
    kind = array.dtype.kind
    is_whole = kind in "biu" or (
        kind == "f" and np.isfinite(array).all() and (array == np.floor(array)).all()
    )
    if array.ndim == 2 and 1 in array.shape:  # A column or a row.
        array = array.ravel()
    if array.ndim == 2 and is_whole and _is_one_hot(array):
        array = array.argmax(axis=1)
    if array.ndim != 1:
        remedy = "Leave these out"
        if array.ndim == 2 and array.shape[1]:
            remedy = "Use one column, such as labels[:, 0]"
            if kind == "f" and not is_whole:  # Scores or probabilities of classes.
                remedy = "Use the class of the highest, as labels.argmax(axis=1)"
        raise DataError(f"{what}: labels are integers [N], one per image. {remedy}.")
    if len(array) != count:
        raise DataError(
            f"{where} has {len(array)} labels for {count} images. Give one label for"
            " each image, or none."
        )
    if kind in "SU":
        return _text(array)
    if not is_whole:
        raise DataError(
            f"{what}, with other values than integers: labels are classes, integers or"
            " names. Leave them out if they are no classes."
        )
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise DataError(
            f"{where} has labels beyond 32 bits. Make them names, in all splits, as in"
            " labels.astype(str)."
        )
    return array.astype(np.int32)


def _is_one_hot(array: np.ndarray) -> bool:
    """Returns whether each row is 1 in one place and 0 elsewhere."""
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def _text(array: np.ndarray) -> np.ndarray:
    """Returns an array of bytes or text as text."""
    if array.dtype.kind == "U":
        return array
    return np.char.decode(array, "utf-8", "replace")


def _numbered(
    splits: Mapping[str, Split], names: np.ndarray | None, where: str
) -> tuple[dict[str, Split], Sequence[str]]:
    """Returns splits with labels that are all integers, and the names of classes.

    Args:
        splits: splits with labels that are integers or text.
        names: the array `class_names` of the file, if there is one.
        where: what messages call the file.
    """
    labels = {s: each.labels for s, each in splits.items() if each.labels is not None}
    is_text = {array.dtype.kind == "U" for array in labels.values()}
    if True not in is_text:
        return dict(splits), _parse_class_names(names, labels, where)
    if False in is_text or names is not None:
        raise DataError(
            f"{where} has names and numbers of classes. Give labels of one kind, and"
            " 'class_names' only beside numbers."
        )
    found = in_natural_order({str(x) for array in labels.values() for x in array})
    number = {name: i for i, name in enumerate(found)}
    numbers = {
        split: np.array([number[str(x)] for x in array], np.int32)
        for split, array in labels.items()
    }
    return {
        split: Split(images, numbers.get(split))
        for split, (images, _) in splits.items()
    }, found


def _parse_class_names(
    names: np.ndarray | None, labels: Mapping[str, np.ndarray], where: str
) -> Sequence[str]:
    """Returns the names of the classes 0, 1, ..., of which there must be enough."""
    if names is None:
        return ()
    low = min((array.min() for array in labels.values()), default=0)
    high = max((array.max() for array in labels.values()), default=0)
    is_list_of_text = names.ndim == 1 and names.dtype.kind in "US"
    if not is_list_of_text or not 0 <= low <= high < len(names):
        raise DataError(
            f"class_names of {where} is {names.dtype} of shape {names.shape}: labels"
            f" are in {low}..{high}. Give one text for each class from 0 on."
        )
    return [str(name) for name in _text(names)]
