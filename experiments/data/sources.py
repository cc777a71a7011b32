"""Reading images: from scikit-learn, tensorflow-datasets and npz files.

A reader returns a `Source`: every image it found, as integers, in the splits it was
published in. Cutting a source into train, validation and test is the business of
`experiments.data.images`; `experiments.data.folders` reads folders of images. Whatever
is wrong with the images is refused here, in one line, because a wrong pixel found later
looks like a bad model.

The files may be a stranger's: nothing in them is run, only regular files are read, and
none that would fill the memory. Links are followed, for reading.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import pathlib
import re
import shlex
import types
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from experiments.data.names import SPLITS, in_natural_order, meant_array
from experiments.data.values import (
    MAX_LEVELS,
    UNSTATED,
    Meaning,
    to_levels,
    with_channels,
)
from experiments.files.paths import File, expand_user, walk
from experiments.files.reading import (
    MOST_BYTES,
    parse_json,
    read_json,
    refuse_too_large,
)
from experiments.messages.errors import DataError, one_line
from experiments.messages.wording import listed, plain_name

# The tensorflow-datasets which `experiments.prepare` can write without TensorFlow.
PREPARABLE = ("mnist", "fashion_mnist", "binarized_mnist")
KNOWN_NAMES = ("digits", *PREPARABLE, "npz", "folder")


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
    return make_source(splits, names, meaning, class_names, notes=notes)


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
    files = walk(_tfds_root(name, data_dir), hidden=True)
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
    return ["tfds", name, str(folder), version, digest_of(contents)]


def _tfds_root(name: str, data_dir: str) -> pathlib.Path:
    """Returns the folder of all versions of a data set, or of all its configs."""
    return tfds_folder(data_dir) / name.split(":")[0]


def _regular_files(root: pathlib.Path) -> list[File]:
    """Returns the files of a prepared data set; all that lies there must be one."""
    files = walk(root, hidden=True)
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
        refuse_too_large(size, str(path))
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
    refuse_too_large(len(records) * math.prod(first), where)
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
    refuse_too_large(sum(member.file_size for member in members), where)
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
        known = ("labels", "class_names", "images")
        part = next((name for name in known if name in member.filename), "array")
        raise DataError(
            f"{where} is one of the object arrays, which can run code when read: make"
            f" it one of numbers or text, as in np.array(list({part})), or leave it out"
        )
    if said > held:
        raise ValueError(f"{member.filename} must hold {said} bytes, but holds {held}")
    with archive.open(member) as content:
        return np.lib.format.read_array(content, allow_pickle=False)


_LONGEST_NAME = 100  # characters of a name that are compared with others

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
    return make_source(splits, names, meaning, class_names, levels=levels)


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
        use = "one column, such as labels[:, 0]"
        if (
            kind == "f" and (array != np.floor(array)).any()
        ):  # Scores or probabilities of classes.
            use = "the class of the highest, as labels.argmax(axis=1)"
        raise DataError(
            f"{where} is {array.dtype} of shape {array.shape}: labels are integers [N],"
            f" one for each image; use {use}"
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
        raise DataError(
            f"{where} has labels beyond 32 bits: make them names, in all splits, as in"
            " labels.astype(str)"
        )
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


# --- common ---------------------------------------------------------------------------


def unknown_name(name: str, known: Iterable[str]) -> DataError:
    """Returns the error that says which data set `name` may have been meant."""
    # The data sets this project names come first, for a tie goes to the first.
    meant = meant_data_set(name, KNOWN_NAMES) or meant_data_set(name, known)
    hint = f"did you mean {meant!r}? " if meant else ""
    return DataError(
        f"data.name {name!r} is an unknown data set: {hint}known are"
        f" {', '.join(KNOWN_NAMES)} and the image data sets of tensorflow-datasets"
    )


def meant_data_set(name: str, known: Iterable[str]) -> str:
    """Returns the known data set nearest to a name; '' where none is near."""
    # In small letters, as all names are, so that one data set has one name: the sizes
    # of its splits and its place in the cache go by it.
    small = name[:_LONGEST_NAME].lower().replace("-", "_")
    return next(iter(difflib.get_close_matches(small, known, 1)), "")


def make_source(
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


def digest_of(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, as a hexadecimal number."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
