"""Reading images: from scikit-learn, tensorflow-datasets, npz files and folders.

A reader returns a `Source`: every image it found, as integers, in the splits it was
published in. Cutting a source into train, validation and test is the business of
`experiments.data`. Whatever is wrong with the images is refused here, in one line,
because a wrong pixel found later looks like a bad model.

The files may be a stranger's: nothing in them is run, only regular files are read, and
none that would fill the memory. Links are followed, for reading.
"""

import contextlib
import dataclasses
import difflib
import errno
import hashlib
import importlib.metadata
import io
import json
import math
import os
import pathlib
import re
import shlex
import stat
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from experiments.data_errors import DataError, one_line
from experiments.data_names import (
    SPLITS,
    in_natural_order,
    meant_array,
    split_of,
)
from experiments.files import MOST_BYTES, parse_json, read_json
from experiments.image_values import (
    MAX_LEVELS,
    UNSTATED,
    Meaning,
    ValueRange,
    range_remedy,
    to_levels,
    with_channels,
    without_opacity,
)
from experiments.wording import counted, listed, plain_name

# The tensorflow-datasets which `experiments.prepare` can write without TensorFlow.
PREPARABLE = ("mnist", "fashion_mnist", "binarized_mnist")
KNOWN_NAMES = ("digits", *PREPARABLE, "npz", "folder")


def expand_user(path: str) -> pathlib.Path:
    """Returns a path in which `~` is written out.

    Raises:
        DataError: if nobody's home is known by that name.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{path!r} begins with a home folder that is not known here: write it out,"
            " as in /home/name/folder"
        ) from error


class Split(NamedTuple):
    """Images and, where they are known, their classes.

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
        class_names: of the labels 0, 1, ...; empty where they have none.
        notes: sentences on how the images were read, for a person to know.
    """

    levels: int
    splits: Mapping[str, Split]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_digits() -> Source:
    """Returns the 1797 handwritten digits of scikit-learn: 8x8 pixels, 17 levels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., np.newaxis]
    return Source(17, {"train": Split(images, digits.target.astype(np.int32))})


def digits_identity() -> list[str]:
    """Returns what the content of `read_digits` depends on."""
    return ["digits", importlib.metadata.version("scikit-learn")]


# --- tensorflow-datasets --------------------------------------------------------------


def import_tfds() -> types.ModuleType:
    """Returns the module `tensorflow_datasets`, an optional dependency.

    Raises:
        DataError: if it, or the reader of its files, is not installed.
    """
    try:
        with _quiet_absl():
            # Imported for its absence to show here: tfds would print a banner later.
            import array_record  # noqa: F401
            import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f'this data set needs {error.name}: pip install "vae_jax[tfds]"'
        ) from error
    return tensorflow_datasets


@contextlib.contextmanager
def quiet_tfds(tfds: Any) -> Iterator[None]:
    """Hides logs, progress bars and announcements of tensorflow-datasets."""
    tfds.disable_progress_bar()
    try:
        with _quiet_absl(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Hides absl's logs below errors, which tell of tfds working as intended."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def tfds_folder(data_dir: str) -> pathlib.Path:
    """Returns the folder of prepared data sets that the setting `data_dir` stands for.

    Args:
        data_dir: a folder; '' stands for $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return expand_user(data_dir or default).absolute()


def preparation_command(name: str, folder: pathlib.Path) -> str:
    """Returns the shell command that writes the data set `name` into `folder`."""
    base, data_dir = name.split(":")[0], shlex.quote(str(folder))
    if base in PREPARABLE:
        return (
            f"`python -m experiments.prepare {base} --data_dir={data_dir}` or set"
            " data.download=True"
        )
    return (
        f"`tfds build {base} --file_format=array_record --data_dir={data_dir}` where"
        " TensorFlow is installed"
    )


def read_tfds(name: str, data_dir: str, meaning: Meaning = UNSTATED) -> Source:
    """Returns a data set prepared by tensorflow-datasets, without using TensorFlow.

    Args:
        name: 'name[/config][:version]'.
        data_dir: see `tfds_folder`.
        meaning: what the user says of its values.

    Raises:
        DataError: if the data set is unknown, not prepared, damaged, or not one of
            8-bit images of one shape.
    """
    tfds = import_tfds()
    folder = tfds_folder(data_dir)
    command = preparation_command(name, folder)
    builder, is_prepared = open_builder(tfds, name, folder)
    if not is_prepared:
        raise DataError(f"{name} is not prepared in {folder}: run {command}")

    features = builder.info.features
    kinds = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = kinds.get("image"), kinds.get("label")
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8:
        raise DataError(
            f"{name} has no 8-bit feature 'image' (its features: {one_line(features)}):"
            " choose an image data set"
        )
    if "train" not in builder.info.splits:
        raise DataError(
            f"{name} has no split 'train' but {', '.join(builder.info.splits)}: choose"
            " a data set with one"
        )
    has_labels = isinstance(label, tfds.features.ClassLabel)
    root = _tfds_root(name, data_dir)
    files = {root / file.name for file in _regular_files(root)}
    splits = {}
    for split in SPLITS:
        if split in builder.info.splits:
            try:
                for shard in builder.info.splits[split].filepaths:
                    # A description can name any path, such as that of a device.
                    if pathlib.Path(shard) not in files:
                        raise ValueError(f"there is no file {shard.name} in it")
                with quiet_tfds(tfds):
                    records = builder.as_data_source(
                        split,
                        decoders={"image": _decoder(tfds, name)},
                        # Readers of other formats have been known to run code.
                        file_format="array_record",
                    )
                    splits[split] = _decode_records(records, name, has_labels)
            except DataError:
                raise
            except Exception as error:
                # Damaged files and those of another format, in the words of tfds.
                raise DataError(
                    f"cannot read {builder.data_path} ({one_line(error)}): delete it"
                    f" and run {command}"
                ) from error
    names = {split: f"the {split} split of {name}" for split in splits}
    class_names = label.names if isinstance(label, tfds.features.ClassLabel) else ()
    notes = []
    if others := [repr(x) for x in builder.info.splits if x not in SPLITS]:
        notes.append(f"{name} has splits that are not used: {listed(others, ', ')}")
    return _source(splits, names, meaning, class_names, notes=notes)


def open_builder(tfds: Any, name: str, folder: pathlib.Path) -> tuple[Any, bool]:
    """Returns the builder of a data set, and whether the data set is prepared.

    Args:
        tfds: the package.
        name: 'name[/config][:version]'.
        folder: where prepared data sets lie.

    Raises:
        DataError: if the data set is unknown, or what is prepared is damaged or would
            run code.
    """
    _check_descriptions(name, folder)
    try:
        with quiet_tfds(tfds):
            builder = tfds.builder(name, data_dir=folder)
            return builder, builder.is_prepared()
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        raise unknown_name(name, known) from None  # Its own text takes 300 lines.
    except Exception as error:
        # An unknown version or config, or damage, which comes as any exception; what is
        # wrong follows a list of arguments.
        reason = one_line(str(error).split('}": ')[-1]).rstrip(".")
        raise DataError(
            f"cannot open {name!r} in {folder} ({reason}): correct the name, or delete"
            f" what is damaged and run {preparation_command(name, folder)}"
        ) from error


def is_on_disk(name: str, data_dir: str) -> bool:
    """Returns whether some version of a tensorflow-datasets data set is prepared."""
    files = _walk(_tfds_root(name, data_dir), hidden=True)
    return any(file.name.endswith("/dataset_info.json") for file in files)


def tfds_identity(name: str, data_dir: str) -> list[Any]:
    """Returns what the content of `read_tfds` depends on.

    All versions of the data set are listed, since which of them `name` stands for is
    for tensorflow-datasets to say, and importing it takes longer than reading a cache.
    """
    folder = _tfds_root(name, data_dir)
    try:
        version = importlib.metadata.version("tensorflow-datasets")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    contents = []
    for file in _regular_files(folder):
        path = folder / file.name
        try:
            with open(path, "rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except FileNotFoundError:  # Another process has given it its final name.
            continue
        except OSError as error:
            raise DataError(
                f"cannot read {path} ({error.strerror}): permit reading it, or prepare"
                f" it again: {preparation_command(name, tfds_folder(data_dir))}"
            ) from error
        contents.append([file.name, digest])
    return ["tfds", name, str(folder), version, _digest(contents)]


def _tfds_root(name: str, data_dir: str) -> pathlib.Path:
    """Returns the folder of all versions of a data set, or of all its configs."""
    return tfds_folder(data_dir) / name.split(":")[0]


def _regular_files(root: pathlib.Path) -> list["_File"]:
    """Returns the files of a prepared data set; all that lies there must be one."""
    files = _walk(root, hidden=True)
    for file in files:
        path = root / file.name
        if file.found is None or not file.is_regular:
            raise DataError(
                f"{path} is no regular file, as those of a prepared data set are:"
                " remove it"
            )
        size = file.found.st_size
        if path.suffix in (".json", ".txt") and size > MOST_BYTES:
            raise DataError(
                f"{path} has {size:,} bytes, of at most {MOST_BYTES:,} in a description"
                " of a data set: remove it"
            )
        _refuse_too_large(size, str(path))
    return files


# The features that images and their labels are made of, as tensorflow-datasets spells
# them; a feature of another class would be imported, from wherever it is said to be.
_FEATURES = {
    f"tensorflow_datasets.core.features.{name}"
    for name in (
        "class_label_feature.ClassLabel",
        "feature.Tensor",
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "scalar.Scalar",
        "tensor_feature.Tensor",
        "text_feature.Text",
    )
}


def _check_descriptions(name: str, folder: pathlib.Path) -> None:
    """Refuses a prepared data set whose descriptions ask for more than reading images.

    All its configs and versions are checked, since which of them `name` stands for is
    for tensorflow-datasets to say, by what it finds in them.

    Args:
        name: 'name[/config][:version]'.
        folder: where prepared data sets lie.

    Raises:
        DataError: naming the file and what it asks for.
    """
    root = _tfds_root(name, str(folder))
    command = preparation_command(name, folder)
    for file in _regular_files(root):
        asked_for = _ASKED_FOR.get(file.name.rpartition("/")[2])
        if asked_for is None:
            continue
        path = root / file.name
        try:
            found = next(asked_for(read_json(path)), None)
        except FileNotFoundError:  # Another process has given it its final name.
            continue
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise DataError(
                f"cannot read {path} ({one_line(error)}): delete what is damaged and"
                f" run {command}"
            ) from error
        if found is not None:
            remedy = "save its images in an npz file and set data.name to 'npz'"
            if name.split(":")[0] in PREPARABLE:
                remedy = f"delete {root} and run {command}"
            raise DataError(
                f"{path} names {one_line(found)}, which is neither run nor read, for it"
                f" may be a stranger's: {remedy}"
            )


def _asked_by_features(features: Any) -> Iterator[str]:
    """Yields what a description of features names beyond features of images."""
    waiting = [features]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                if key in ("pythonClassName", "python_class_name", "type"):
                    if isinstance(item, str) and item not in _FEATURES:
                        yield f"the feature class {item!r}"
                elif key == "names_file":
                    yield f"the file of labels {item!r}"
                elif key in ("json", "content") and isinstance(item, str):
                    waiting.append(parse_json(item))
                    continue
                waiting.append(item)


def _asked_by_info(info: Any) -> Iterator[str]:
    """Yields what a description of a data set names beyond files beside it."""
    yield from _asked_by_features(info.get("features"))
    for split in info.get("splits", []):
        for key in ("filepathTemplate", "filepath_template"):
            template = split.get(key, "")
            # A width in a field would ask for a text of that size.
            if not re.fullmatch(r"(\{[A-Z_]+\}|[\w.-])*", template):
                yield f"the files {template!r}"


def _asked_by_metadata(metadata: Any) -> Iterator[str]:
    """Yields the default config that a description names, if it is elsewhere."""
    config = metadata.get("default_config_name")
    if config is not None and not re.fullmatch(r"\w[\w.+-]*", config):
        yield f"the config {config!r}"


_ASKED_FOR: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "features.json": _asked_by_features,
    "dataset_info.json": _asked_by_info,
    "metadata.json": _asked_by_metadata,
}

# Beginnings of BMP, GIF, JPEG and PNG. By others, such as that of EPS, Pillow may start
# another program.
_PIXELS = (b"BM", b"GIF8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def _decoder(tfds: types.ModuleType, where: str) -> Any:
    """Returns the decoder of tensorflow-datasets, for images of known formats only."""

    @tfds.decode.make_decoder()
    def decode(content: bytes, feature: Any) -> np.ndarray:
        if not content.startswith(_PIXELS):
            raise DataError(
                f"{where} has an image that is no PNG, JPEG, GIF or BMP file: choose"
                " another data set"
            )
        return feature.decode_example_np(content)

    return decode()


def _decode_records(records: Any, where: str, has_labels: bool) -> Split:
    """Returns the images of one split of a tensorflow-datasets data source."""
    if not len(records):
        raise DataError(f"{where} is empty: choose another data set")
    first = records[0]["image"].shape
    with_channels(np.empty((1, *first), np.uint8), where)
    _refuse_too_large(len(records) * math.prod(first), where)
    images = np.empty((len(records), *first), np.uint8)
    labels = np.empty(len(records), np.int32) if has_labels else None
    chunk = 1000
    for start in range(0, len(records), chunk):
        indices = range(start, min(start + chunk, len(records)))
        for index, record in zip(
            indices, records.__getitems__(list(indices)), strict=True
        ):
            if record["image"].shape != first:
                raise DataError(
                    f"{where} has images of {first} and {record['image'].shape}:"
                    " choose a data set with images of one shape"
                )
            images[index] = record["image"]
            if labels is not None:
                labels[index] = record["label"]
    return Split(images, labels)


# --- npz files ------------------------------------------------------------------------

_NPZ_FORMAT = (
    "'train_images' (or 'images'), and optionally 'train_labels' (or 'labels'),"
    " 'validation_images', 'validation_labels', 'test_images', 'test_labels',"
    " 'class_names', 'levels'"
)


def read_npz(path: str, meaning: Meaning = UNSTATED) -> Source:
    """Returns the user's own images from an npz file.

    The file holds `train_images`, or `images`, of shape [N, H, W] or [N, H, W, C] with
    integers in {0, ..., levels - 1}, and if wanted `validation_images`, `test_images`,
    labels by the same names, and the scalar `levels`. Without it images have 256
    levels, or 2 where every pixel is 0 or 1. Other numbers need black and white stated.

    Labels are classes: integers, or names, which are numbered in their natural order.
    They may stand in a column or be one-hot; `class_names` names the integers.

    Raises:
        DataError: if the file is not like that.
    """
    file = expand_user(path)
    if not os.path.isfile(file):
        hint = ", or set data.name='folder'" if os.path.isdir(file) else ""
        raise DataError(f"no file {path!r}: data.path must name an npz file{hint}")
    if file.stat().st_size == 0:
        raise DataError(f"{path} is empty: write it with np.savez_compressed")
    if not zipfile.is_zipfile(file):
        raise DataError(f"{path} is not an npz file: write it with np.savez_compressed")
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = _read_members(archive, path)
    except DataError:
        raise
    except Exception as error:  # Damage comes as any exception.
        raise DataError(
            f"{path} is damaged ({one_line(error)}): write it again with"
            " np.savez_compressed"
        ) from error
    return parse_arrays(arrays, path, meaning)


def _read_members(archive: zipfile.ZipFile, where: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file, by name.

    Names and sizes are checked before anything is unpacked: a small file may unfold to
    more than the memory holds.
    """
    members = archive.infolist()
    names = [member.filename.removesuffix(".npy") for member in members]
    _refuse_names(names, where)
    _refuse_too_large(sum(member.file_size for member in members), where)
    return {
        name: _read_member(archive, member, f"{name} of {where}")
        for name, member in zip(names, members, strict=True)
    }


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str
) -> np.ndarray:
    """Returns one array of an npz file, whose header must be true."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Those that NumPy writes; others may ask for any amount of memory.
        raise ValueError(f"{member.filename} is compressed as NumPy never does")
    with archive.open(member) as content:
        shape, _, dtype = _NPY_HEADERS[np.lib.format.read_magic(content)](content)
        said = math.prod(shape) * dtype.itemsize
        held = member.file_size - content.tell()
    if dtype.hasobject:
        part = "labels" if "labels" in member.filename else "images"
        raise DataError(
            f"{where} is one of the object arrays, which can run code when read: make"
            f" it one of numbers or text, as in np.array(list({part})), or leave it out"
        )
    if said > held:
        raise ValueError(f"{member.filename} must hold {said} bytes, but holds {held}")
    with archive.open(member) as content:
        return np.lib.format.read_array(content, allow_pickle=False)


_LONGEST_NAME = 100  # characters of an array's name that are looked at

# The third version is for names of fields, which images have none of.
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def parse_arrays(
    arrays: Mapping[str, np.ndarray], where: str, meaning: Meaning = UNSTATED
) -> Source:
    """Returns the source that the named arrays of an npz file describe.

    Args:
        arrays: arrays named as `read_npz` says.
        where: what error messages call the file.
        meaning: what the user says of their values.

    Raises:
        DataError: if names, types, shapes or values are not as `read_npz` says.
    """
    _refuse_names(list(arrays), where)
    renamed = {_full_name(key): array for key, array in arrays.items()}
    levels = _parse_levels(renamed["levels"], where) if "levels" in renamed else None
    splits, names = {}, {}
    for split in SPLITS:
        images_key, labels_key = f"{split}_images", f"{split}_labels"
        if images_key in renamed:
            names[split] = f"{images_key} of {where}"
            images = with_channels(renamed[images_key], names[split])
            labels = None
            if labels_key in renamed:
                labels = _parse_labels(
                    renamed[labels_key], len(images), f"{labels_key} of {where}"
                )
            splits[split] = Split(images, labels)
        elif labels_key in renamed:
            raise DataError(
                f"{where} holds {labels_key} but no {images_key}: add the images or"
                " drop the labels"
            )
    shapes = {split: images.shape[1:] for split, (images, _) in splits.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"{where} has splits of different image shapes: {shapes}: bring all images"
            " to one shape"
        )
    splits, class_names = _numbered(splits, renamed.get("class_names"), where)
    return _source(splits, names, meaning, class_names, levels=levels)


def _refuse_names(names: Sequence[str], where: str) -> None:
    """Refuses names of arrays that are not as `read_npz` says."""
    allowed = {"images", "labels", "levels", "class_names"}
    allowed |= {f"{split}_{part}" for split in SPLITS for part in ("images", "labels")}
    for name in names:
        if name not in allowed:
            # Ignored, a misspelt 'test_images' would silently change the test set.
            short = name[:_LONGEST_NAME]
            near = [meant_array(short), *difflib.get_close_matches(short, allowed, 1)]
            meant = next(filter(None, near), None)
            hint = f" did you mean {meant!r}?" if meant else ""
            raise DataError(
                f"{where} holds an unknown array {one_line(name)!r}:{hint} allowed are"
                f" {_NPZ_FORMAT}"
            )
    renamed = {_full_name(name) for name in names}
    if "train_images" not in renamed or len(renamed) != len(names):
        raise DataError(
            f"{where} holds {one_line(sorted(names))}: it must hold images for training"
            f" once, named {_NPZ_FORMAT}"
        )


def _full_name(name: str) -> str:
    """Returns the name of an array with its split."""
    return f"train_{name}" if name in ("images", "labels") else name


def _parse_levels(array: np.ndarray, where: str) -> int:
    if array.shape != () or array.dtype.kind not in "iu":
        raise DataError(
            f"levels of {where} is {array.dtype} {array.shape}: it must be one integer"
        )
    if not 2 <= int(array) <= MAX_LEVELS:
        raise DataError(
            f"levels of {where} is {int(array)}: allowed are 2 to {MAX_LEVELS}; leave"
            f" it out, and set data.white={int(array) - 1} if that is white"
        )
    return int(array)


def _parse_labels(array: np.ndarray, count: int, where: str) -> np.ndarray:
    """Returns the labels [count] of an array, int32 or text, or refuses it."""
    kind = array.dtype.kind
    if array.ndim == 2 and 1 in array.shape:  # A column or a row.
        array = array.ravel()
    if array.ndim == 2 and kind in "biuf" and _is_one_hot(array):
        array = array.argmax(axis=1)
    if array.ndim == 2 and array.shape[1]:
        raise DataError(
            f"{where} is {array.dtype} of shape {array.shape}: labels are integers [N],"
            f" one for each image; use one column, such as labels[:, 0]"
        )
    if array.ndim != 1:
        raise DataError(
            f"{where} is {array.dtype} of shape {array.shape}: labels are integers [N];"
            " leave these out"
        )
    if len(array) != count:
        raise DataError(
            f"{where} has {len(array)} labels for {count} images: give one label for"
            " each image, or none"
        )
    if kind == "S":
        return np.char.decode(array, "utf-8", "replace")
    if kind == "U":
        return array
    is_whole = kind in "biu" or (
        kind == "f" and np.isfinite(array).all() and (array == np.floor(array)).all()
    )
    if not is_whole:
        raise DataError(
            f"{where} is {array.dtype} with other values than integers: labels are"
            " classes, integers or names; leave out what are no classes"
        )
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise DataError(f"{where} has labels beyond 32 bits: number the classes from 0")
    return array.astype(np.int32)


def _is_one_hot(array: np.ndarray) -> bool:
    """Whether each row is 1 in one place and 0 elsewhere."""
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def _numbered(
    splits: Mapping[str, Split], names: np.ndarray | None, where: str
) -> tuple[dict[str, Split], Sequence[str]]:
    """Returns splits with labels that are all integers, and the names of classes.

    Args:
        splits: splits with labels that are integers or text.
        names: the array `class_names` of the file, if there is one.
        where: what error messages call the file.
    """
    labels = {s: each.labels for s, each in splits.items() if each.labels is not None}
    is_text = {split: array.dtype.kind == "U" for split, array in labels.items()}
    if not any(is_text.values()):
        return dict(splits), _parse_class_names(names, labels, where)
    if not all(is_text.values()) or names is not None:
        raise DataError(
            f"{where} has names and numbers of classes: give labels of one kind, and"
            " 'class_names' only beside numbers"
        )
    found = in_natural_order({str(x) for array in labels.values() for x in array})
    number = {name: i for i, name in enumerate(found)}
    return {
        split: Split(
            images,
            None
            if text is None
            else np.array([number[str(x)] for x in text], np.int32),
        )
        for split, (images, text) in splits.items()
    }, found


def _parse_class_names(
    names: np.ndarray | None, labels: Mapping[str, np.ndarray], where: str
) -> Sequence[str]:
    """Returns the names of the classes 0, 1, ..., of which there must be enough."""
    if names is None:
        return ()
    low = min((array.min() for array in labels.values()), default=0)
    high = max((array.max() for array in labels.values()), default=0)
    if (
        names.ndim != 1
        or names.dtype.kind not in "US"
        or not 0 <= low <= high < len(names)
    ):
        raise DataError(
            f"class_names of {where} is {names.dtype} of shape {names.shape}, for"
            f" labels in {low}..{high}: give one text for each class from 0 on"
        )
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "replace")
    return [str(name) for name in names]


# --- folders --------------------------------------------------------------------------

# Formats of pixels; not those that are programs, such as EPS.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# What the pixels of Pillow's modes are, apart from opacity; of all others 'RGB'.
_KINDS = {
    **dict.fromkeys(("L", "LA", "La"), "L"),
    **dict.fromkeys(("P", "PA"), "palette"),  # Of greys or of colours.
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "I;16"),
    **{mode: mode for mode in ("1", "I", "F")},
}
_DTYPES = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
_WITH_OPACITY = ("LA", "La", "PA", "RGBA", "RGBa")
_WITH_A_PROFILE = ("CMYK", "YCbCr", "LAB", "HSV")
_FROM_A_PROFILE = "had other colours than RGB, converted without a colour profile"
_FROM_16_BITS = "had 16 bits a channel, of which the upper 8 were read"

_SPLIT_PAGES = (
    'python -c "import sys; from PIL import Image, ImageSequence;'
    " [page.save(f'{{file}}-{{i:04}}{suffix}') for file in sys.argv[1:] for i, page in"
    ' enumerate(ImageSequence.Iterator(Image.open(file)))]" {file}'
)


def read_folder(path: str, meaning: Meaning = UNSTATED) -> Source:
    """Returns the user's own images from a folder of image files.

    The images lie in the folder itself, or in subfolders of it, one for each class;
    classes are numbered in the natural order of their names. Or the subfolders are
    splits, such as `train`, `val` and `Test_Set`, and hold images or classes.

    Images are all of one size and one kind: grey, in colour, black and white (of 2
    levels), or numbers of which black and white are stated. They are turned upright as
    their EXIF data say. Palettes are read as the greys or colours in them. Hidden files
    are no images; that other files are none is noted.

    Args:
        path: the folder.
        meaning: what the user says of the values.

    Raises:
        DataError: if they are not like that.
    """
    names, notes = _image_names(path)
    layout = _folder_layout(path, names)
    classes = in_natural_order(
        {name for of in layout.values() for name in of.values() if name is not None}
    )
    number = {name: i for i, name in enumerate(classes)}
    images, more = _read_images(
        path, [n for of in layout.values() for n in of], meaning
    )
    notes += more

    splits: dict[str, Split] = {}
    start = 0
    for split, class_of in layout.items():
        known = [number[name] for name in class_of.values() if name is not None]
        labels = np.array(known, np.int32) if known else None
        splits[split] = Split(images[start : start + len(class_of)], labels)
        start += len(class_of)
        trained = splits["train"].labels
        if labels is not None and trained is not None:
            new = [classes[i] for i in np.setdiff1d(labels, trained)]
            if new:
                notes.append(
                    f"{path} has {split} images of classes that no training image is"
                    f" of: {listed(new, ', ')}"
                )
    shown = {s: path if len(splits) == 1 else f"{path} ({s} images)" for s in splits}
    return _source(splits, shown, meaning, classes, notes=notes)


def _folder_layout(path: str, names: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Returns the class of each image, or None, by its name, for each split.

    Raises:
        DataError: it is not clear which subfolders are splits or classes.
    """
    tops = dict.fromkeys(name.split("/")[0] for name in names if "/" in name)
    meant = {top: split_of(top, within=True) for top in tops}
    found = {split for split in meant.values() if split}
    # 'train' among others may be a class, and one word of many is no split, but not
    # where there are a train and a test.
    if not any(map(split_of, tops)) and not {"train"} < found:
        return {"train": _classes(path, "", names)}
    _refuse_unclear_splits(path, meant)
    layout = {}
    for split in SPLITS:
        for top in (top for top in tops if meant[top] == split):
            own = [name for name in names if name.startswith(top + "/")]
            layout[split] = _classes(path, top + "/", own)
    loose = [name for name in names if "/" not in name]
    if loose:
        raise _beside_subfolders(path, loose[0])
    return layout


def _refuse_unclear_splits(path: str, meant: Mapping[str, str | None]) -> None:
    """Refuses subfolders of which some are splits, and not each another one.

    Taken for classes, these would mix the test images into the training images.
    """
    by_split: dict[str | None, list[str]] = {}
    for top, split in meant.items():
        by_split.setdefault(split, []).append(top)
    named = [top for top, split in meant.items() if split]
    splits = listed([repr(top) for top in named], ", ")
    if None in by_split:
        raise DataError(
            f"{path} has a subfolder {by_split[None][0]!r} beside {splits}, named like"
            " splits: if these are splits, name each 'train', 'validation' or 'test',"
            f" and move others out of {path}; if they are classes, rename them, as in"
            f" {named[0] + 's'!r}"
        )
    for split, same in by_split.items():
        if len(same) > 1:
            raise DataError(
                f"{path} has the subfolders {same[0]!r} and {same[1]!r}, both of them"
                f" named like the {split} split: put their images into one"
            )
    if "train" not in by_split:
        raise DataError(
            f"{path} has a subfolder {splits}, but none named 'train': name the"
            " subfolder of the training images so"
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
                remedy = f"set data.path={inside} if these are, else {remedy}"
            raise DataError(
                f"{path} has images in {prefix}{top}/{first} and in"
                f" {prefix}{top}/{second}, and it is not clear which subfolders are the"
                f" classes: {remedy}"
            )
    return {name: None if name in loose else own[0] for name, own in parts.items()}


def _beside_subfolders(path: str, loose: str) -> DataError:
    return DataError(
        f"{path} holds images beside subfolders of images ({loose!r}): move all of them"
        " into subfolders, one for each class"
    )


def _read_images(
    path: str, names: Sequence[str], meaning: Meaning
) -> tuple[np.ndarray, list[str]]:
    """Returns the images [N, H, W, C] of files of one size and kind, and notes."""
    folder = expand_user(path)
    kinds: set[str] = set()
    converted: dict[str, list[str]] = {}
    for name in names:
        with _opened(folder / name) as image:
            kinds.add(_kind(image))
            if image.mode in _WITH_A_PROFILE:
                converted.setdefault(_FROM_A_PROFILE, []).append(name)
            elif image.mode != "I;16" and ";16" in str(image.tile):
                converted.setdefault(_FROM_16_BITS, []).append(name)
    # Palettes are brought to the kind of the others.
    kind = min(kinds - {"palette"}, default="RGB")
    images: np.ndarray = np.empty(0)
    first = ""
    for index, name in enumerate(names):
        file = folder / name
        with _opened(file) as image:
            own = _kind(image)
            pixels = _pixels(image, kind, file, meaning)
        height, width, channels = pixels.shape
        if own == "palette":
            own = "L" if channels == 1 else "RGB"
        if index == 0:
            first = f"{width}x{height} {own}"
            dtype = np.dtype(_DTYPES.get(kind, np.uint8))
            _refuse_too_large(len(names) * pixels.size * dtype.itemsize, path)
            images = np.empty((len(names), *pixels.shape), dtype)
        if f"{width}x{height} {own}" != first:
            raise DataError(
                f"{folder / names[0]} is {first} but {file} is {width}x{height} {own}:"
                f" bring all images to one size and mode{_as_in(first, own)}"
            )
        images[index] = pixels
    if kinds == {"palette"} and bool((images == images[..., :1]).all()):
        images = np.ascontiguousarray(images[..., :1])
    if kind == "I;16" and not meaning.states_a_range:
        found = ValueRange.of(images, path)
        raise DataError(
            f"{path} holds images of 16 bits, with values in {found}, which become"
            f" {MAX_LEVELS} levels: {range_remedy(found, images.dtype)}"
        )
    return images, [
        f"{path}: {counted(len(of), 'file')} ({of[0]!r}, for one) {how}"
        for how, of in converted.items()
    ]


def _kind(image: Any) -> str:
    """Returns what the pixels of an opened image are, apart from opacity."""
    if image.mode == "1" and "transparency" in image.info:
        return "L"
    return _KINDS.get(image.mode, "RGB")


def _as_in(first: str, own: str) -> str:
    """Returns the end of a message that says how to bring images to one kind."""
    size, wanted = first.split(" ")
    if own == wanted:
        width, height = size.split("x")
        return f", as in image.resize(({width}, {height}))"
    if {own, wanted} == {"I;16", "L"}:
        code = "Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))"
        return f", as in {code} if 65535 is white in those of 16 bits"
    if {own, wanted} & _DTYPES.keys():
        return ""  # Pillow would cut their values off.
    return f", as in image.convert({'RGB' if 'RGB' in (own, wanted) else 'L'!r})"


@contextlib.contextmanager
def _opened(file: pathlib.Path) -> Iterator[Any]:
    """Opens an image file; what cannot be read within is refused."""
    from PIL import Image

    try:
        # Of a path, Pillow maps the file into memory, and mixes up the rows of grey
        # TIFF files that are to be turned.
        with (
            open(file, "rb") as content,
            Image.open(content, formats=_IMAGE_FORMATS) as image,
        ):
            yield image
    except (DataError, MemoryError):
        raise
    except Exception as error:  # Damage comes as any exception.
        raise DataError(
            f"cannot read {file} ({one_line(error)}): repair or remove it"
        ) from error


def _pixels(image: Any, kind: str, file: pathlib.Path, meaning: Meaning) -> np.ndarray:
    """Returns the pixels [H, W, C] of an opened image, upright and opaque.

    Args:
        image: of Pillow.
        kind: of all images, to which a palette is brought where it can be.
        file: where it is read from.
        meaning: what the user says of it.
    """
    from PIL import ImageOps

    # But of a photograph with its preview or depth (MPO), the first is what it shows.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        suffix = ".tif" if image.format == "TIFF" else ".png"
        command = _SPLIT_PAGES.format(suffix=suffix, file=shlex.quote(str(file)))
        raise DataError(
            f"{file} holds {image.n_frames} pages or frames, and it is not said which"
            f" of them are images: write each to a file, as by `{command}`, and move"
            " this one out of the folder"
        )
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    is_palette = _kind(image) == "palette"
    has_opacity = "transparency" in image.info or image.mode in _WITH_OPACITY
    if has_opacity:
        image = image.convert("LA" if _kind(image) == "L" else "RGBA")
    elif is_palette or (image.mode not in _KINDS and image.mode != "RGB"):
        image = image.convert("RGB")
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    if has_opacity:
        pixels = without_opacity(pixels[None], 255, meaning.background, str(file))[0]
    if is_palette and kind == "L" and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., :1]
    return pixels


def folder_identity(path: str) -> list[Any]:
    """Returns what the content of `read_folder` depends on.

    Reading photographs would take longer than reading a cache. But the time of the last
    change of a file cannot be set, unlike that of its content.
    """
    folder = expand_user(path).absolute()
    changes = []
    for name, found in _walk(folder):
        row: list[Any] = [name]
        if found is not None:
            row += [found.st_mode, found.st_ino, found.st_size]
            row += [found.st_mtime_ns, found.st_ctime_ns]
        changes.append(row)
    return ["folder", str(folder), _digest(changes)]


def _image_names(path: str) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the image files in a folder, and notes on others."""
    from PIL import Image

    folder = expand_user(path)
    if not os.path.isdir(folder):
        hint = ", or set data.name='npz'" if path.endswith(".npz") else ""
        raise DataError(
            f"no folder {path!r}: data.path must name a folder of images{hint}"
        )
    known = Image.registered_extensions().items()
    suffixes = {suffix for suffix, kind in known if kind in _IMAGE_FORMATS}
    images: list[_File] = []
    others: list[_File] = []
    for file in _walk(folder):
        suffix = pathlib.PurePath(file.name).suffix.lower()
        (images if suffix in suffixes else others).append(file)
    if not images:
        raise DataError(f"{path} holds no images: add png, jpg or similar files")
    tops = {file.name.split("/")[0] for file in images}
    with os.scandir(folder) as entries:
        bare = {e.name for e in entries if e.is_dir() and not e.name.startswith(".")}
    for top in sorted(bare - tops):
        if split_of(top):
            raise DataError(
                f"{folder / top} is named like a split and holds no images: add them,"
                " or remove it"
            )
    for file in images:
        if not file.is_regular:
            raise DataError(
                f"{folder / file.name} is named as an image, but is no regular file"
                " that is there: remove it"
            )
    names = [file.name for file in images]
    notes = []
    left_out = [file.name for file in others]
    left_out += sorted(bare - tops - {name.split("/")[0] for name in left_out})
    if left_out:
        shown = listed([repr(name) for name in left_out], ", ")
        notes.append(f"{path} holds what is no image by its name: {shown}")
    stems: dict[str, str] = {}
    same = [
        (stems[stem], name)
        for name in names
        if stems.setdefault(stem := str(pathlib.PurePath(name).with_suffix("")), name)
        != name
    ]
    if same:
        first, second = same[0]
        notes.append(
            f"{path} holds {counted(len(same), 'file')} named like another but for the"
            f" suffix ({first!r} and {second!r}): if they are the same pictures, remove"
            " one of each, or test images may be training images too"
        )
    return names, notes


# --- common ---------------------------------------------------------------------------


def unknown_name(name: str, known: list[str]) -> DataError:
    """Returns the error that says which data set `name` may have been meant."""
    # In small letters, as all names are, so that one data set has one name: the sizes
    # of its splits and its place in the cache go by it.
    small = name[:_LONGEST_NAME].lower().replace("-", "_")
    # The data sets this project names come first, for a tie goes to the first.
    close = difflib.get_close_matches(
        small, KNOWN_NAMES, 1
    ) or difflib.get_close_matches(small, known, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return DataError(
        f"data.name {name!r} is an unknown data set: {hint}known are"
        f" {', '.join(KNOWN_NAMES)} and the image data sets of tensorflow-datasets"
    )


def _source(
    splits: Mapping[str, Split],
    names: Mapping[str, str],
    meaning: Meaning,
    class_names: Sequence[str] = (),
    *,
    levels: int | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Returns the source of images whose values may be any numbers.

    Args:
        splits: images [N, H, W, C] of any type, and labels.
        names: what messages call the images of each split.
        meaning: what the user says of the values.
        class_names: as files have them; numbers that are the labels are left out.
        levels: number of intensities, where the file says it.
        notes: as in `Source`.
    """
    arrays = {split: images for split, (images, _) in splits.items()}
    levels, read = to_levels(arrays, names, meaning, levels)
    shown = tuple(plain_name(one_line(name)) for name in class_names)
    if shown == tuple(map(str, range(len(shown)))):
        shown = ()
    return Source(
        levels,
        {split: Split(read[split], labels) for split, (_, labels) in splits.items()},
        shown,
        tuple(notes),
    )


def _refuse_too_large(num_bytes: int, where: str) -> None:
    """Refuses images that would fill the memory; cutting them takes as much again."""
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    if num_bytes > limit:
        raise DataError(
            f"{where} takes {num_bytes:,} bytes of memory, of at most {limit:,} (half"
            " of this machine's): use fewer or smaller images"
        )


class _File(NamedTuple):
    """What lies in a folder of data and is no folder.

    Attributes:
        name: relative to the folder.
        found: facts about it, or about what a link leads to; None if that is nothing.
    """

    name: str
    found: os.stat_result | None

    @property
    def is_regular(self) -> bool:
        """Whether it can be read without waiting, and to an end."""
        return self.found is not None and stat.S_ISREG(self.found.st_mode)


def _walk(folder: pathlib.Path, *, hidden: bool = False) -> list[_File]:
    """Returns all files below a folder, in the order of their names.

    Links are followed.

    Args:
        folder: the folder; one that is missing holds nothing.
        hidden: whether to list what is hidden, too.

    Raises:
        DataError: if links lead in a circle or to one folder twice, which could make
            endless or very many paths, or a folder cannot be read.
    """
    files = []
    seen: dict[tuple[int, int], pathlib.Path] = {}
    waiting = [""] if os.path.isdir(folder) else []
    while waiting:
        name = waiting.pop()
        path = folder / name
        try:
            found = os.stat(path)
            first = seen.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                link, other = (path, first) if path.is_symlink() else (first, path)
                raise DataError(
                    f"{link} is a link to {other}, which is read already: remove it"
                )
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith(".") and not hidden:
                        continue
                    inner = f"{name}/{entry.name}" if name else entry.name
                    facts = _facts(entry)
                    if facts is not None and stat.S_ISDIR(facts.st_mode):
                        waiting.append(inner)
                    else:
                        files.append(_File(inner, facts))
        except FileNotFoundError:  # Another process has removed or renamed it.
            continue
        except OSError as error:
            raise DataError(
                f"cannot read {path} ({error.strerror}): permit reading it, or remove"
                " it"
            ) from error
    return sorted(files, key=lambda file: file.name.split("/"))


def _facts(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Returns facts about an entry of a folder, or about what a link leads to."""
    try:
        return entry.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DataError(
            f"{entry.path} is a link that leads in a circle: remove it"
        ) from error


def _digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
